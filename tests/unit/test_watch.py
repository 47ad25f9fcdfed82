# SPDX-License-Identifier: Apache-2.0
"""Names of VMs, as people and Prometheus are shown them."""

from __future__ import annotations

import pytest

from shadowwatch.event.abi import Batch
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
