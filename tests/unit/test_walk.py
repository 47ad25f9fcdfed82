# SPDX-License-Identifier: Apache-2.0
"""Walks over the kernel's own lists: what they tell the model, and audits by them, case by case."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shadowwatch.event.abi import SEQ_MASK, Event, Flags, Kind, encode
from shadowwatch.mmu.audit import Difference
from shadowwatch.mmu.model import Model
from shadowwatch.mmu.vm import Vm
from tests.unit.kernel import PAGE_SIZE, Kernel, KernelVm, role_of
from tests.unit.story import FUNCTIONS, ROLES, Story

KVM = 0xFFFF_8880_0000_0000


def spt(page: int) -> int:
    """The table of the page with this number."""
    return Story.spt(page)


def grown(vm: KernelVm, tables: int = 3) -> None:
    """Root 1, directory 2 beneath it, and tables 10, 11, 12 and so on beneath that."""
    vm.alloc(spt(1), 1, role_of(3))
    vm.alloc(spt(2), 2, role_of(2))
    vm.link(spt(1), spt(2))
    for number in range(tables):
        vm.alloc(spt(10 + number), 10 + number, role_of(1))
        vm.link(spt(2) + 8 * number, spt(10 + number))


class Heard:
    """A kernel with one VM that has grown, and the model that hears it."""

    def __init__(self, tables: int = 3, patched: bool = False, unheard: bool = False) -> None:
        self.kernel = Kernel(patched)
        self.vm = self.kernel.add(KVM)
        self.model = Model(ROLES, FUNCTIONS)
        self.number = 0
        grown(self.vm, tables)
        if unheard:
            self.kernel.ring.take()
        self.hear()

    def hear(self) -> Vm:
        """The model takes what there is."""
        self.model.feed(self.kernel.ring.take())
        return self.model.vm(KVM) if KVM in self.model.progress() else Vm(0, 0, ROLES, self.model._causes, None)

    def walk(self) -> Vm:
        """A whole walk without the lock, which must not be void, is heard."""
        self.number += 1
        first = True
        while True:
            flags = self.kernel.walk(KVM, self.number, first)
            first = False
            assert not flags & Flags.VOID
            if flags & Flags.LAST:
                return self.hear()

    def same(self) -> bool:
        """Whether the model is exact and is the kernel's list."""
        vm = self.model.vm(KVM)
        return vm.exact and [(page.spt, page.gfn, page.role, page.parents) for page in vm.tree()] == self.vm.tree()


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
    assert len(set(vm.pages[spt(10)].parents())) == 21


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
        assert heard.model.progress()[KVM].told == (5 // records + 1 if records < 64 else 1)


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
    assert heard.kernel.walk(KVM, 1, True) == Flags.FIRST
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
    heard.vm.step_records = 2
    heard.kernel.walk_locked(KVM, 1)
    heard.vm.reclaim()  # tells of 1 and 2
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
    assert vm.strangers == {}


# Audits.


def test_an_audit_of_a_right_model_finds_nothing() -> None:
    """Every place on the list is compared, none differs, and figures stay as they are."""
    heard = Heard()
    vm = heard.walk()
    assert (vm.audits, vm.audited, vm.differing) == (1, 5, 0)
    heard.walk()
    assert (vm.audits, vm.audited, vm.differing) == (2, 10, 0)
    assert vm.resyncs == 0
    assert heard.same()
    assert heard.model.difference is None


def test_events_go_on_while_an_audit_walks() -> None:
    """Zaps, allocations, links and writes between the steps go to both sides."""
    heard = Heard(tables=8, patched=True)
    heard.vm.step_records = 2
    heard.kernel.walk_locked(KVM, 1)
    for page in range(10, 14):
        heard.vm.reclaim()
        heard.vm.zap(spt(page))
        heard.vm.alloc(spt(page + 20), page + 20, role_of(1))
        heard.vm.link(spt(2) + 8 * page, spt(page + 20))
        heard.vm.move(spt(2))
        heard.vm.write(2 * PAGE_SIZE + 8 * page)
    for _ in range(10):
        heard.vm.reclaim()
    vm = heard.hear()
    assert (vm.audits, vm.audited, vm.differing) == (1, 10, 0)
    assert heard.same()


def _edge_gone(vm: KernelVm) -> None:
    del vm.edges[spt(2) + 8]


def _edge_more(vm: KernelVm) -> None:
    vm.edges[spt(2) + 800] = spt(11)


def _page_gone(vm: KernelVm) -> None:
    del vm.edges[spt(2) + 8]
    vm.order.remove(spt(11))
    del vm.pages[spt(11)]


def _role_changed(vm: KernelVm) -> None:
    vm.pages[spt(11)].role |= 0x80


def _gfn_changed(vm: KernelVm) -> None:
    vm.pages[spt(11)].gfn += 1


def _order_changed(vm: KernelVm) -> None:
    vm.order[1], vm.order[2] = vm.order[2], vm.order[1]


@pytest.mark.parametrize(
    ("astray", "differing"),
    [(_edge_gone, 1), (_edge_more, 1), (_role_changed, 1), (_gfn_changed, 1), (_page_gone, 4), (_order_changed, 2)],
)
def test_an_audit_finds_what_no_event_told(astray: Callable[[KernelVm], None], differing: int) -> None:
    """The first place where the two differ, counted from the newest page; then the model is as the kernel."""
    heard = Heard()  # 12, 11, 10, 2, 1
    heard.model.vm(KVM).name = "web1"
    before = {page.spt: page for page in heard.model.vm(KVM).tree()}
    astray(heard.vm)
    truth = heard.vm.tree()
    vm = heard.walk()
    assert (vm.audits, vm.audited, vm.differing) == (1, 5, differing)
    difference = heard.model.difference
    assert difference
    assert difference.vm == "web1"
    assert difference.position == 1
    assert difference.model
    assert difference.model.spt == spt(11)
    assert difference.model.parents == before[spt(11)].parents
    assert difference.kernel
    assert (difference.kernel.spt, difference.kernel.gfn, difference.kernel.role, difference.kernel.parents) == truth[1]
    assert str(difference).startswith(f"VM web1, position 1: model has spt {spt(11):#x} gfn 0xb role 0x1 parents 0x")
    assert heard.same()
    assert vm.resyncs == 1
    heard.walk()
    assert (vm.audits, vm.differing) == (2, differing)
    assert heard.model.difference is difference  # the first one stays


def test_a_list_that_is_longer_than_the_model_differs_at_its_end() -> None:
    """The place that the model has not is told as such."""
    heard = Heard()
    heard.vm.pages[spt(77)] = heard.vm.pages[spt(1)]
    heard.vm.order.append(spt(77))
    heard.walk()
    difference = heard.model.difference
    assert isinstance(difference, Difference)
    assert (difference.position, difference.model) == (5, None)
    assert "model has None, kernel has spt" in str(difference)
    assert heard.same()


def test_a_mended_model_still_knows_when_directories_were_parented() -> None:
    """Mending costs no figure: a directory that an event spoke of is still recently parented."""
    heard = Heard()
    _edge_gone(heard.vm)
    heard.walk()
    assert heard.model.difference
    heard.vm.zap(spt(2), "kvm_mmu_zap_oldest_mmu_pages")
    heard.hear()
    assert heard.model.snapshot()[0].recently_parented_zaps == {2: 1}


def test_an_audit_that_does_not_end_counts_nothing() -> None:
    """Void, or left when a VM ends."""
    heard = Heard()
    _edge_gone(heard.vm)
    heard.vm.step_records = 2
    heard.kernel.walk(KVM, 1, True)
    heard.vm.zap(spt(12))
    heard.kernel.walk(KVM, 1, False)
    vm = heard.hear()
    assert vm.audits == 0
    heard.kernel.walk(KVM, 2, True)
    heard.kernel.end(KVM)
    heard.model.feed(heard.kernel.ring.take())
    (ended,) = heard.model.snapshot()
    assert (ended.ended, ended.audits, ended.differing) == (True, 0, 0)
    assert heard.model.difference is None


def test_the_walk_after_a_loss_in_an_audit_makes_the_model_exact() -> None:
    """The audit is over with the loss; the next walk is no part of it."""
    heard = Heard(patched=True)
    heard.vm.step_records = 2
    heard.kernel.walk_locked(KVM, 1)
    heard.vm.reclaim()
    heard.kernel.ring.full = lambda: True
    heard.vm.zap(spt(12))
    heard.kernel.ring.full = lambda: False
    heard.vm.zap(spt(11))
    heard.hear()
    heard.number = 1
    vm = heard.walk()
    assert vm.exact
    assert heard.same()


# VMs that come and go unheard.


def test_an_address_whose_numbers_begin_anew_is_another_vm() -> None:
    """Its end was lost: the old VM's figures end, and nothing of the new one is counted as lost."""
    heard = Heard()
    heard.kernel.ring.full = lambda: True
    heard.kernel.end(KVM)
    heard.kernel.ring.full = lambda: False
    again = heard.kernel.add(KVM, pid=2)
    again.alloc(spt(5), 5, role_of(1))
    heard.model.feed(heard.kernel.ring.take())
    ended, running = heard.model.snapshot()
    assert (ended.pid, ended.ended, ended.lost, sum(ended.allocations.values())) == (1, True, 0, 5)
    assert (running.pid, running.ended, running.lost, running.pages, running.exact) == (2, False, 0, {1: 1}, True)


def test_a_reborn_vm_whose_first_events_were_lost_too_has_lost_those() -> None:
    """Numbers 1 and 2 of the new one, and none of the old one."""
    heard = Heard()
    heard.kernel.ring.full = lambda: True
    heard.kernel.end(KVM)
    again = heard.kernel.add(KVM, pid=2)
    again.alloc(spt(5), 5, role_of(1))
    again.alloc(spt(6), 6, role_of(1))
    heard.kernel.ring.full = lambda: False
    again.alloc(spt(7), 7, role_of(1))
    heard.model.feed(heard.kernel.ring.take())
    ended, running = heard.model.snapshot()
    assert (ended.lost, running.lost, running.exact) == (0, 2, False)
    assert (ended.pid, running.pid) == (1, 2)


def test_a_reborn_vm_that_is_heard_first_by_a_walk_is_another_vm() -> None:
    """A step's number that is below the last one says the same as an event's."""
    heard = Heard()
    heard.kernel.ring.full = lambda: True
    heard.kernel.end(KVM)
    heard.vm = heard.kernel.add(KVM, pid=2)
    heard.vm.alloc(spt(5), 5, role_of(1))
    heard.kernel.ring.full = lambda: False
    heard.walk()
    assert heard.same()
    ended, running = heard.model.snapshot()
    assert (ended.pid, ended.ended, running.pid) == (1, True, 2)
    assert ended.lost + running.lost <= 1 < SEQ_MASK


@pytest.mark.parametrize("vms_in_a_step", [1, 2, 256])
def test_a_walk_over_all_vms_tells_the_idle_and_ends_those_that_are_gone(vms_in_a_step: int) -> None:
    """Unheard VMs are there, one without pages is exact, and one that is not on the list has ended."""
    kernel, model = Kernel(), Model(ROLES, FUNCTIONS)
    kernel.vms_in_a_step = vms_in_a_step
    idle, empty, gone = kernel.add(0x1000, 1), kernel.add(0x2000, 2), kernel.add(0x3000, 3)
    for vm in (idle, gone):
        grown(vm)
        if vm is idle:
            kernel.ring.take()
    model.feed(kernel.ring.take())
    assert set(model.progress()) == {0x3000}
    kernel.ring.full = lambda: True
    kernel.end(0x3000)
    kernel.ring.full = lambda: False
    first = True
    while not kernel.vms(1, first) & Flags.LAST:
        first = False
    model.feed(kernel.ring.take())
    assert {kvm: progress.exact for kvm, progress in model.progress().items()} == {0x1000: False, 0x2000: True}
    assert {vm.pid: vm.ended for vm in model.snapshot()} == {1: False, 2: False, 3: True}
    empty.alloc(spt(1), 1, role_of(1))
    model.feed(kernel.ring.take())
    assert model.vm(0x2000).exact
    assert len(model.vm(0x2000).pages) == 1


def test_a_void_walk_over_all_vms_ends_none() -> None:
    """Those that it did not come to may well be there."""
    kernel, model = Kernel(), Model(ROLES, FUNCTIONS)
    for number in range(1, 5):
        kernel.add(0x1000 * number, number).alloc(spt(1), 1, role_of(1))
    model.feed(kernel.ring.take())
    room = 3
    kernel.ring.full = lambda: len(kernel.ring.events) >= 4 + room
    assert kernel.vms(1, True) & Flags.VOID
    model.feed(kernel.ring.take())
    assert len(model.progress()) == 4
    assert not any(vm.ended for vm in model.snapshot())


def test_a_vm_that_starts_while_all_are_walked_is_not_ended() -> None:
    """It was not there when the walk began, so that did not come to it."""
    kernel, model = Kernel(), Model(ROLES, FUNCTIONS)
    kernel.vms_in_a_step = 1
    kernel.add(0x1000, 1)
    kernel.vms(1, True)
    kernel.add(0x2000, 2).alloc(spt(1), 1, role_of(1))
    assert kernel.vms(1, False) & Flags.LAST
    model.feed(kernel.ring.take())
    assert set(model.progress()) == {0x1000, 0x2000}


# Reclaim order.


@pytest.mark.parametrize("newest", [True, False])
def test_reclaim_of_the_newest_pages_is_noticed(newest: bool) -> None:
    """Linux 5.9 took the newest; the order in which others take them does not look like that."""
    heard = Heard(tables=0)
    for number in range(400):
        heard.vm.alloc(spt(100 + number), number, role_of(1))
    heard.vm.reclaim(200, newest=newest)
    heard.hear()
    assert heard.model.snapshot()[0].newest_first == newest
    assert heard.model.newest_first() == (("",) if newest else ())
