# SPDX-License-Identifier: Apache-2.0
"""Requests in shared memory: what is written is where the C struct has it."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowwatch.event.abi import REQUEST_FIELDS, Flags, Want
from shadowwatch.event.request import Requests
from tests.unit.test_abi import c_program_says


class Shared:
    """The map's memory, read and written by the C compiler's offsets."""

    def __init__(self, tmp_path: Path) -> None:
        self.fd = os.memfd_create("requests")
        os.truncate(self.fd, mmap.PAGESIZE)
        self.memory = mmap.mmap(self.fd, 0)
        lines = "".join(
            f'printf("{name} %zu %zu\\n", offsetof(struct shadowwatch_request, {name}),'
            f" sizeof(((struct shadowwatch_request *)0)->{name}));"
            for name, _ in REQUEST_FIELDS
        )
        said = c_program_says(tmp_path, lines)
        self.places = {name: (int(at), int(size)) for name, at, size in map(str.split, said)}

    def __getitem__(self, name: str) -> int:
        at, size = self.places[name]
        return int.from_bytes(self.memory[at : at + size], "little")

    def __setitem__(self, name: str, value: int) -> None:
        at, size = self.places[name]
        self.memory[at : at + size] = value.to_bytes(size, "little")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Shared]:
    """A request of zeros."""
    made = Shared(tmp_path)
    yield made
    os.close(made.fd)


def test_each_field_is_where_the_struct_has_it(shared: Shared) -> None:
    """After a request the words that it wrote are in their places, and no byte beside them."""
    requests = Requests(shared.fd)
    shared["place.next"] = 0x1234_5678_9ABC_DEF0
    shared["place.parents"] = 0x0FED_CBA9_8765_4321
    shared["place.desc"] = 0x0123_4567_89AB_CDEF
    shared["seq"] = 0xAAAA_AAAA
    requests.walk(0xFFFF_8880_0123_4567, 0x8765_4321, first=False)
    expected = {
        "kvm": 0xFFFF_8880_0123_4567,
        "place.next": 0x1234_5678_9ABC_DEF0,
        "place.parents": 0x0FED_CBA9_8765_4321,
        "place.desc": 0x0123_4567_89AB_CDEF,
        "seq": 0xAAAA_AAAA,
        "walk": 0x8765_4321,
        "want": Want.NOTHING,
        "owner": 0,
        "flags": Flags.VOID,
        "listening": 1,
    }
    assert {name: shared[name] for name in shared.places} == expected
    size = max(at + length for at, length in shared.places.values())
    assert shared.memory[size:] == bytes(mmap.PAGESIZE - size)


@pytest.mark.parametrize(("first", "cursor"), [(True, 0), (False, 99)])
def test_the_first_step_begins_and_the_next_go_on(shared: Shared, first: bool, cursor: int) -> None:
    """The cursor is the kernel's, but for the first step's."""
    requests = Requests(shared.fd)
    shared["place.next"] = 99
    requests.vms(7, first)
    assert (shared["place.next"], shared["walk"], shared["kvm"]) == (cursor, 7, 0)


def test_a_request_that_nobody_hears_is_void(shared: Shared) -> None:
    """Without the probe the flags stay as they were put, and are no old answer."""
    requests = Requests(shared.fd)
    shared["flags"] = Flags.FIRST | Flags.LAST
    assert requests.walk(1, 1, True) == Flags.VOID
    assert requests.vms(1, True) == Flags.VOID
    assert not requests.heard
    shared["owner"] = os.getpid()
    assert requests.heard


def test_a_probe_that_was_passed_over_is_asked_again(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other BPF on the processor keeps it from running now and then, and is no reason to do without walks."""
    calls: list[int] = []

    def passed_over(pid: int) -> float:
        calls.append(shared["want"])
        if len(calls) == 4:
            shared["owner"] = os.getpid()
        return 0.0

    monkeypatch.setattr(os, "sched_rr_get_interval", passed_over)
    requests = Requests(shared.fd)
    assert requests.heard
    assert calls == [Want.OWN] * 4
    assert requests.heard
    assert len(calls) == 4


def test_what_is_wanted_is_there_during_the_call_alone(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The call is sched_rr_get_interval(2), which has the probe on it: here its place is taken, to look."""
    during: list[tuple[int, int, int, int]] = []
    call = os.sched_rr_get_interval

    def looked_at(pid: int) -> float:
        during.append((shared["want"], shared["kvm"], shared["walk"], shared["place.next"]))
        shared["flags"] = Flags.LAST
        return call(pid)

    monkeypatch.setattr(os, "sched_rr_get_interval", looked_at)
    requests = Requests(shared.fd)
    shared["place.next"] = 5
    assert requests.vms(2, first=False) == Flags.LAST
    assert requests.walk(0x1000, 3, first=False) == Flags.LAST
    requests.walk_locked(0x2000, 4)
    assert during == [
        (Want.OWN, 0, 0, 0),
        (Want.VMS, 0, 2, 5),
        (Want.WALK, 0x1000, 3, 5),
        (Want.WALK_LOCKED, 0x2000, 4, 0),
    ]
    assert shared["want"] == Want.NOTHING


def test_the_probe_is_on_the_call_that_is_made() -> None:
    """The symbol in the plan and the function in Python are one system call."""
    from shadowwatch.probe.plan import POINTS

    (hook,) = next(point.hooks for point in POINTS if point.name == "walk")
    called = re.findall(r"os\.(sched_\w+)\(", Path(Requests.__init__.__code__.co_filename).read_text())
    assert {f"__x64_sys_{name}" for name in called} == {hook.target}
