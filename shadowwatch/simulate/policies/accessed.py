# SPDX-License-Identifier: Apache-2.0
"""`accessed`: as `childless`, and pages that the CPU has gone through get a second chance."""

from __future__ import annotations

from typing import ClassVar

from shadowwatch.simulate.page import SimulatedList, SimulatedPage
from shadowwatch.simulate.policies.childless import Childless


class Accessed(Childless):
    """As patches/ has it, where it shows: events tell of faults, and of the moves that accessed bits lead to.

    So from what another policy did, a page counts as accessed when there was a fault for it or beneath it. What the
    guest reached without a fault is not known, but how soon it came back to a page that it had lost is: as long after
    the page was asked for, it is taken to have been used again, if it was there meanwhile.
    """

    name: ClassVar[str] = "accessed"
    by_access: ClassVar[bool] = True

    def __init__(self) -> None:
        #: Whether the recorded kernel gives second chances, and how many it gave since its last reclaim.
        self._told = False
        self._moved = 0

    def moved(self, pages: SimulatedList, page: SimulatedPage) -> None:
        """It got its second chance."""
        self._told = True
        self._moved += 1
        pages.move_to_end(page)

    def moved_before(self) -> int:
        """How many pages the recorded kernel was seen to move to the head in this reclaim."""
        moved, self._moved = self._moved, 0
        return moved

    def was_accessed(self, page: SimulatedPage, now: int) -> bool:
        """Whether a page gets a second chance; a kernel that gives them has told of them already."""
        if self._told or not (page.accessed or page.was_used(now)) or not any(page.directories()):
            return False
        page.accessed = False
        page.asked = now
        return True
