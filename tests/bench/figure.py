# SPDX-License-Identifier: Apache-2.0
"""One measured figure, for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median


@dataclass(frozen=True)
class Figure:
    """A value with its unit, its spread over the repetitions, and what it is a ratio to."""

    name: str
    value: float
    unit: str
    lowest: float
    highest: float
    ratio: float | None = None
    ratio_to: str | None = None

    @classmethod
    def of(
        cls, name: str, values: Sequence[float], unit: str, ratio: float | None = None, to: str | None = None
    ) -> Figure:
        """The median of some repetitions."""
        return cls(name, median(values), unit, min(values), max(values), ratio, to)

    def __str__(self) -> str:
        spread = f" ({_short(self.lowest)}–{_short(self.highest)})" if self.lowest != self.highest else ""
        ratio = f", {self.ratio:.3f} × {self.ratio_to}" if self.ratio is not None else ""
        return f"{self.name}: {_short(self.value)} {self.unit}{spread}{ratio}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 10 else f"{value:.3g}"


def show(figures: Sequence[Figure]) -> None:
    """Print them all, first to be read, then as JSON."""
    for figure in figures:
        print(figure)
    print()
    for figure in figures:
        print(json.dumps(asdict(figure), ensure_ascii=False))
