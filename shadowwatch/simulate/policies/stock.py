# SPDX-License-Identifier: Apache-2.0
"""`stock`: pages age from their creation, and the oldest go first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from shadowwatch.simulate.page import SimulatedList, SimulatedPage


class Stock:
    """The kernel's own order, and what other policies change of it."""

    name: ClassVar[str] = "stock"
    #: Whether a page that comes back stays for a while, so that one more fault for each that went is the most.
    bounded: ClassVar[bool] = True
    #: Whether it asks which pages were accessed.
    by_access: ClassVar[bool] = False

    def linked(self, pages: SimulatedList, directory: SimulatedPage) -> None:
        """An spte of this directory was made to point to a child."""

    def moved(self, pages: SimulatedList, page: SimulatedPage) -> None:
        """The recorded kernel, which moves pages, moved this one."""

    def candidates(self, pages: SimulatedList, wanted: int, now: int) -> Iterable[SimulatedPage]:
        """The pages in the order in which a reclaim of so many looks at them at this time."""
        return pages
