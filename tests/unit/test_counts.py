# SPDX-License-Identifier: Apache-2.0
"""Totals after a loss: what KVM counted and no event told."""

from __future__ import annotations

import pytest

from shadowwatch.mmu.counts import Counts, Miscount
from shadowwatch.mmu.model import Model
from shadowwatch.snapshot import UNKNOWN_LEVEL, Cause, VmSnapshot
from tests.unit.heard import KVM, Heard, grown, spt
from tests.unit.kernel import Kernel, role_of
from tests.unit.story import FUNCTIONS, GUEST_WRITE, ROLES
from tests.unit.test_walker import VMS, Scene


def totals(vm: VmSnapshot) -> tuple[int, int, int]:
    """Pages allocated, zapped, and zapped by reclaim, as KVM counts them."""
    return vm.all_allocations, vm.all_zaps + vm.root_zaps, vm.reclaimed


def storm(heard: Heard, pages: int) -> None:
    """So many pages come; a third of them is reclaimed, and two are zapped as the guest wrote to them."""
    for page in range(1000 + heard.vm.seq, 1000 + heard.vm.seq + pages):
        heard.vm.alloc(spt(page), page, role_of(1))
    heard.vm.reclaim(pages // 3)
    for _ in range(2):
        heard.vm.zap(heard.vm.order[0], GUEST_WRITE)


def lost(heard: Heard, pages: int) -> None:
    """The same while the ring is full; then the loss shows."""
    heard.kernel.ring.full = lambda: True
    storm(heard, pages)
    heard.kernel.ring.full = lambda: False
    heard.vm.reclaim()
    heard.hear()


def test_a_walk_counts_what_was_lost() -> None:
    """After it no total is below the kernel's; level and cause are unknown, but for reclaim."""
    heard = Heard()
    storm(heard, 30)
    before = heard.hear().freeze()
    lost(heard, 60)
    vm = heard.walk().freeze()
    assert list(totals(vm)) == heard.vm.stat == [95, 34, 30]
    assert vm.allocations == {UNKNOWN_LEVEL: 60, **before.allocations}
    unknown: dict[tuple[int, int], int] = {(UNKNOWN_LEVEL, Cause.RECLAIM): 20, (UNKNOWN_LEVEL, Cause.UNKNOWN): 2}
    assert dict(vm.zaps) == dict(before.zaps) | unknown
    assert heard.model.difference is None
    heard.walk()
    assert totals(heard.model.vm(KVM).freeze()) == totals(vm)  # once


def test_nothing_is_unknown_without_a_loss() -> None:
    """A walk and an audit of a VM that was heard from its first page on add nothing."""
    heard = Heard()
    storm(heard, 30)
    vm = heard.walk().freeze()
    assert list(totals(vm)) == heard.vm.stat
    assert UNKNOWN_LEVEL not in vm.allocations
    assert Cause.UNKNOWN not in vm.zaps_by_cause
    assert heard.model.difference is None


@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("first", ["alloc", "zap", "walk"])
def test_totals_begin_with_the_first_number(patched: bool, first: str) -> None:
    """Of a VM that ran before the start, KVM's counters are not 0: only what comes after counts, lost or not."""
    kernel = Kernel(patched)
    kernel.ring.listening = False
    vm = kernel.add(KVM)
    grown(vm)
    vm.reclaim(1)
    then = vm.stat[:]
    kernel.ring.listening = True
    model = Model(ROLES, FUNCTIONS)
    if first == "alloc":
        vm.alloc(spt(50), 50, role_of(1))
    elif first == "zap":
        vm.zap(spt(12), GUEST_WRITE)
    else:
        kernel.walk(KVM, 1, True)
    kernel.ring.full = lambda: True
    for page in range(60, 90):
        vm.alloc(spt(page), page, role_of(1))
    kernel.ring.full = lambda: False
    kernel.walk_locked(KVM, 2)
    vm.alloc(spt(91), 91, role_of(1))
    vm.reclaim()
    model.feed(kernel.ring.take())
    assert list(totals(model.vm(KVM).freeze())) == [now - before for now, before in zip(vm.stat, then, strict=True)]


def test_a_kernel_that_does_not_count_costs_only_that() -> None:
    """The model is exact again, and its totals are of what events told."""
    heard = Heard()
    heard.vm.counting = False
    lost(heard, 60)
    vm = heard.walk().freeze()
    assert vm.exact
    assert totals(vm) == (5, 0, 0)


def test_an_audit_says_what_no_event_told_although_none_is_known_to_be_lost() -> None:
    """A probe that did not run leaves no gap in the numbers, but KVM counted; the counts are an independent witness."""
    heard = Heard()
    heard.model.vm(KVM).name = "web1"
    heard.vm.stat[0] += 3
    heard.vm.stat[1] += 2
    vm = heard.walk().freeze()
    assert vm.audits == 1
    assert list(totals(vm))[:2] == heard.vm.stat[:2]
    assert heard.model.difference == Miscount("web1", Counts(3, 2, 0))
    assert str(heard.model.difference) == (
        "VM web1: KVM has counted +3 allocations and +2 zaps beside what events told"
    )


def test_a_loss_that_a_count_of_pages_repaired_is_no_difference() -> None:
    """When as many pages are known as KVM has, the model is exact without a walk; the totals are not, and get one."""
    scene = Scene(vms=1, pages=0)
    scene.turn()
    vm = scene.kernel.vms_by_address[VMS[0]]
    scene.kernel.ring.full = lambda: True
    for page in (0, 1):
        scene.alloc(vm, page)
    for page in (0, 1):
        vm.zap(spt(page))
    scene.kernel.ring.full = lambda: False
    scene.alloc(vm, 3)
    scene.drain()
    assert scene.watch._model.vm(VMS[0]).exact
    (now,) = scene.watch.snapshot().vms
    assert totals(now)[0] == 1
    assert ("walk", VMS[0]) in scene.turn()
    (now,) = scene.watch.snapshot().vms
    assert list(totals(now)) == vm.stat
    assert scene.watch.difference is None
    assert scene.turn() == []


def test_counters_that_somebody_cleared_take_nothing_away() -> None:
    """In debugfs root may set them to 0: totals go on from what they were."""
    heard = Heard()
    storm(heard, 30)
    before = totals(heard.walk().freeze())
    heard.vm.stat = [0, 0, 0]
    assert totals(heard.walk().freeze()) == before
    lost(heard, 60)
    vm = heard.walk().freeze()
    assert list(totals(vm)) == [then + now for then, now in zip(before, heard.vm.stat, strict=True)]


def test_the_end_of_a_vm_settles_its_totals() -> None:
    """Nobody can walk its list any more, so the event of its end has the counts."""
    heard = Heard()
    heard.kernel.ring.full = lambda: True
    storm(heard, 60)
    for page in reversed(heard.vm.order[:]):
        heard.vm.zap(page, "kvm_mmu_zap_all")
    heard.kernel.ring.full = lambda: False
    heard.kernel.end(KVM)
    heard.hear()
    (vm,) = heard.model.snapshot()
    assert vm.ended
    assert list(totals(vm)) == heard.vm.stat


def test_where_causes_are_hidden_a_lost_zap_by_reclaim_is_unknown() -> None:
    """What was heard of reclaim has the cause `other` there, so nothing tells how much of it was lost."""
    heard = Heard()
    heard.model = Model(ROLES)
    heard.model.feed(b"")
    heard.vm.alloc(spt(50), 50, role_of(1))
    lost(heard, 60)
    vm = heard.walk().freeze()
    assert totals(vm)[:2] == (heard.vm.stat[0], heard.vm.stat[1])
    assert Cause.RECLAIM not in vm.zaps_by_cause


def test_events_that_begin_midway_count_from_there() -> None:
    """A recording of a daemon that has run for long has the totals of its own time."""
    heard = Heard()
    heard.model = Model(ROLES, FUNCTIONS, midway=True)
    then = heard.vm.stat[:]
    heard.walk()
    lost(heard, 60)
    vm = heard.walk().freeze()
    assert list(totals(vm)) == [now - before for now, before in zip(heard.vm.stat, then, strict=True)]


def test_counts_of_64_bits_wrap() -> None:
    """The difference of two is small whatever they are."""
    assert Counts(2, (1 << 64) - 1, 5).less(Counts((1 << 64) - 1, 2, 5)) == (3, -3, 0)
