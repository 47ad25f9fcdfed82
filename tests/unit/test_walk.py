# SPDX-License-Identifier: Apache-2.0
"""Walks over the kernel's own lists, and what they tell the model, case by case."""

from __future__ import annotations

import pytest

from shadowwatch.event.abi import Event, Flags, Kind, encode
from shadowwatch.simulate.simulator import Simulator
from tests.unit.heard import KVM, Heard, spt
from tests.unit.kernel import PAGE_SIZE, role_of
from tests.unit.story import FACTS, Story


@pytest.mark.parametrize("patched", [False, True])
def test_a_walk_tells_a_vm_from_before_the_start(patched: bool) -> None:
    """Pages that no event was heard of: order, gfns, roles, parents and children."""
    heard = Heard(patched=patched, unheard=True)
    vm = heard.walk()
    assert heard.same()
    assert len(vm.pages) == 5
    assert vm.lost == 0
    assert vm.limit == 64
    assert heard.model.snapshot()[0].pages == {1: 3, 2: 1, 3: 1}


def test_a_page_with_more_parents_is_told_with_each() -> None:
    """Which are those of struct pte_list_desc."""
    heard = Heard(unheard=True)
    for index in range(100, 120):
        heard.vm.link(spt(2) + 8 * index, spt(10))
    heard.kernel.ring.take()
    vm = heard.walk()
    assert heard.same()
    (page,) = (page for page in vm.pages.values() if page.spt == spt(10))
    assert len(set(vm.parents(page))) == 21


