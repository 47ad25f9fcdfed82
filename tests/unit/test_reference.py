# SPDX-License-Identifier: Apache-2.0
"""The experiment's reference: it faults as often as the kernel counted, and its other orders do what they say."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

from tests.experiment.accesses import Accesses
from tests.experiment.cases import CASES
from tests.experiment.reference import MIN_FREE, ORDERS, REFILL, ROOT, Guest, Order, Page, above, path, simulated
from tests.experiment.report import read
from tests.lab.workload import Workload

#: A guest that is soon through.
SMALL = Workload("", "zipf", accesses=1_500)


@cache
def measured() -> Mapping[tuple[str, int, int, str], Mapping[str, Any]]:
    """The kernel's counts, which are in docs/experiment.csv."""
    return {(row["case"], row["limit"], row["seed"], row["policy"]): row for row in read()}


@pytest.mark.parametrize(
    ("case", "policy"), [("zipf", "stock"), ("zipf", "parents"), ("nested", "stock"), ("many-pages", "parents")]
)
def test_it_counts_what_the_kernel_counted(case: str, policy: str) -> None:
    """To the fault, the allocation and the zap: without nested paging, in a guest's guest, with many pages a table."""
    row = measured()[case, 64, 1, policy]
    (vm,) = CASES[case].vms(64, 1, policy)
    guest = simulated(vm, policy)
    assert (guest.faults, guest.allocations, guest.zaps) == (row["page_faults"], row["allocations"], row["zaps"])


class Watching(Order):
    """Another order, of which each reclaim is looked at."""

    def __init__(self, order: Order) -> None:
        self._order = order

    def linked(self, guest: Guest, page: Page) -> None:
        """Tell the other."""
        self._order.linked(guest, page)

    def used(self, guest: Guest, touched: tuple[int, ...]) -> None:
        """Tell the other."""
        self._order.used(guest, touched)

    def victims(self, guest: Guest, wanted: int) -> list[Page]:
        """Ask the other, and note what it says."""
        found = list(self._order.victims(guest, wanted))[:wanted]
        assert REFILL - MIN_FREE < wanted <= REFILL
        assert len(found) == wanted
        assert ROOT not in found
        assert set(found) <= set(guest.pages)
        self.check(guest, found)
        return found

    def check(self, guest: Guest, found: list[Page]) -> None:
        """Nothing more of most."""


class Leaves(Watching):
    """What is chosen leads to nothing that stays."""

    def check(self, guest: Guest, found: list[Page]) -> None:
        """All that hangs below it goes before it."""
        for place, page in enumerate(found):
            assert guest.children[page] <= set(found[:place])


class Uses(Watching):
    """What is chosen is what was, or will be, used the longest time away."""

    def __init__(self, order: Order, accesses: Accesses, forward: bool) -> None:
        super().__init__(order)
        self._touched = [
            {page for touched in instructions for number in touched for page in path(number)}
            for instructions in accesses.instructions()
        ]
        self._forward = forward

    def _away(self, guest: Guest, page: Page) -> int:
        """Look through the accesses one by one."""
        step, end = (1, len(self._touched)) if self._forward else (-1, -1)
        for now in range(guest.now, end, step):
            if page in self._touched[now]:
                return abs(now - guest.now)
        return len(self._touched)

    def check(self, guest: Guest, found: list[Page]) -> None:
        """None that stays is farther."""
        stays = set(guest.idle()) - set(found)
        assert min(self._away(guest, page) for page in found) >= max(self._away(guest, page) for page in stays)


def test_each_order_takes_what_it_says() -> None:
    """By a look at every reclaim: leaves, what was not used for longest, what will not be used for longest."""
    accesses = Accesses(Workload("", "zipf", accesses=400))
    made = {name: order(accesses) for name, order in ORDERS.items()}
    for watching in (
        Leaves(made["random leaf"]),
        Uses(made["least recently used"], accesses, forward=False),
        Uses(made["farthest next use"], accesses, forward=True),
    ):
        assert Guest(accesses, watching, 64).run().zaps > 50


def test_who_knows_the_future_faults_least() -> None:
    """Of all the orders, and without reclaim they are all alike: each page of the tree is allocated once."""
    faults = {order: simulated(SMALL, order).faults for order in ORDERS}
    assert min(faults, key=faults.__getitem__) == "farthest next use"
    roomy = [simulated(Workload("", "zipf", accesses=1_500, pages=1_000), order) for order in ORDERS]
    touched = {table // SMALL.tables for table, _ in roomy[0].accesses.tables()}
    tables = len({table for table, _ in roomy[0].accesses.tables()})
    # Besides: the root, the page below it, and the home directory with its table.
    assert {(guest.zaps, guest.allocations) for guest in roomy} == {(0, len(touched) + tables + 4)}


def test_a_page_has_its_way_from_the_root() -> None:
    """Each is the parent of the next."""
    way = [ROOT, *path(0x1FF_FFFF)]
    assert way == [(4, 0), (3, 0), (2, 127), (1, 65535)]
    assert [above(page) for page in way[1:]] == way[:-1]
