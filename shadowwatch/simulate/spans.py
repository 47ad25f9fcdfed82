# SPDX-License-Identifier: Apache-2.0
"""How long something lasted, many times over: counts in bins, eight to a doubling."""

from __future__ import annotations

#: Bins of one width below 2 ** FINE, and 2 ** (FINE - 1) to each doubling from there on.
FINE = 4
_BINS = 64 << (FINE - 1)


class Spans:
    """Counts of spans of time by their length, in bounded memory."""

    def __init__(self) -> None:
        self._counts = [0] * _BINS
        self._number = 0

    def add(self, span: int) -> None:
        """Count one."""
        shift = max(0, span.bit_length() - FINE)
        self._counts[(shift << (FINE - 1)) + (span >> shift)] += 1
        self._number += 1

    def __len__(self) -> int:
        return self._number

    def expected(self, waits: Spans, losses: int) -> float:
        """How many of these spans a wait begins and ends in, when of so many losses each was followed by such a wait.

        Waits that never ended are among the losses only.
        """
        if not losses:
            return 0.0
        ended = 0
        total = 0.0
        for spans, waited in zip(self._counts, waits._counts, strict=True):
            # Of the waits as long as the spans of this bin, half are shorter.
            total += spans * (ended + waited / 2)
            ended += waited
        return total / losses
