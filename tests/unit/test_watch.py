# SPDX-License-Identifier: Apache-2.0
"""Names of VMs, as people and Prometheus are shown them."""

from __future__ import annotations

import pytest

from shadowwatch.control.wire import dumps, loads
from shadowwatch.event.abi import Batch
from shadowwatch.snapshot import Snapshot
from shadowwatch.watch import Watch
from tests.unit.story import FACTS, Story


def named(*names: str) -> list[str]:
    """The names that VMs get whose processes call them so."""
    watch = Watch(FACTS, lambda pid: names[pid])
    for number in range(len(names)):
        story = Story(kvm=0x1000 * (number + 1), pid=number)
        story.alloc(1)
        watch.take(Batch(story.ns, 0, 0, story.records()))
    return [vm.name for vm in watch.snapshot().vms]


def test_two_vms_of_one_name_are_told_apart() -> None:
    """The later one gets its pid, since both would be one time series."""
    assert named("web", "web", "db") == ["web", "web-1", "db"]


@pytest.mark.parametrize(
    ("called", "name"),
    [("web\x1b[2J", "web?[2J"), ("a\nb", "a?b"), ("\x07", "?"), ("", "0"), ("Büro 2", "Büro 2")],
)
def test_a_name_cannot_steer_a_terminal(called: str, name: str) -> None:
    """It comes from a command line: what is not printable is not sent on, and no name is the pid."""
    assert named(called) == [name]


def test_estimates_are_part_of_a_snapshot_and_cross_the_socket() -> None:
    """Those of the policies that were asked for; what a VM without new events had stays the same object."""
    watch = Watch(FACTS, str, ("parents", "stock"))
    story = Story()
    story.alloc(1, level=2)
    story.alloc(2)
    story.link(1, 0, 2)
    watch.take(Batch(story.ns, 0, 0, story.records()))
    detail = watch.detail("4711")
    assert detail
    (vm,) = watch.snapshot().vms
    assert detail.vm is watch.vm("4711") is vm
    assert list(vm.what_if) == ["parents", "stock"]
    assert {estimate.recorded_faults for estimate in vm.what_if.values()} == {1}
    assert watch.snapshot().vms[0] is vm
    assert loads(Snapshot, dumps(watch.snapshot())).vms == (vm,)
    assert not Watch(FACTS, str).snapshot().vms


def test_a_vm_that_ended_keeps_its_own_estimates() -> None:
    """Also when its process has another at the same address, which has had no page yet."""
    watch = Watch(FACTS, str, ("stock",))
    story = Story()
    story.alloc(1, level=2)
    story.alloc(2)
    story.link(1, 0, 2)
    story.destroy()
    watch.take(Batch(story.ns, 0, 0, story.records()))
    story.events.clear()
    story.seq = 0
    story.reclaim()
    watch.take(Batch(story.ns, 0, 0, story.records()))
    ended, living = watch.snapshot().vms
    assert (ended.what_if["stock"].recorded_faults, living.what_if["stock"].recorded_faults) == (1, 0)
