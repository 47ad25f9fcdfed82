# SPDX-License-Identifier: Apache-2.0
"""The model of all VMs: whose event it is, what was lost, what cannot be read."""

from __future__ import annotations

from shadowwatch.event.abi import Event, Kind, encode
from shadowwatch.mmu.model import KEEP_MOST, KEEP_NS, Model
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
