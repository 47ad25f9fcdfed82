# SPDX-License-Identifier: Apache-2.0
"""How long reclaim holds mmu_lock, from a story's own clock."""

from __future__ import annotations

import pytest

from shadowwatch.mmu.model import Model
from tests.unit.story import FUNCTIONS, GUEST_WRITE, PAGE_FAULT, ROLES, Story


def reclaiming() -> Story:
    """Ten pages; then reclaim begins at 1,000 ns and zaps two pages, 100 ns apart."""
    story = Story()
    for page in range(10):
        story.alloc(page)
    story.ns, story.step_ns = 900, 100
    story.reclaim(PAGE_FAULT)
    story.zap(0)
    story.zap(1)
    return story


def times(story: Story) -> tuple[int, int]:
    """At least, and at most."""
    model = Model(ROLES, FUNCTIONS)
    model.feed(story.records())
    return model.vm(story.kvm).freeze().reclaim_ns


@pytest.mark.parametrize("then", ["alloc", "link", "reclaim"])
def test_it_lasts_to_its_last_zap_or_to_what_comes_next(then: str) -> None:
    """Whatever that is; before it comes nothing is counted."""
    story = reclaiming()
    assert times(story) == (0, 0)
    story.ns += 400
    if then == "alloc":
        story.alloc(20)
    elif then == "link":
        story.link(2, 0, 3)
    else:
        story.reclaim(PAGE_FAULT)
    assert times(story) == (200, 700)


def test_zaps_for_other_causes_do_not_make_it_longer() -> None:
    """A guest's write comes after it, if it comes."""
    story = reclaiming()
    story.zap(2, caller=GUEST_WRITE)
    story.alloc(20)
    assert times(story) == (200, 400)


def test_one_that_is_cut_off_by_a_loss_is_not_counted() -> None:
    """Nobody knows when it ended; and clocks of processors that differ take nothing away."""
    story = reclaiming()
    story.seq += 5
    story.alloc(20)
    assert times(story) == (0, 0)
    story = reclaiming()
    story.ns = 100
    story.alloc(20)
    assert times(story) == (200, 0)
