# SPDX-License-Identifier: Apache-2.0
"""How long something lasted, many times over: counts in bins, eight to a doubling."""

from __future__ import annotations

#: Bins have the width 1 below 2 ** FINE; from there on there are 2 ** (FINE - 1) to each doubling.
FINE = 4


def _bin(span: int) -> int:
    shift = max(0, span.bit_length() - FINE)
    return (shift << (FINE - 1)) + (span >> shift)


class Spans:
    """Counts of spans of time by their length, in bounded memory."""

    def __init__(self) -> None:
        self._counts = [0] * _bin(1 << 64)

    def add(self, span: int) -> None:
        """Count one."""
        self._counts[_bin(span)] += 1

    def up_to(self, span: int) -> float:
        """How many were no longer than this; of those of the same bin it is half."""
        place = _bin(span)
        return sum(self._counts[:place]) + self._counts[place] / 2
