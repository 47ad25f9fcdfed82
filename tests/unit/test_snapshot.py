# SPDX-License-Identifier: Apache-2.0
"""What leaves the model: copies that nobody changes, and what is reckoned from them."""

from __future__ import annotations

import pytest

from shadowwatch.event.abi import Batch
from shadowwatch.snapshot import RECLAIM, Cause
from shadowwatch.watch import Watch
from tests.unit.story import FACTS, Story
from tests.unit.test_captures import replayed


def test_a_copy_stays_as_it_was() -> None:
    """What was estimated is in it from the beginning, and neither more events nor anybody else changes it."""
    watch, story = Watch(FACTS, str, ["parents"]), Story()

    def look(page: int) -> None:
        story.events.clear()
        story.alloc(page)
        watch.take(Batch(story.ns, 0, 0, story.records()))

    look(1)
    (before,) = watch.snapshot().vms
    assert before.what_if.keys() == {"parents"}
    look(2)
    (after,) = watch.snapshot().vms
    assert (before.all_pages, after.all_pages) == (1, 2)
    with pytest.raises(AttributeError):
        before.what_if = {}  # type: ignore[misc]
    assert watch.snapshot().vms[0] is after


def test_figures_are_sums_of_what_was_counted() -> None:
    """Of a real run, in which all of them are above 0."""
    (vm,) = replayed("stock").snapshot().vms
    assert vm.all_zaps == sum(vm.zaps_by_cause.values()) > vm.reclaimed
    assert vm.reclaimed == sum(vm.zaps_by_cause.get(cause, 0) for cause in RECLAIM)
    quota = {level: zaps for (level, cause), zaps in vm.zaps.items() if cause == Cause.QUOTA}
    assert vm.reclaimed_directories == sum(zaps for level, zaps in quota.items() if level > 1) > 0
    assert 0 < vm.recently_parented <= vm.reclaimed_directories < vm.reclaimed
    assert vm.all_allocations == vm.all_zaps + vm.all_pages
