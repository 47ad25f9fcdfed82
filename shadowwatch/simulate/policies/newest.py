# SPDX-License-Identifier: Apache-2.0
"""`newest`: the mistake of Linux 5.9 to 5.11.1 (6b82ef2c9cf1, fixed by 8fc517267fb2), for comparison."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from shadowwatch.simulate.page import SimulatedList, SimulatedPage
from shadowwatch.simulate.policies.stock import Stock


class Newest(Stock):
    """Pages age as in stock order, but reclaim begins with the newest."""

    name: ClassVar[str] = "newest"
    bounded: ClassVar[bool] = False

    def candidates(self, pages: SimulatedList, wanted: int, now: int) -> Iterable[SimulatedPage]:
        """From the head on."""
        return reversed(pages)
