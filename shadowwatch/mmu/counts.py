# SPDX-License-Identifier: Apache-2.0
"""What KVM itself counts of a VM, beside what its events told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from shadowwatch.errors import counted


class Counts(NamedTuple):
    """Pages allocated (mmu_cache_miss), zapped (mmu_shadow_zapped), and of these by reclaim (mmu_recycled)."""

    allocations: int
    zaps: int
    reclaimed: int

    def less(self, other: Counts) -> Counts:
        """How much more there is of each than in the other: below 0 where there is less; words of 64 bits wrap."""
        return Counts(*(_signed(mine - others) for mine, others in zip(self, other, strict=True)))


def _signed(word: int) -> int:
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)


@dataclass(frozen=True, slots=True)
class Miscount:
    """KVM has counted so many more pages, or fewer, than there were events, of which none is known to be lost."""

    vm: str
    counts: Counts

    def __str__(self) -> str:
        allocations, zaps, _ = self.counts
        both = f"{counted(allocations, 'allocation', '+,')} and {counted(zaps, 'zap', '+,')}"
        return f"VM {self.vm}: KVM has counted {both} beside what events told"
