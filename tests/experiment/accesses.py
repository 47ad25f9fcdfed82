# SPDX-License-Identifier: Apache-2.0
"""What the small guest of tests/lab/vmm.c touches, page by page, from the same arguments.

A page is known by its number in the address space that KVM's page tables translate: the guest's own without nested
paging, the guest-physical one with it, the inner guest's physical one for a guest's guest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from tests.lab.workload import Workload

PTRS = 512
HOME = PTRS - 1
PAGE_BYTES, ENTRY_BYTES = 4096, 8
HOT_STAY, HOT_SHARE, PREFETCHED = 1000, 8, 8
_64 = (1 << 64) - 1


class SplitMix:
    """The generator of vmm.c."""

    def __init__(self, seed: int) -> None:
        self._state = seed

    def below(self, limit: int) -> int:
        """The next number, below a limit."""
        z = self._state = (self._state + 0x9E3779B97F4A7C15) & _64
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _64
        return (z ^ (z >> 31)) % limit


def _uniform(workload: Workload, below: Callable[[int], int]) -> Iterator[int]:
    while True:
        yield below(workload.directories * workload.tables)


def _sequential(workload: Workload, below: Callable[[int], int]) -> Iterator[int]:
    while True:
        yield from range(workload.directories * workload.tables)


def _hotset(workload: Workload, below: Callable[[int], int]) -> Iterator[int]:
    for i in range(workload.accesses):
        hot = i // HOT_STAY % workload.directories
        near = below(HOT_SHARE)
        yield hot * workload.tables + below(workload.tables) if near else below(workload.directories * workload.tables)


def _zipf(workload: Workload, below: Callable[[int], int]) -> Iterator[int]:
    total = workload.directories * workload.tables
    ranked = [0] * total
    for k in range(total):
        other = below(k + 1)
        ranked[k] = ranked[other]
        ranked[other] = k
    cumulative = list(accumulate((1 << 32) // (k + 1) for k in range(total)))
    while True:
        yield ranked[bisect_right(cumulative, below(cumulative[-1]))]


PATTERNS: Mapping[str, Callable[[Workload, Callable[[int], int]], Iterator[int]]] = {
    "uniform": _uniform,
    "sequential": _sequential,
    "hotset": _hotset,
    "zipf": _zipf,
}


@dataclass(frozen=True)
class Accesses:
    """The pages of one workload, and what its guest reads in which order."""

    workload: Workload

    @cached_property
    def _list_pages(self) -> int:
        return -(-self.workload.accesses * ENTRY_BYTES // PAGE_BYTES)

    @cached_property
    def _tables_at(self) -> tuple[int, int, int, int]:
        """With nested paging: where the guest's root, its home directory, that one's tables and the others' are.

        In the order in which lay_out_memory() takes pages: the root, what leads to the home directory and its tables,
        and each directory with its tables.
        """
        root = 1 + self._list_pages
        home = root + 2
        home_tables = self._list_pages // PTRS + 1
        return root, home, home + 1, home + 1 + home_tables

    @cached_property
    def home(self) -> Set[int]:
        """The pages that the VMM has filled, so that KVM may map them along with one that faults."""
        workload = self.workload
        if workload.spread:
            _, _, _, others = self._tables_at
            return frozenset(range(others + workload.directories * (1 + workload.tables) + 1))
        pages = range(1 + self._list_pages)
        # The inner guest's own page tables besides: the second and third page of three.
        inner = (pages.stop + 1, pages.stop + 2) if workload.nested else ()
        return frozenset(HOME * PTRS * PTRS + page for page in (*pages, *inner))

    def tables(self) -> Iterator[tuple[int, int]]:
        """Which of all tables each access goes to, and which page of that, as fill_list() has it."""
        below = SplitMix(self.workload.seed).below
        touched = self.workload.touched
        which = PATTERNS[self.workload.pattern](self.workload, below)
        for _ in range(self.workload.accesses):
            table = next(which)
            yield table, (table + (below(touched) * PREFETCHED if touched > 1 else 0)) % PTRS

    def instructions(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """For each access what its two instructions touch: each its own code, then a page of the list or the data."""
        tables = self.workload.tables
        for i, (table, page) in enumerate(self.tables()):
            number = (table // tables * PTRS + table % tables) * PTRS + page
            entry = 1 + i * ENTRY_BYTES // PAGE_BYTES
            yield (
                (*self._home_page(0), *self._home_page(entry)),
                (*self._home_page(0), *self._data_page(number, table)),
            )

    def _home_page(self, page: int) -> tuple[int, ...]:
        """What is read to get to a page of the home directory, that page the last."""
        if self.workload.spread:
            root, home, tables, _ = self._tables_at
            return root, root + 1, home, tables + page // PTRS, page
        return (*self._inner_tables(), HOME * PTRS * PTRS + page)

    def _data_page(self, number: int, table: int) -> tuple[int, ...]:
        if self.workload.spread:
            root, _, _, others = self._tables_at
            directory = others + table // self.workload.tables * (1 + self.workload.tables)
            own = directory + 1 + table % self.workload.tables
            beyond = len(self.home) // (PTRS * PTRS) + 1
            return root, root + 1, directory, own, beyond * PTRS * PTRS + number
        return (*self._inner_tables(), number)

    def _inner_tables(self) -> tuple[int, ...]:
        if not self.workload.nested:
            return ()
        flat = HOME * PTRS * PTRS + 1 + self._list_pages
        return flat + 1, flat + 2
