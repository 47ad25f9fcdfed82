# SPDX-License-Identifier: Apache-2.0
"""Counts by size, as Prometheus wants them."""

from __future__ import annotations

from shadowwatch.snapshot import Distribution


class Histogram:
    """A histogram with fixed upper bounds.

    A value is counted where it is seen, which is too often for a call: at `bisect_left(bounds, value)`, and in `total`.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        #: Of whole numbers a whole one.
        self.total: int | float = 0

    def freeze(self) -> Distribution:
        """Copy the counts."""
        return Distribution(self.bounds, tuple(self.counts), self.total)
