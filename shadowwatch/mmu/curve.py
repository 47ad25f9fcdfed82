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
from typing import TypeAlias

from shadowwatch.snapshot import Limited

#: Multiples of a VM's limit that are followed beside the limit itself, the lowest first.
MULTIPLES = (1.5, 2.0, 3.0, 4.0, 8.0)

#: make_mmu_pages_available(): below KVM_MIN_FREE_MMU_PAGES free ones KVM reclaims until KVM_REFILL_PAGES are
#: (arch/x86/include/asm/kvm_host.h, 5.10 to 7.3).
MIN_FREE, REFILL = 5, 25

#: About so many pages are followed whatever the limit: those whose number is a multiple of one of these primes.
FOLLOWED = 256
PARTS = (1, 3, 7, 13, 29, 61, 127, 251, 509, 1021, 2039, 4093, 8191)

#: Pages that were allocated, those of them of which no zap is known, and the pages that were reclaimed then.
Run: TypeAlias = tuple[list[int], list[int], list[int]]

#: The lists are brought up to date with so many of them at a time, one list after the other: each is in the processor's
#: cache then, and the rest of the model stays there between. And before, if there is time or somebody asks.
RUNS = 16


class Curve:
    """The lists of one VM under MULTIPLES of its limit, and the refaults under each.

    A page is known by its identity (page.py).
    """

    __slots__ = ("_again", "_batch", "_lists", "_refaults", "_runs", "_unseen", "fresh", "limit", "new", "part")

    def __init__(self, refaults: int) -> None:
        """KVM reclaims, after so many refaults: until then a higher limit would have changed nothing."""
        self.limit = 0
        #: Followed are pages whose identity is a multiple of this.
        self.part = 1
        #: Under each limit the pages, the oldest first, and how many there may be; how many go at a time.
        self._lists: list[tuple[dict[int, None], int]] = []
        self._batch = 1
        #: What the lists are to be brought up to date with.
        self._runs: list[Run] = []
        #: Pages allocated since then, and those of them of which no zap is known.
        self.fresh: list[int] = []
        self.new: list[int] = []
        self._again = refaults
        self._refaults = [refaults] * len(MULTIPLES)
        self._unseen = [0] * len(MULTIPLES)

    def begin(self, limit: int, pages: Sequence[int]) -> None:
        """From now on with these pages, the oldest first, and this limit."""
        self.settle()
        self.limit = limit
        part = self.part = next((part for part in PARTS if limit <= FOLLOWED * part), PARTS[-1])
        followed = dict.fromkeys(page for page in pages if not page % part)
        self._lists = [(dict(followed), int((times * limit - MIN_FREE) / part)) for times in MULTIPLES]
        self._batch = max(1, (REFILL - MIN_FREE) // part)

    def forget(self) -> None:
        """Events were lost: the pages are not known any more. What was counted stays."""
        self.settle()
        self.limit = 0
        self._lists = []

    def reclaimed(self, pages: list[int]) -> None:
        """KVM reclaimed pages that are followed: under higher limits it would have them still, if they had not gone."""
        self._end_run(pages)
        if len(self._runs) > RUNS:
            self.settle()

    def _end_run(self, gone: list[int]) -> None:
        self._runs.append((self.fresh, self.new, gone))
        self.fresh = []
        if self.new:
            self.new = []

    def zapped(self, page: int) -> None:
        """A page was zapped for another cause: so it would have been under any limit."""
        self.settle()
        if self.part != 1 and page % self.part:
            return
        for pages, _ in self._lists:
            pages.pop(page, None)

    def settle(self) -> None:
        """Bring the lists up to date, one after the other: what one has the longer ones have, too, but for a few."""
        if self.fresh:
            self._end_run([])
        runs = self._runs
        if not runs:
            return
        self._runs = []
        part = self.part
        again = sum([len(fresh) for fresh, _, _ in runs])
        counts = []
        for number, (pages, room) in enumerate(self._lists):
            runs = self._put(pages, room, runs)
            if not runs:
                break
            counts.append(sum([len(missed) for missed, _, _ in runs]))
            self._unseen[number] += sum([len(gone) for _, _, gone in runs]) * part
        # What no list has was perhaps never there before.
        first = sum([len(set(new).intersection(missed)) for missed, new, _ in runs if new])
        self._again += (again - first) * part
        for number, count in enumerate(counts):
            self._refaults[number] += (count - first) * part

    def _put(self, pages: dict[int, None], room: int, runs: list[Run]) -> list[Run]:
        """Put the pages that a list has not on it; return the runs with these pages, and with those that had gone."""
        left = []
        batch = self._batch
        for fresh, new, gone in runs:
            if len(pages) + len(fresh) <= room:
                missed = [page for page in fresh if page not in pages]
                pages.update(dict.fromkeys(missed))
            else:
                missed = []
                for page in fresh:
                    if page not in pages:
                        missed.append(page)
                        pages[page] = None
                        if len(pages) > room:
                            for oldest in tuple(islice(pages, batch)):
                                del pages[oldest]
            gone = [page for page in gone if page not in pages]
            if missed or gone:
                left.append((missed, new, gone))
        return left

    def freeze(self) -> tuple[Limited, ...]:
        """Copy the figures: of the limit itself, then of its multiples."""
        self.settle()
        return (Limited(1.0, self._again, 0), *map(Limited, MULTIPLES, self._refaults, self._unseen))
