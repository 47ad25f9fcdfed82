# SPDX-License-Identifier: Apache-2.0
"""`leaf-first`: reclaim prefers old level-1 pages to directories (the mail's other idea)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import ClassVar

from shadowwatch.simulate.page import SimulatedList, SimulatedPage
from shadowwatch.simulate.policies.stock import Stock

#: So many pages are looked at for each that is wanted, but no more than half the list.
LOOKS = 4


class LeafFirst(Stock):
    """As patches/linux-6.1 has it: level 1 among the oldest pages first, then whatever is oldest."""

    name: ClassVar[str] = "leaf-first"

    def candidates(self, pages: SimulatedList, wanted: int, now: int) -> Iterable[SimulatedPage]:
        """Look at the oldest pages twice."""
        window = max(wanted, min(LOOKS * wanted, len(pages) // 2))
        return self._twice(pages, window)

    def _twice(self, pages: SimulatedList, window: int) -> Iterator[SimulatedPage]:
        leaves = [page for page in islice(pages, window) if page.level == 1]
        yield from leaves
        chosen = set(leaves)
        yield from (page for page in pages if page not in chosen)
