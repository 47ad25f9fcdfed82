# SPDX-License-Identifier: Apache-2.0
"""How often a policy had a page out of reach that the recorded guest still had, and how many of those were faults.

No event tells how often the guest used a page while it was there. How likely a fault was meanwhile is taken from how
soon the guest came back to the pages that it did lose. Under a higher limit pages stay longer than they did: if the
guest came back before a page that comes meanwhile would have gone again, that fault is instead of the recorded one, and
not one more.
"""

from __future__ import annotations

from shadowwatch.simulate.page import NEVER, SimulatedPage
from shadowwatch.simulate.spans import Spans

#: How long a page stays in reach is the mean over about so many that did not.
LIVES = 64


class Unseen:
    """What is known of one VM's pages of level 1; times are on the simulation's clock (page.py)."""

    __slots__ = ("_absences", "_life", "_likely", "_losses", "_missing", "number")

    def __init__(self) -> None:
        #: How many pages went out of reach in the recorded life, and after how long the guest came back to some.
        self._losses = 0
        self._absences = Spans()
        #: How many went earlier in the simulated life, and for how long a fault for one would have been one more.
        self.number = 0
        self._missing = Spans()
        self._likely = 0.0
        #: How long a page stays in reach in the simulated life, under a higher limit.
        self._life = 0.0

    def lost(self, page: SimulatedPage, when: int, higher: bool) -> None:
        """A page went out of reach, or had been since one above it went; `higher` is whether the policy's limit is."""
        self._losses += 1
        died = min(when, page.gone())
        below: SimulatedPage | None = page
        while below is not None:
            up = below.up
            if up is not None and up in below.links:
                when = min(when, up.broke(below.links[up]))
            below = up
        page.lost = when
        if 0 < died < when:
            self.number += 1
            if higher:
                page.missed = died
            else:
                self._missing.add(when - died)

    def came_back(self, page: SimulatedPage, wait: int) -> None:
        """The guest faulted a page in again that had been lost for so long."""
        page.wait = wait
        self._absences.add(wait)

    def back(self, page: SimulatedPage, now: int) -> None:
        """A page is in reach again in the recorded life."""
        if page.missed:
            # What comes later than one life of a page ago is still there now.
            missing = min(page.lost, now - round(self._life)) - page.missed
            if missing > 0:
                self._missing.add(missing)
            page.missed = 0
        page.lost = 0

    def reached(self, page: SimulatedPage, now: int) -> None:
        """A page comes into reach in the simulated life, under a higher limit."""
        if page.reached and (gone := page.gone()) < NEVER:
            self._life += (gone - page.reached - self._life) / LIVES
        page.reached = now

    def likely(self) -> float:
        """How many of the unseen were likely faults; it does not fall when lost pages are found not to be wanted."""
        self._likely = max(self._likely, self._missing.likely(self._absences, self._losses))
        return self._likely
