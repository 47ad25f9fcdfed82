# SPDX-License-Identifier: Apache-2.0
"""Whoever fills the ring loses first: bpf/share.h, compiled as it is, on an imagined ring."""

from __future__ import annotations

import ctypes
import subprocess
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowwatch.event.abi import RECORD
from shadowwatch.probe.attach import source_folder

#: SHADOWWATCH_SHARE.
SHARE = 4

#: What a ring of so many bytes holds.
SIZE = 1 << 18
ROOM = SIZE // RECORD.size


class Share(ctypes.Structure):
    """struct shadowwatch_share."""

    _fields_ = [
        ("mark", ctypes.c_uint64),
        *((name, ctypes.c_uint32) for name in ("made", "marked", "read", "next")),
    ]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The two functions of the header, for this machine."""
    folder = tmp_path_factory.mktemp("share")
    (folder / "share.c").write_text(
        '#include "share.h"\n'
        "int due(struct shadowwatch_share *share) { return shadowwatch_share_due(share); }\n"
        "int may_put(struct shadowwatch_share *share, __u64 consumed, __u64 produced, __u64 size)\n"
        "{ return shadowwatch_may_put(share, consumed, produced, size); }\n"
    )
    command = ["gcc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{source_folder()}"]
    subprocess.run([*command, "-o", folder / "share.so", folder / "share.c"], check=True)
    library = ctypes.CDLL(str(folder / "share.so"))
    library.may_put.argtypes = [ctypes.c_void_p, *[ctypes.c_uint64] * 3]
    return library


class Shared:
    """A ring that VMs share, as the kernel keeps one: positions in bytes, and whose record is where."""

    def __init__(self, library: ctypes.CDLL, size: int = SIZE, begun: int = 0) -> None:
        self._library = library
        self._size = size
        self._records: deque[str] = deque()
        self._consumed = 0
        self._begun = begun
        self.shares: dict[str, Share] = {}
        self.lost: Counter[str] = Counter()

    @property
    def waiting(self) -> Counter[str]:
        """Each VM's records that were not read yet."""
        return Counter(self._records)

    def put(self, vm: str) -> bool:
        """As reserve_of() does in bpf/mmu.bpf.c."""
        share = self.shares.setdefault(vm, Share(0, *[self._begun] * 4))
        produced = self._consumed + len(self._records) * RECORD.size
        due = self._library.due(ctypes.byref(share))
        may = not due or self._library.may_put(ctypes.byref(share), self._consumed, produced, self._size)
        if not may or produced + RECORD.size - self._consumed > self._size:
            self.lost[vm] += 1
            return False
        self._records.append(vm)
        share.made = (share.made + 1) & 0xFFFF_FFFF
        return True

    def read(self, records: int) -> None:
        """The reader takes so many, or all that there are."""
        for _ in range(min(records, len(self._records))):
            self._records.popleft()
            self._consumed += RECORD.size


@pytest.mark.parametrize("stormers", [1, 2, 5, 20])
@pytest.mark.parametrize("begun", [0, (1 << 32) - 100])
def test_stormers_come_to_equal_shares_and_leave_one(library: ctypes.CDLL, stormers: int, begun: int) -> None:
    """With a reader that is stopped; also while their counts go round."""
    ring = Shared(library, begun=begun)
    storming = [f"storm-{number}" for number in range(stormers)]
    for _ in range(2 * ROOM // stormers):
        for vm in storming:
            ring.put(vm)
    each = SHARE * ROOM / (1 + SHARE * stormers)
    assert set(ring.lost) == set(storming)
    for vm in storming:
        assert abs(ring.waiting[vm] - each) <= SHARE
    # VMs that come now find what is left, whatever the stormers go on to ask for.
    quiet = [f"quiet-{number}" for number in range(20)]
    left = ROOM - ring.waiting.total()
    for _ in range(left * 9 // 10 // len(quiet)):
        for vm in [*quiet, *storming]:
            ring.put(vm)
    assert set(ring.lost) == set(storming)
    assert min(ring.waiting[vm] for vm in quiet) > 0


def test_nothing_is_refused_while_the_ring_is_not_fuller_than_one_may_make_it(library: ctypes.CDLL) -> None:
    """One VM alone may have four fifths of it waiting, again and again, however the reader goes about it."""
    ring = Shared(library)
    for _ in range(10):
        for _ in range(2 * ROOM // 5):
            assert ring.put("alone")
        ring.read(ROOM // 5)
        for _ in range(ROOM // 5):
            assert ring.put("alone")
        ring.read(2 * ROOM // 5)
    assert not ring.lost


def test_a_reader_that_is_always_behind_costs_only_the_stormer(library: ctypes.CDLL) -> None:
    """What a VM put long ago does not count against it although it never has nothing waiting."""
    ring = Shared(library)
    for moment in range(20 * ROOM):
        for _ in range(4):
            ring.put("storm")
        if not moment % 16:
            ring.put("steady")
        ring.read(1)
        assert moment < 16 * ROOM or ring.waiting["steady"] > 0
    assert ring.lost["storm"] > 10 * ROOM
    assert ring.lost["steady"] == 0
    assert ring.shares["steady"].made > ROOM


def test_whoever_lost_is_heard_again_as_soon_as_there_is_room(library: ctypes.CDLL) -> None:
    """Lost events are not waiting."""
    ring = Shared(library)
    for _ in range(5 * ROOM):
        ring.put("storm")
    ring.read(ROOM)
    ring.lost.clear()
    for _ in range(ROOM // 2):
        assert ring.put("storm")


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(1, 60), st.integers(0, 90)), max_size=40))
def test_what_waits_is_never_taken_for_less(library: ctypes.CDLL, turns: list[tuple[str, int, int]]) -> None:
    """However VMs and reader take turns."""
    ring = Shared(library, size=128 * RECORD.size)
    for vm, records, read in turns:
        for _ in range(records):
            ring.put(vm)
            share = ring.shares[vm]
            assert ring.waiting[vm] <= share.made - share.read
        ring.read(read)
