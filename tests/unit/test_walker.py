# SPDX-License-Identifier: Apache-2.0
"""When lists are walked: the start, losses, audits; with a kernel that holds lists and answers with records."""

from __future__ import annotations

import pytest

from shadowwatch.daemon.walker import PATIENCE_NS, TRIES, TURN_NS, Walker
from shadowwatch.event.abi import Batch, Flags
from shadowwatch.watch import Watch
from tests.unit.kernel import Kernel, KernelVm, facts, role_of
from tests.unit.story import Story

VMS = (0x1000, 0x2000, 0x3000)


class Scene:
    """A host with VMs of some pages each, a watch that has just begun, and its walker."""

    def __init__(self, room: int = 1000, vms: int = len(VMS), pages: int = 5) -> None:
        self.kernel = Kernel()
        for number in range(vms):
            vm = self.kernel.add(VMS[number], pid=number + 1)
            for page in range(pages):
                self.alloc(vm, page)
        self.kernel.ring.take()
        self.watch = Watch(facts(), str)
        self.now = 2 * 10**9
        self.drains = 0
        self.missed = 0
        self.walker = Walker(self.kernel, self.watch, room, self.drain)

    def alloc(self, vm: KernelVm, page: int) -> None:
        """A directory for every third page, else a table, linked where that can be."""
        level = 2 if page % 3 == 0 else 1
        vm.alloc(Story.spt(page), page, role_of(level))
        if level == 1:
            vm.link(Story.spt(page - page % 3) + 8 * (page % 3), Story.spt(page))

    def drain(self) -> None:
        """The watch takes what is in the ring."""
        self.drains += 1
        ring = self.kernel.ring
        self.watch.take(Batch(self.now, ring.lost, 0, ring.take(), self.missed))

    def turn(self, turns: int = 1) -> list[tuple[str, int]]:
        """So many looks at what is due, each with a look at the ring before; what the kernel was asked for."""
        self.kernel.asked.clear()
        for _ in range(turns):
            self.now += TURN_NS
            self.drain()
            self.walker.turn(self.now)
        self.drain()
        return self.kernel.asked[:]

    def exact(self) -> dict[int, bool]:
        """Which VMs are exact."""
        return {kvm: progress.exact for kvm, progress in self.watch.progress().items()}

    def audits(self) -> dict[int, int]:
        """How often each VM was audited."""
        return {kvm: progress.audits for kvm, progress in self.watch.progress().items()}

    def pages(self) -> dict[int, int]:
        """The pages of each VM as the watch has them, by its process."""
        return {vm.pid: sum(vm.pages.values()) for vm in self.watch.snapshot().vms if not vm.ended}


def test_at_the_start_every_vm_is_found_and_walked() -> None:
    """One turn, nothing heard before: idle VMs are there, whole, and exact."""
    scene = Scene()
    assert scene.turn() == [("vms", 0), *(("walk", kvm) for kvm in VMS)]
    assert scene.exact() == dict.fromkeys(VMS, True)
    assert scene.pages() == {1: 5, 2: 5, 3: 5}
    assert scene.audits() == dict.fromkeys(VMS, 0)


def test_when_nothing_is_due_nothing_is_asked() -> None:
    """Exact VMs are left in peace, and turns have their distance."""
    scene = Scene()
    scene.turn()
    assert scene.turn(20) == []
    scene.kernel.ring.lost += 1
    scene.drain()
    scene.walker.turn(scene.now + TURN_NS - 1)
    assert scene.kernel.asked == []
    scene.walker.turn(scene.now + TURN_NS)
    assert scene.kernel.asked == [("vms", 0)]


def test_a_list_that_does_not_fit_into_the_ring_is_walked_all_the_same() -> None:
    """The ring is emptied as often as so many steps fill it."""
    scene = Scene(room=2, vms=1, pages=50)
    scene.kernel.vms_by_address[VMS[0]].step_records = 3
    scene.turn()
    assert scene.exact() == {VMS[0]: True}
    assert scene.pages() == {1: 50}
    assert scene.drains > 17 // 2


def test_after_a_probe_was_missed_every_list_is_read_again() -> None:
    """No gap tells of which VM: none is exact until its list was read, and then they are what the kernel has."""
    scene = Scene()
    scene.turn()
    vm = scene.kernel.vms_by_address[VMS[1]]
    scene.kernel.ring.full = lambda: True
    vm.zap(Story.spt(1))
    scene.kernel.ring.full = lambda: False
    # It did not run, so it numbered nothing, and found no ring full.
    vm.seq -= 1
    scene.kernel.ring.lost = 0
    scene.drain()
    assert scene.pages() == {1: 5, 2: 5, 3: 5}
    scene.missed = 1
    scene.drain()
    assert scene.exact() == dict.fromkeys(VMS, False)
    assert scene.turn() == [("vms", 0), *(("walk", kvm) for kvm in VMS)]
    assert scene.exact() == dict.fromkeys(VMS, True)
    assert scene.pages() == {1: 5, 2: 4, 3: 5}
    now = scene.watch.snapshot()
    assert (now.missed, now.all_lost) == (1, 1)
    assert [(vm.lost, vm.resyncs, vm.unknown_pages) for vm in now.vms] == [(0, 1, {})] * len(VMS)
    assert scene.turn(20) == []


