# SPDX-License-Identifier: Apache-2.0
"""`childless`: the oldest pages go first, but none that leads to others."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import ClassVar

from shadowwatch.simulate.page import SimulatedList, SimulatedPage
from shadowwatch.simulate.policies.stock import Stock

#: So many pages are passed over by a reclaim (MMU_RECLAIM_SPARED); then the oldest go.
SPARED = 256


class Childless(Stock):
    """As patches/ has it: pages that have parents and children are passed over."""

    name: ClassVar[str] = "childless"

    def candidates(self, pages: SimulatedList, wanted: int, now: int) -> Iterable[SimulatedPage]:
        """Look at the oldest pages as long as there are some that may go, then take whatever is oldest."""
        chosen: set[SimulatedPage] = set()
        spared = moved = self.moved_before()
        progress = True
        while progress:
            progress = moved > 0
            for page in list(islice(pages, min(max(0, len(pages) - moved), wanted + SPARED + len(chosen)))):
                if page in chosen or page.in_use:
                    continue
                accessed = self.was_accessed(page, now)
                if not accessed and not _is_on_a_path(page, chosen):
                    progress = True
                    chosen.add(page)
                    yield page
                    if along := _going_along(page, chosen):
                        # The list is another one now, so KVM starts over.
                        chosen |= along
                        break
                    continue
                spared += 1
                if spared > SPARED:
                    break
                if accessed:
                    progress = True
                    pages.move_to_end(page)
            moved = 0
            progress = progress and spared <= SPARED
        yield from (page for page in pages if page not in chosen)

    def moved_before(self) -> int:
        """How many pages the recorded kernel was seen to move to the head in this reclaim."""
        return 0

    def was_accessed(self, page: SimulatedPage, now: int) -> bool:
        """Whether a page gets a second chance; it is only asked once for each time that it was accessed."""
        return False


def _going_along(page: SimulatedPage, gone: set[SimulatedPage]) -> set[SimulatedPage]:
    """What goes with a page: what was recorded to, and nested pages that nothing else leads to."""
    along = {follower for follower in page.followers or () if follower.resident}
    waiting = [page]
    while waiting:
        for child in waiting.pop().children:
            if child.nested and child not in along and all(up in gone or up in along for up in child.directories()):
                along.add(child)
                waiting.append(child)
    return along - gone


def _is_on_a_path(page: SimulatedPage, gone: set[SimulatedPage]) -> bool:
    """Whether a page has parents and children, those that are gone left out."""
    return any(child not in gone for child in page.children) and any(
        parent not in gone for parent in page.directories()
    )
