# SPDX-License-Identifier: Apache-2.0
"""The reclaim policies of the patched KVM: each does what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

import pytest

from shadowwatch.capture.format import Reader
from shadowwatch.event.abi import Event, Kind, decode
from shadowwatch.mmu.page import SPT_MASK
from tests.kernel.watched import AUDITS, Watched, audited
from tests.lab.machine import Policy
from tests.lab.workload import Vmm, Workload

POLICIES: Sequence[Policy] = get_args(Policy)

#: Those under which pages move to the head when others are linked.
MOVING = {"parents", "mapped"}

#: Those under which reclaim passes over pages that lead to others.
SPARING = {"childless", "accessed"}

#: To how many pages the page fault handlers make room (KVM_REFILL_PAGES in asm/kvm_host.h).
REFILL = 25

#: Of a guest in long mode without LA57.
ROOT_LEVEL = 4

#: Where a role has the level, on every kernel.
LEVEL = 0xF


@pytest.fixture(scope="module", autouse=True)
def audits(patched: Watched) -> None:
    """An audit of each VM as soon as the one before has ended."""
    patched.lab.start_daemon(AUDITS.replace("0.3", "0.1"))


class SlowList:
    """One VM's list and tree as the patches describe them, in the slowest and plainest way."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.pages: list[int] = []  # newest first
        self.level: dict[int, int] = {}
        self.child: dict[int, int] = {}  # by parent pte
        self.put_at_head: dict[int, int] = {}  # how many pages had been allocated by then
        self.allocated = 0
        self.limit = 0

    def add(self, page: int, level: int, limit: int) -> None:
        """A new page is the newest."""
        self.allocated += 1
        self.limit = limit
        self.pages.insert(0, page)
        self.level[page] = level
        self.put_at_head[page] = self.allocated

    def remove(self, page: int) -> None:
        """What is zapped has neither parents nor children any more."""
        self.pages.remove(page)
        self.child = {pte: child for pte, child in self.child.items() if page not in (child, pte & SPT_MASK)}

    def move(self, page: int) -> None:
        """A page moves to the head."""
        self.pages.remove(page)
        self.pages.insert(0, page)
        self.put_at_head[page] = self.allocated

    def parents(self, page: int) -> set[int]:
        """The pages that have an spte for this one."""
        return {pte & SPT_MASK for pte, child in self.child.items() if child == page}

    def with_ancestors(self, page: int) -> set[int]:
        """The page and all above it that is in use: the root, which the guest's one vCPU has loaded, leads to it."""
        found, new = set(), {page}
        while new:
            found |= new
            above = {parent for one in new for parent in self.parents(one)}
            new = {one for one in above - found if self.level[one] == ROOT_LEVEL or self.parents(one)}
        return found

    def is_on_a_path(self, page: int) -> bool:
        """Whether it has parents and children."""
        return bool(self.parents(page)) and any(pte & SPT_MASK == page for pte in self.child)

    def follow(self, events: Iterator[Event]) -> tuple[list[int], int]:
        """Take part in a reclaim that passes over pages: what it zapped, and how many got a second chance."""
        zapped: list[int] = []
        wanted, moved = REFILL - max(self.limit - len(self.pages), 0), 0
        waiting, event = self.idle(), next(events)
        while len(zapped) < wanted:
            # It starts over with the oldest when it has looked at all pages but those that it has moved.
            waiting = waiting or self.idle()
            page = waiting.pop(0)
            if (event.kind, event.spt) == (Kind.MOVE, page):
                assert self.parents(page)
                self.move(page)
                moved += 1
                event = next(events)
            elif not self.is_on_a_path(page):
                assert (event.kind, event.spt) == (Kind.ZAP, page)
                self.remove(page)
                zapped.append(page)
                event = next(events) if len(zapped) < wanted else event
        return zapped, moved

    def is_due(self, page: int) -> bool:
        """Whether an eighth of the list has been allocated since the page was put at the head."""
        return 8 * (self.allocated - self.put_at_head[page]) >= len(self.pages)

    def idle(self) -> list[int]:
        """All pages but the root, the oldest first."""
        return [page for page in self.pages[::-1] if self.level[page] < ROOT_LEVEL]

    def chosen(self) -> tuple[int, list[int]]:
        """How many pages reclaim has to zap now, and which, in turn."""
        wanted = REFILL - max(self.limit - len(self.pages), 0)
        pages = self.idle()
        if self.policy == "newest":
            pages.reverse()
        elif self.policy == "leaf-first":
            window = max(wanted, min(4 * wanted, len(self.pages) // 2))
            leaves = [page for page in self.pages[::-1][:window] if self.level[page] == 1][:wanted]
            pages = leaves + [page for page in pages if page not in leaves]
        return wanted, pages[:wanted]


def recorded(watched: Watched, workload: Workload, kept: Path) -> list[Event]:
    """What happened to the pages of a workload's VM, from its beginning to the end of its one round."""
    lab = watched.lab
    recorder = lab.popen(f"exec shadowwatch record /srv/out/{kept.name}", stderr=subprocess.STDOUT)
    assert recorder.stdout
    assert "recording to" in recorder.stdout.readline()
    with Vmm(lab, workload) as vmm:
        reading = vmm.finished()
        watched.settled(workload.name, reading.counters["mmu_cache_miss"])
        lab.run("pkill -INT -f 'shadowwatch record'")
        said, _ = recorder.communicate(timeout=60)
    assert recorder.returncode == 0, said
    shutil.copy(lab.out / kept.name, kept)
    with kept.open("rb") as file:
        batches = list(Reader(file, kept.name).batches())
    events = (Event(*fields) for batch in batches for fields in decode(batch.records)[0])
    return [event for event in events if event.pid == reading.pid and event.kind < Kind.DESTROY]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_moves_and_what_goes_is_what_the_policy_says(patched: Watched, tmp_path: Path, policy: Policy) -> None:
    """Each move, and each page that reclaim zaps, is the one that a slow reading of the patches says, in its turn."""
    patched.lab.policy(policy)
    # With 80 pages some reclaims under `leaf-first` find enough pages of level 1, and some do not.
    workload = Workload(f"order-{policy}", accesses=6_000, touched=16, pages=80)
    events = recorded(patched, workload, tmp_path / "order.capture")
    truth = SlowList(policy)
    due: set[int] = set()  # to move
    links = mappings = second_chances = not_the_oldest = with_directories = without = 0
    remaining = iter(events)
    for event in remaining:
        assert event.kind == Kind.MOVE or not due
        if event.kind == Kind.ALLOC:
            truth.add(event.spt, event.role & LEVEL, event.limit)
        elif event.kind == Kind.LINK:
            truth.child[event.parent_pte] = event.spt
            if policy in MOVING:
                links += 1
                due = truth.with_ancestors(event.parent_pte & SPT_MASK)
        elif event.kind == Kind.MOVE:
            if not due:
                assert policy == "mapped"
                assert truth.is_due(event.spt)
                mappings += 1
                due = truth.with_ancestors(event.spt)
            assert event.spt == min(due, key=truth.level.__getitem__)
            due.remove(event.spt)
            truth.move(event.spt)
        elif event.kind == Kind.RECLAIM:
            idle = truth.idle()
            if policy in SPARING:
                zapped, moved = truth.follow(remaining)
                second_chances += moved
            else:
                wanted, chosen = truth.chosen()
                zapped = [zap.spt for zap in islice(remaining, wanted) if zap.kind == Kind.ZAP]
                assert zapped == chosen
                for page in zapped:
                    truth.remove(page)
            not_the_oldest += sorted(zapped) != sorted(idle[: len(zapped)])
            directories = sum(truth.level[page] > 1 for page in zapped)
            with_directories += directories > 0
            without += not directories
        else:
            assert event.kind == Kind.UNLINK, event  # of what is no directory here
    assert with_directories > 10 or policy in SPARING
    assert (links > 0) == (policy in MOVING)
    assert (mappings > 0) == (policy == "mapped")
    assert (second_chances > 10) == (policy == "accessed")
    assert (not_the_oldest > 0) == (policy in {"leaf-first", "newest", *SPARING})
    if policy in {"leaf-first", *SPARING}:
        assert without > 10


def tree(watched: Watched, vm: str) -> list[tuple[int, int]]:
    """(page, level) of a VM's list, the newest first, once an audit has found it to be the kernel's."""
    audited(watched, vm)
    pages = json.loads(watched.lab.run(f"shadowwatch tree {vm} --format json").stdout)["pages"]
    return [(page["spt"], page["level"]) for page in pages]


def test_a_table_moves_up_when_a_page_of_it_is_mapped_again(patched: Watched) -> None:
    """Under `mapped`, once, with all above it, and not again before an eighth of the list has been allocated."""
    patched.lab.policy("mapped")
    # So few accesses that each table is touched once, and room for all of them.
    with Vmm(patched.lab, Workload("again", "sequential", accesses=128, pages=256)) as vmm:
        mapped = vmm.finished().counters["pages_4k"]
        before = tree(patched, "again")
        steps: list[tuple[int, Policy, bool]] = [(100, "mapped", True), (200, "mapped", False), (300, "parents", False)]
        for page, policy, moves in steps:
            patched.lab.policy(policy)
            assert vmm.do(f"read {page}").counters["pages_4k"] > mapped
            mapped = vmm.counters()["pages_4k"]
            after = tree(patched, "again")
            if moves:
                path = after[:ROOT_LEVEL]
                assert [level for _, level in path] == [4, 3, 2, 1]
                assert before.index(path[-1]) > len(before) / 2
                assert after[ROOT_LEVEL:] == [one for one in before if one not in path]
            else:
                assert after == before
            before = after


def test_a_walk_looks_at_64_parents(patched: Watched) -> None:
    """Of two directories that point to a table 600 times, the one moves up by which its last 64 parents are."""
    patched.lab.policy("stock")
    with Vmm(patched.lab, Workload("many", "sequential", directories=2, tables=60, accesses=120, pages=256)) as vmm:
        vmm.finished()
        vmm.do("alias 600")
        before = tree(patched, "many")
        patched.lab.policy("mapped")
        vmm.do("read 100")
        after = tree(patched, "many")
    path = after[:ROOT_LEVEL]
    assert [level for _, level in path] == [4, 3, 2, 1]
    assert after[ROOT_LEVEL:] == [page for page in before if page not in path]
