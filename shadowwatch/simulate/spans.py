# SPDX-License-Identifier: Apache-2.0
"""How long something lasted, many times over: counts in bins, eight to a doubling."""

from __future__ import annotations

#: Bins have the width 1 below 2 ** FINE; from there on there are 2 ** (FINE - 1) to each doubling.
FINE = 4


def _bin(span: int) -> int:
    shift = max(0, span.bit_length() - FINE)
    return (shift << (FINE - 1)) + (span >> shift)


class Spans:
    """Counts of spans of time by their length, in bounded memory; `number` of them."""

    def __init__(self) -> None:
        #: Bin → how many; most VMs fill a few dozen of the 500.
        self._counts: dict[int, int] = {}
        self.number = 0

    def add(self, span: int) -> None:
        """Count one."""
        bin = _bin(span)
        self._counts[bin] = self._counts.get(bin, 0) + 1
        self.number += 1

    def likely(self, waits: Spans, begun: int) -> float:
        """How many of these spans a wait that begins with them ends in; `begun` waits have begun, and `waits` ended."""
        if not begun or not self.number:
            return 0.0
        ended = 0
        total = 0.0
        for bin in sorted(self._counts.keys() | waits._counts.keys()):
            waited = waits._counts.get(bin, 0)
            # Of the waits as long as the spans of this bin, half are shorter.
            total += self._counts.get(bin, 0) * (ended + waited / 2)
            ended += waited
        return total / begun