def test_a_walk_during_which_a_probe_was_missed_does_not_count() -> None:
    """What it told before that is not what the kernel has; an audit's is no difference either."""
    scene = Scene(room=1)
    scene.turn()
    scene.walker.audit()
    drain, scene.walker._drain = scene.walker._drain, lambda: None
    scene.now += TURN_NS
    scene.walker.turn(scene.now)
    scene.missed = 1
    drain()
    assert scene.audits() != dict.fromkeys(VMS, 0)
    assert scene.exact() == dict.fromkeys(VMS, False)
    scene.walker._drain = drain
    scene.turn(2)
    assert scene.exact() == dict.fromkeys(VMS, True)
    assert scene.watch.difference is None


def test_after_a_loss_the_vms_are_listed_and_the_one_concerned_is_walked() -> None:
    """Others stay exact and are not walked."""
    scene = Scene()
    scene.turn()
    vm = scene.kernel.vms_by_address[VMS[1]]
    scene.kernel.ring.full = lambda: True
    vm.zap(Story.spt(1))
    scene.kernel.ring.full = lambda: False
    vm.zap(Story.spt(2))
    assert scene.turn() == [("vms", 0), ("walk", VMS[1])]
    assert scene.exact() == dict.fromkeys(VMS, True)
    assert scene.pages() == {1: 5, 2: 3, 3: 5}
    assert scene.turn() == []


