# SPDX-License-Identifier: Apache-2.0
"""What a higher limit would spare: for some multiples of a VM's limit, the list that KVM would keep then.

KVM's list is first in, first out: what is used does not matter to it. So the pages that it would hold under a higher
limit follow from the allocations alone, less those of pages that it would hold still. Of a large VM a part of the
pages is followed, chosen by their identity, on lists that are shorter by as much (spatially hashed sampling:
Waldspurger and others, "Efficient MRC Construction with SHARDS", FAST 2015). The longest list also knows pages that
were zapped too long ago for the VM to remember them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from shadowwatch.snapshot import Limited

#: Multiples of a VM's limit that are followed beside the limit itself, the lowest first.
MULTIPLES = (1.5, 2.0, 3.0, 4.0, 8.0)

#: make_mmu_pages_available(): below KVM_MIN_FREE_MMU_PAGES free ones KVM reclaims until KVM_REFILL_PAGES are
#: (arch/x86/include/asm/kvm_host.h, 5.10 to 7.3).
MIN_FREE, REFILL = 5, 25

#: About so many pages are followed whatever the limit: those whose number is a multiple of one of these primes.
FOLLOWED = 256
PARTS = (1, 3, 7, 13, 29, 61, 127, 251, 509, 1021, 2039, 4093, 8191)


class Curve:
    """The lists of one VM under MULTIPLES of its limit, and the refaults under each.

    A page is (gfn, role) in one number.
    """

    __slots__ = ("_again", "_first", "_last", "_lists", "_part", "_refaults", "_unseen", "limit")

    def __init__(self, refaults: int) -> None:
        """KVM reclaims, after so many refaults: until then a higher limit would have changed nothing."""
        self.limit = 0
        self._part = 1
        #: Under each limit: its number, the pages, the oldest first, how many there may be and how many go at a time.
        self._lists: list[tuple[int, dict[int, None], int, int]] = []
        #: The pages under the lowest of them, and under the highest.
        self._first: dict[int, None] = {}
        self._last: dict[int, None] = {}
        self._again = refaults
        self._refaults = [refaults] * len(MULTIPLES)
        self._unseen = [0] * len(MULTIPLES)

    def begin(self, limit: int, pages: Sequence[int]) -> None:
        """From now on with these pages, the oldest first, and this limit."""
        self.limit = limit
        part = self._part = next((part for part in PARTS if limit <= FOLLOWED * part), PARTS[-1])
        followed = dict.fromkeys(page for page in pages if not page % part)
        batch = max(1, (REFILL - MIN_FREE) // part)
        self._lists = [
            (number, dict(followed), int((times * limit - MIN_FREE) / part), batch)
            for number, times in enumerate(MULTIPLES)
        ]
        self._first, self._last = self._lists[0][1], self._lists[-1][1]

    def forget(self) -> None:
        """Events were lost: the pages are not known any more. What was counted stays."""
        self.limit = 0
        self._lists = []
        self._first = self._last = {}

    def alloc(self, page: int, again: bool) -> None:
        """A page was allocated; `again` when it is known to have been zapped before."""
        part = self._part
        if part != 1 and page % part:
            return
        if again or page in self._last:
            self._again += part
            again = True
        # The longer ones have it, too, but for a few.
        if page in self._first:
            return
        for number, pages, room, batch in self._lists:
            if page in pages:
                return
            if again:
                self._refaults[number] += part
            pages[page] = None
            if len(pages) > room:
                for oldest in tuple(islice(pages, batch)):
                    del pages[oldest]

    def reclaimed(self, page: int) -> None:
        """KVM reclaimed a page, which it would still have under higher limits, but for those where it had gone."""
        part = self._part
        if (part != 1 and page % part) or page in self._first:
            return
        for number, pages, _, _ in self._lists:
            if page in pages:
                return
            self._unseen[number] += part

    def zapped(self, page: int) -> None:
        """A page was zapped for another cause: so it would have been under any limit."""
        if self._part != 1 and page % self._part:
            return
        for _, pages, _, _ in self._lists:
            pages.pop(page, None)

    def freeze(self) -> tuple[Limited, ...]:
        """Copy the figures: of the limit itself, then of its multiples."""
        return (Limited(1.0, self._again, 0), *map(Limited, MULTIPLES, self._refaults, self._unseen))
