# SPDX-License-Identifier: Apache-2.0
"""Whatever is lost and whenever a list is walked: a model that says it is exact is the kernel's list."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from shadowwatch.event.abi import Flags, Kind
from shadowwatch.mmu.model import Model
from shadowwatch.mmu.vm import Vm
from tests.unit.kernel import PAGE_SIZE, Kernel, KernelVm, role_of
from tests.unit.story import FUNCTIONS, GUEST_WRITE, RECLAIM, ROLES, Story
from tests.unit.test_counts import totals

KVM = 0xFFFF_8880_0000_0000
PAGES = st.integers(1, 14)
ENTRIES = st.integers(0, 2)

#: What happens: its name and what it is about.
Step = tuple[Any, ...]

STEPS: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("alloc"), PAGES, st.integers(0, 2), st.booleans()),
    st.tuples(st.just("alloc"), PAGES, st.integers(0, 2), st.just(False)),
    st.tuples(st.just("link"), st.integers(1, 8), ENTRIES, PAGES),
    st.tuples(st.just("link"), st.integers(1, 8), ENTRIES, st.integers(9, 14)),
    st.tuples(st.just("move"), PAGES),
    st.tuples(st.just("zap"), PAGES, st.sampled_from((RECLAIM, GUEST_WRITE))),
    st.tuples(st.just("write"), st.integers(0, 2), ENTRIES, st.integers(0, 7)),
    st.tuples(st.just("flush")),
    st.tuples(st.just("reclaim"), st.integers(0, 2)),
    st.tuples(st.just("lose"), st.integers(1, 3)),
    st.tuples(st.just("crowd"), st.booleans()),
    st.tuples(st.just("locked"), st.integers(1, 6)),
    st.tuples(st.just("begin"), st.integers(1, 6)),
    st.tuples(st.just("go on")),
)


#: A VM to begin with: pages, then links among them.
BORN: st.SearchStrategy[list[Step]] = st.builds(
    lambda order, links: [("alloc", page, page % 3, False) for page in order] + [("link", *link) for link in links],
    st.lists(PAGES, unique=True),
    st.lists(st.tuples(st.integers(1, 8), ENTRIES, PAGES), max_size=20),
)


def level_of(page: int) -> int:
    """Pages 1–3 are of level 3, 4–8 of level 2, the others tables."""
    return 3 if page < 4 else 2 if page < 9 else 1


def is_the_kernels(vm: Vm, kernel: KernelVm) -> None:
    """Assert that the model has the kernel's order, gfns, roles and parents, and edges with two ends."""
    tree = vm.tree()
    assert [(page.spt, page.gfn, page.role, page.parents) for page in tree] == kernel.tree()
    edges = {(pte & ~0xFFF, page.spt) for page in tree for pte in page.parents}
    assert edges == {(page.spt, child) for page in tree for child in page.children.values()}