@pytest.mark.parametrize("busy", [False, True])
def test_a_loss_after_which_a_vm_rests_is_found_out(busy: bool) -> None:
    """No later number shows it: the list of all VMs tells the last one, or that nobody can; then it is walked."""
    scene = Scene()
    scene.turn()
    vm = scene.kernel.vms_by_address[VMS[1]]
    scene.kernel.ring.full = lambda: True
    vm.zap(Story.spt(1))
    scene.kernel.ring.full = lambda: False
    if busy:
        scene.kernel.busy.add(VMS[1])
    assert scene.turn()[:2] == [("vms", 0), ("walk", VMS[1])]
    scene.kernel.busy.clear()
    scene.turn(PATIENCE_NS // TURN_NS)
    assert scene.exact() == dict.fromkeys(VMS, True)
    assert scene.pages() == {1: 5, 2: 4, 3: 5}
    assert scene.turn(5) == []


def test_vms_that_ended_unheard_are_found_out() -> None:
    """The loss of the end is a loss, so the list of all VMs is walked."""
    scene = Scene()
    scene.turn()
    scene.kernel.ring.full = lambda: True
    scene.kernel.end(VMS[0])
    scene.kernel.ring.full = lambda: False
    scene.turn()
    assert set(scene.exact()) == set(VMS[1:])
    assert [vm.ended for vm in scene.watch.snapshot().vms] == [True, False, False]


def test_a_listing_that_was_void_is_made_again() -> None:
    """Until one comes to its end."""
    scene = Scene()
    scene.kernel.ring.full = lambda: True
    assert scene.turn() == [("vms", 0)]
    scene.kernel.ring.full = lambda: False
    assert scene.turn()[0] == ("vms", 0)
    assert scene.exact() == dict.fromkeys(VMS, True)
    # The records that were lost are a loss as any other.
    assert ("walk", VMS[0]) not in scene.turn()
    assert scene.turn() == []


def test_walks_wait_while_half_of_the_ring_is_full() -> None:
    """They leave the rest to events; nothing is lost, and all is walked as soon as there is room."""
    scene = Scene()
    scene.kernel.ring.crowded = lambda: True
    assert scene.turn() == [("vms", 0)]
    assert scene.exact() == {}
    scene.kernel.ring.crowded = lambda: False
    assert scene.turn() == [("vms", 0), *(("walk", kvm) for kvm in VMS)]
    scene.kernel.ring.crowded = lambda: True
    scene.walker.audit()
    scene.turn()
    assert scene.audits() == dict.fromkeys(VMS, 0)
    for vm in scene.kernel.vms_by_address.values():
        vm.reclaim()
    scene.kernel.ring.crowded = lambda: False
    for vm in scene.kernel.vms_by_address.values():
        vm.reclaim()
    scene.turn()
    assert scene.exact() == dict.fromkeys(VMS, True)
    assert scene.audits() == dict.fromkeys(VMS, 1)
    assert scene.kernel.ring.lost == 0


def test_a_busy_vm_is_left_to_the_probes_after_some_tries() -> None:
    """And to them alone while they make progress."""
    scene = Scene(vms=1, pages=20)
    scene.kernel.busy.add(VMS[0])
    vm = scene.kernel.vms_by_address[VMS[0]]
    vm.step_records = 4
    assert scene.turn() == [("vms", 0), *[("walk", VMS[0])] * TRIES, ("walk_locked", VMS[0])]
    # 20 records and more at 4 each; with a step each other turn it goes on far beyond the patience.
    turns_of_patience = PATIENCE_NS // TURN_NS
    for _ in range(20 // 4 + 3):
        assert scene.turn(turns_of_patience - 1) == []
        vm.reclaim()
    scene.drain()
    assert scene.exact() == {VMS[0]: True}
    assert scene.pages() == {1: 20}
    assert scene.turn(5) == []


def test_a_walk_left_to_probes_that_do_not_come_by_is_started_again() -> None:
    """When its patience is over; by then the VM may be idle, and is walked at once."""
    scene = Scene(vms=1)
    scene.kernel.busy.add(VMS[0])
    scene.turn()
    assert scene.turn(PATIENCE_NS // TURN_NS - 1) == []
    assert scene.turn() == [*[("walk", VMS[0])] * TRIES, ("walk_locked", VMS[0])]
    scene.kernel.busy.clear()
    assert scene.turn(PATIENCE_NS // TURN_NS) == [("walk", VMS[0])]
    assert scene.exact() == {VMS[0]: True}


def test_a_step_that_somebody_came_between_is_tried_again() -> None:
    """The second walk begins at the oldest page again and has a number of its own."""
    scene = Scene(vms=1, pages=9)
    vm = scene.kernel.vms_by_address[VMS[0]]
    vm.step_records = 2
    scenes = iter([lambda: vm.zap(Story.spt(8))])
    scene.kernel.meanwhile = lambda: next(scenes, lambda: None)()
    # Void at its second step, then whole: 8 pages and a second parent in none, and the end.
    assert scene.turn() == [("vms", 0), *[("walk", VMS[0])] * (2 + 5)]
    assert scene.exact() == {VMS[0]: True}
    assert scene.pages() == {1: 8}


def test_an_audit_asks_for_each_vm_once_and_then_is_over() -> None:
    """Each VM's count goes up by one."""
    scene = Scene()
    scene.turn()
    assert not scene.walker.auditing
    for number in (1, 2):
        scene.walker.audit()
        assert scene.walker.auditing
        assert scene.turn() == [("walk", kvm) for kvm in VMS]
        assert scene.audits() == dict.fromkeys(VMS, number)
        assert scene.turn() == []
        assert not scene.walker.auditing


def test_an_audit_of_a_busy_vm_ends_by_the_probes() -> None:
    """Or with the VM."""
    scene = Scene(vms=2)
    scene.turn()
    scene.kernel.busy.update(VMS)
    scene.walker.audit()
    scene.turn()
    assert scene.walker.auditing
    scene.kernel.vms_by_address[VMS[0]].reclaim()
    scene.turn()
    assert scene.audits() == {VMS[0]: 1, VMS[1]: 0}
    assert scene.walker.auditing
    scene.kernel.end(VMS[1])
    scene.turn()
    assert not scene.walker.auditing


@pytest.mark.parametrize("audits", [2, 3])
def test_audits_end_although_they_find_differences(audits: int) -> None:
    """Each one counts, the model is corrected by each, and the first difference stays the one that is told."""
    scene = Scene(vms=1)
    scene.turn()
    vm = scene.kernel.vms_by_address[VMS[0]]
    for number in range(audits):
        vm.edges.pop(sorted(vm.edges)[0])
        scene.walker.audit()
        scene.turn(2)
        assert scene.audits() == {VMS[0]: number + 1}
        assert not scene.walker.auditing
    (now,) = scene.watch.snapshot().vms
    assert (now.audits, now.audited, now.differing, now.resyncs) == (audits, 5 * audits, audits, audits)
    assert scene.watch.difference
    assert scene.watch.difference.vm == "1"


def test_a_vm_that_comes_during_an_audit_does_not_hold_it_up() -> None:
    """What is audited was there when the audit was asked for."""
    scene = Scene(vms=1)
    scene.turn()
    scene.walker.audit()
    scene.alloc(scene.kernel.add(VMS[1], pid=2), 0)
    scene.turn(2)
    assert not scene.walker.auditing
    assert scene.audits() == {VMS[0]: 1, VMS[1]: 0}
    assert scene.exact() == {VMS[0]: True, VMS[1]: True}


def test_the_kernel_of_these_tests_says_when_a_walk_is_over() -> None:
    """Of an empty list the first step is the last."""
    scene = Scene(vms=1, pages=0)
    assert scene.kernel.walk(VMS[0], 1, True) == Flags.FIRST | Flags.LAST | Flags.COUNTED
