# SPDX-License-Identifier: Apache-2.0
"""The model of all VMs: whose event it is, what was lost, what cannot be read."""

from __future__ import annotations

import pytest

from shadowwatch.event.abi import SEQ_MASK, UNCOUNTED, Event, Flags, Kind, encode
from shadowwatch.mmu.model import KEEP_MOST, KEEP_NS, Model
from tests.unit.heard import KVM, Heard, grown, spt
from tests.unit.kernel import Kernel, role_of
from tests.unit.story import FUNCTIONS, ROLES, Story


def interleaved(*stories: Story) -> bytes:
    """The events of several VMs in turns."""
    longest = max(len(story.events) for story in stories)
    return b"".join(
        encode(story.events[turn]) for turn in range(longest) for story in stories if turn < len(story.events)
    )


def two_vms() -> tuple[Story, Story]:
    """Two VMs of one process."""
    stories = Story(kvm=0xFFFF_0000), Story(kvm=0xFFFF_8000)
    for story in stories:
        story.alloc(1, level=2)
        story.alloc(2)
        story.link(1, 0, 2)
    return stories


def test_events_go_to_the_vm_that_they_name() -> None:
    """Two VMs whose events alternate, even with equal page addresses, stay apart."""
    first, second = two_vms()
    second.zap(2)
    model = Model(ROLES, FUNCTIONS)
    model.feed(interleaved(first, second))
    assert model.vm(first.kvm).freeze().pages == {1: 1, 2: 1}
    assert model.vm(second.kvm).freeze().pages == {2: 1}
    assert model.received == 7


def test_a_gap_concerns_only_its_vm() -> None:
    """A lost event makes that VM inexact, by exactly the number lost, and no other."""
    first, second = two_vms()
    for page in range(10, 15):
        first.alloc(page)
    del first.events[3:6]
    model = Model(ROLES, FUNCTIONS)
    model.feed(interleaved(first, second))
    assert model.vm(first.kvm).freeze().lost == 3
    assert not model.vm(first.kvm).exact
    assert model.vm(second.kvm).freeze().lost == 0
    assert model.vm(second.kvm).exact


def test_losing_the_first_events_is_noticed() -> None:
    """Numbers begin at 1, so a VM whose first event has number 3 has lost two."""
    story, _ = two_vms()
    model = Model(ROLES, FUNCTIONS)
    model.feed(b"".join(map(encode, story.events[2:])))
    assert model.vm(story.kvm).freeze().lost == 2


def test_sequence_numbers_wrap() -> None:
    """After 4,294,967,295 comes 0, and nothing was lost."""
    story = Story()
    story.seq = 2**32 - 3
    for page in range(5):
        story.alloc(page)
    wrapped = [event._replace(seq=event.seq % 2**32) for event in story.events]
    model = Model(ROLES, FUNCTIONS)
    model.feed(encode(wrapped[0]))
    before = model.vm(story.kvm).lost
    model.feed(b"".join(map(encode, wrapped[1:])))
    assert model.vm(story.kvm).lost == before


def test_an_address_used_again_is_a_new_vm() -> None:
    """The struct kvm of an ended VM may be the next one's: its figures are not."""
    story, _ = two_vms()
    story.destroy()
    story.seq = 0
    story.used = 0
    story.alloc(9)
    model = Model(ROLES, FUNCTIONS)
    model.feed(story.records())
    ended, running = model.snapshot()
    assert (ended.ended, ended.pages, sum(ended.allocations.values())) == (True, {}, 2)
    assert (running.ended, running.pages, sum(running.allocations.values())) == (False, {1: 1}, 1)
    assert running.exact
    assert running.lost == 0


@pytest.mark.parametrize(("told", "left"), [(40, 0), (UNCOUNTED, None)])
def test_a_vm_that_has_ended_maps_nothing(told: int, left: int | None) -> None:
    """Its pages are gone, and what they mapped is: the sum over all VMs is that of the living."""
    story = Story()
    story.mapped = told
    story.alloc(1)
    model = Model(ROLES, FUNCTIONS)
    model.feed(story.records())
    assert model.snapshot()[0].mapped == (left if left is None else told)
    story.events.clear()
    story.destroy()
    model.feed(story.records())
    assert (model.snapshot()[0].ended, model.snapshot()[0].mapped) == (True, left)


def test_an_ended_vm_is_kept_for_a_while() -> None:
    """Its last figures stay five minutes for a scraper, then the memory is given back."""
    story, _ = two_vms()
    story.destroy()
    model = Model(ROLES, FUNCTIONS)
    model.feed(story.records())
    model.forget(story.ns + KEEP_NS)
    assert len(model.snapshot()) == 1
    model.forget(story.ns + KEEP_NS + 1)
    assert model.snapshot() == ()


def test_ended_vms_cannot_fill_the_memory() -> None:
    """A host on which thousands of VMs come and go keeps the last ones."""
    model = Model(ROLES, FUNCTIONS)
    for number in range(KEEP_MOST + 10):
        story = Story(kvm=0x1000 * (number + 1), pid=number)
        story.alloc(1)
        story.destroy()
        model.feed(story.records())
    assert [vm.pid for vm in model.snapshot()] == list(range(10, KEEP_MOST + 10))


def test_what_cannot_be_read_is_counted_and_passed_over() -> None:
    """An unknown kind, a VM that is none, a cut record: each is one undecodable, and no VM is made of them."""
    story, _ = two_vms()
    story.other(kind=77)
    story.alloc(3)
    model = Model(ROLES, FUNCTIONS)
    nobody = encode(Event(kvm=0, ns=1, seq=1, kind=Kind.ALLOC))
    unknown_vm = encode(Event(kvm=5, ns=1, seq=1, kind=200))
    model.feed(nobody + unknown_vm + story.records() + nobody[:-10])
    (vm,) = model.snapshot()
    assert model.undecodable == 4
    assert vm.lost == 0
    assert vm.pages == {1: 2, 2: 1}


def test_the_end_of_a_vm_never_seen_leaves_nothing() -> None:
    """Its figures are all 0, and it is not counted as running."""
    model = Model(ROLES, FUNCTIONS)
    model.feed(encode(Event(kvm=5, ns=1, seq=1, kind=Kind.DESTROY)))
    (vm,) = model.snapshot()
    assert vm.ended
    assert vm.allocations == {}
    assert vm.zaps == {}


def test_an_address_where_numbers_start_over_is_another_vm() -> None:
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