@pytest.mark.parametrize("records", [1, 2, 3, 4, 64])
def test_a_walk_in_steps_of_any_size_is_the_same(records: int) -> None:
    """Without the lock as with it."""
    for locked in (False, True):
        heard = Heard(unheard=True)
        heard.vm.step_records = records
        if locked:
            heard.kernel.walk_locked(KVM, 1)
            for _ in range(6):
                heard.vm.reclaim()
            heard.hear()
        else:
            heard.walk()
        assert heard.same()
        assert heard.model.progress()[KVM].steps == (5 // records + 1 if records < 64 else 1)


def test_the_page_under_the_cursor_may_go() -> None:
    """The walk goes on behind it: zapped by reclaim, whose first page it is."""
    heard = Heard(unheard=True)
    heard.vm.step_records = 1
    heard.kernel.walk_locked(KVM, 1)
    heard.vm.reclaim()  # tells of the oldest, page 1
    heard.vm.zap(spt(2))
    heard.vm.zap(spt(1))
    for _ in range(4):
        heard.vm.reclaim()
    heard.hear()
    assert heard.same()
    assert len(heard.model.vm(KVM).pages) == 3


def test_the_page_under_the_cursor_may_be_moved() -> None:
    """mmu_parent_walk() takes it to the head, where the walk comes to it at last."""
    heard = Heard(patched=True, unheard=True)
    heard.vm.step_records = 1
    heard.kernel.walk_locked(KVM, 1)
    heard.vm.reclaim()
    heard.vm.move(spt(2))
    heard.vm.move(spt(1))
    for _ in range(6):
        heard.vm.reclaim()
    heard.hear()
    assert heard.same()


def test_the_newest_page_under_the_cursor_may_be_moved() -> None:
    """It stays where it is, so the walk still has to come to it: the kernel's side must not step over it."""
    heard = Heard(patched=True, unheard=True)
    heard.vm.step_records = 4
    heard.kernel.walk_locked(KVM, 1)
    heard.vm.reclaim()  # tells of all but the newest
    heard.vm.move(spt(12))
    heard.vm.reclaim()
    heard.hear()
    assert heard.same()


def test_a_void_step_ends_a_walk() -> None:
    """Somebody changed the list meanwhile: the pages told are not taken for the list."""
    heard = Heard(unheard=True)
    heard.vm.step_records = 2
    assert heard.kernel.walk(KVM, 1, True) == Flags.FIRST | Flags.COUNTED
    heard.vm.zap(spt(12))
    assert heard.kernel.walk(KVM, 1, False) == Flags.VOID
    heard.hear()
    assert not heard.model.vm(KVM).exact
    heard.number = 1
    heard.walk()
    assert heard.same()


def test_a_full_ring_makes_a_step_void() -> None:
    """A walk of which a record is missing does not make the model exact."""
    for room in range(7):
        heard = Heard(unheard=True)
        left = room

        def full() -> bool:
            nonlocal left
            left -= 1
            return left < 0

        heard.kernel.ring.full = full
        flags = heard.kernel.walk(KVM, 1, True)
        heard.kernel.ring.full = lambda: False
        heard.hear()
        # A step and five pages, one parent in each: six records.
        assert (Flags.VOID in flags) == (room < 6)
        exact = KVM in heard.model.progress() and heard.model.vm(KVM).exact
        assert exact == (room >= 6)


def test_a_loss_shows_in_a_step_as_in_an_event() -> None:
    """A step has the number of the last event: what was lost before it is counted once."""
    heard = Heard()
    heard.kernel.ring.full = lambda: True
    heard.vm.zap(spt(10))
    heard.vm.zap(spt(11))
    heard.kernel.ring.full = lambda: False
    vm = heard.walk()
    assert (vm.lost, vm.resyncs) == (2, 1)
    assert heard.same()
    heard.vm.zap(spt(12))
    heard.hear()
    assert vm.lost == 2
    assert heard.same()


def test_a_lost_event_without_a_number_makes_a_gap() -> None:
    """The next number is skipped, and the model walks instead of keeping an spte that is gone."""
    heard = Heard()
    heard.kernel.ring.full = lambda: True
    heard.vm.write(2 * PAGE_SIZE)
    heard.kernel.ring.full = lambda: False
    heard.vm.reclaim()
    vm = heard.hear()
    assert (vm.lost, vm.exact) == (1, False)
    heard.walk()
    assert heard.same()


def test_an_event_that_a_void_step_speaks_of_too_early_is_not_lost() -> None:
    """Such a step read the number while another CPU was about to reserve its event, or before one that came first."""
    for number in (-1, 1):
        heard = Heard()
        seq = heard.vm.seq
        void = Event(kvm=KVM, ns=1, seq=seq + number, kind=Kind.STEP, walk=9, flags=Flags.FIRST | Flags.VOID)
        heard.model.feed(encode(void))
        heard.vm.zap(spt(10))
        vm = heard.hear()
        assert vm.lost == 0
        assert heard.same()


def test_a_guest_write_to_a_page_that_the_walk_has_yet_to_tell_counts() -> None:
    """The child was told with a parent spte that is cleared before the walk comes to the parent."""
    heard = Heard(tables=0, unheard=True)
    heard.vm.alloc(spt(3), 3, role_of(2))
    heard.vm.link(spt(3) + 8, spt(2))  # not as KVM would, but the levels do not matter here
    heard.kernel.ring.take()
    heard.vm.step_records = 4
    heard.kernel.walk_locked(KVM, 1)
    heard.vm.reclaim()  # tells of 1, and of 2 with both its parents
    heard.vm.write(3 * PAGE_SIZE + 8)
    heard.vm.reclaim()
    heard.hear()
    assert heard.same()


def test_an_spte_that_now_points_to_an_unknown_page_points_to_no_other() -> None:
    """While the model does not hold all pages it still must not keep an edge that is gone."""
    heard = Heard(tables=0)
    heard.kernel.ring.full = lambda: True
    heard.vm.alloc(spt(50), 50, role_of(1))  # never heard of
    heard.kernel.ring.full = lambda: False
    heard.vm.alloc(spt(3), 3, role_of(2))
    heard.vm.alloc(spt(10), 10, role_of(1))
    heard.vm.link(spt(3), spt(10))
    heard.vm.link(spt(3), spt(50))
    for page in (1, 2, 50):
        heard.vm.zap(spt(page))
    heard.vm.alloc(spt(11), 11, role_of(1))
    heard.hear()
    assert heard.same()


def test_what_an_inexact_model_does_not_know_is_not_strange() -> None:
    """Links, moves and zaps of pages from before the start are to be expected."""
    heard = Heard(patched=True, unheard=True)
    heard.vm.move(spt(2))
    heard.vm.link(spt(1) + 64, spt(2))
    heard.vm.zap(spt(10))
    heard.hear()
    (vm,) = heard.model.snapshot()
    assert not vm.exact
    assert vm.unknown_pages == {}


def test_a_walk_over_what_has_just_ended_makes_no_vm() -> None:
    """It was asked for before the end was heard; who has the address next is a VM as any other."""
    heard = Heard()
    heard.kernel.end(KVM)
    heard.hear()
    step = Event(kvm=KVM, ns=1, seq=heard.vm.seq, kind=Kind.STEP, walk=9, used=2, flags=Flags.FIRST | Flags.VOID)
    page = Event(kvm=KVM, ns=1, spt=spt(1), gfn=1, role=role_of(3), kind=Kind.PAGE, walk=9)
    parent = Event(kvm=KVM, ns=1, spt=spt(1), parent_pte=spt(2), kind=Kind.PARENT, walk=9)
    records = b"".join(map(encode, (step, page, parent)))
    heard.model.feed(records)
    assert heard.model.progress() == {}
    simulator = Simulator(FACTS, "stock")
    simulator.feed(records)
    assert simulator.estimates() == {}
    story = Story(kvm=KVM)
    story.alloc(1)
    heard.model.feed(records + story.records())
    assert heard.model.vm(KVM).exact
    simulator.feed(records + story.records())
    assert len(simulator.estimates()) == 1