class Play:
    """A kernel and a model that hears it, step by step."""

    def __init__(self, patched: bool) -> None:
        self.kernel = Kernel(patched)
        self.vm = self.kernel.add(KVM)
        self.model = Model(ROLES, FUNCTIONS)
        self.to_lose = 0
        self.number = 0
        self.unlocked = 0
        self.unheard = False
        self.crowded = False
        self.kernel.ring.full = self._full
        self.kernel.ring.crowded = lambda: self.crowded

    def _full(self) -> bool:
        if not self.to_lose:
            return False
        self.to_lose -= 1
        self.unheard = True
        return True

    def do(self, step: Step) -> None:
        """One thing happens, if it can."""
        vm = self.vm
        match step:
            case ("alloc", page, gfn, direct) if Story.spt(page) not in vm.pages:
                vm.alloc(Story.spt(page), gfn, role_of(level_of(page), bool(direct)))
            case ("link", parent, index, child) if level_of(parent) > level_of(child):
                if Story.spt(parent) in vm.pages and Story.spt(child) in vm.pages:
                    vm.link(Story.spt(parent) + 8 * index, Story.spt(child))
            case ("move", page) if Story.spt(page) in vm.pages and Story.spt(page) not in vm.obsolete and vm.patched:
                vm.move(Story.spt(page))
            case ("zap", page, caller) if Story.spt(page) in vm.pages:
                vm.zap(Story.spt(page), str(caller))
            case ("write", gfn, index, offset):
                vm.write(gfn * PAGE_SIZE + 8 * index + offset)
            case ("flush",):
                vm.flush()
            case ("reclaim", pages):
                vm.reclaim(pages)
            case ("lose", events):
                self.to_lose = events
            case ("crowd", crowded):
                self.crowded = bool(crowded)
            case ("locked", records):
                self.number += 1
                vm.step_records = records
                self.kernel.walk_locked(KVM, self.number)
            case ("begin", records):
                self.number += 1
                vm.step_records = records
                self._walk(True)
            case ("go on",) if self.unlocked:
                self._walk(False)

    def _walk(self, first: bool) -> None:
        if first:
            self.unlocked = self.number
        if self.kernel.walk(KVM, self.unlocked, first) & (Flags.VOID | Flags.LAST):
            self.unlocked = 0

    def hear(self) -> None:
        """The model takes what there is; if it then is exact and nothing is lost unheard, it must be the kernel's."""
        self.model.feed(self.kernel.ring.take())
        heard = self.model.progress().get(KVM)
        if not heard:
            return
        vm = self.model.vm(KVM)
        # A loss shows in the number of the next event, or of the next step.
        if self.unheard and vm.seq == self.vm.seq and not self.vm.skip:
            last = self.kernel.ring.events[-1]
            self.unheard = last.kind > Kind.FLUSH and not (last.kind >= Kind.STEP and last.seq == self.vm.seq)
        if vm.exact and not self.unheard and not self.vm.skip and not self.to_lose:
            is_the_kernels(vm, self.vm)


def played(steps: list[Step], patched: bool) -> Play:
    """The play after these steps, all checked on the way."""
    play = Play(patched)
    for step in steps:
        play.do(step)
        play.hear()
    return play


@given(BORN, st.lists(STEPS, max_size=60), st.booleans())
def test_an_exact_model_is_the_kernels_list(born: list[Step], steps: list[Step], patched: bool) -> None:
    """At every moment: order, gfn, role, parents; no audit differs, one whole walk makes it and its totals exact."""
    play = played(born + steps, patched)
    play.to_lose, play.crowded = 0, False
    play.vm.step_records = 3
    # What the ring had no room for shows by now.
    play.vm.reclaim()
    play.hear()
    assert play.model.difference is None
    was_exact = play.model.vm(KVM).exact
    audits = play.model.vm(KVM).audits
    _walk_to_the_end(play)
    play.hear()
    vm = play.model.vm(KVM)
    assert vm.exact
    is_the_kernels(vm, play.vm)
    assert play.model.difference is None
    assert vm.differing == 0
    allocations, zaps, reclaimed = totals(vm.freeze())
    assert [allocations, zaps] == play.vm.stat[:2]
    assert reclaimed >= play.vm.stat[2]
    if was_exact:
        assert vm.audits == audits + 1


def _walk_to_the_end(play: Play) -> None:
    play.number += 1
    play.unlocked = play.number
    play._walk(True)
    while play.unlocked:
        play._walk(False)


@given(BORN, st.lists(STEPS, max_size=30), st.integers(1, 6), st.booleans())
def test_events_between_the_steps_of_a_locked_walk_do_not_lead_it_astray(
    before: list[Step],
    between: list[Step],
    records: int,
    patched: bool,
) -> None:
    """A model that knows nothing is exact, and right, when a walk that the probes made has come to its end."""
    play = Play(patched)
    for step in before:
        play.do(step)
    play.kernel.ring.take()  # all that was unheard
    play.do(("locked", records))
    for step in between:
        if step[0] not in ("lose", "locked", "begin", "go on"):
            play.do(step)
            play.hear()
    play.crowded = False
    for _ in range(60):
        play.vm.reclaim()
        play.hear()
    vm = play.model.vm(KVM)
    assert vm.exact
    is_the_kernels(vm, play.vm)
    assert play.model.difference is None
