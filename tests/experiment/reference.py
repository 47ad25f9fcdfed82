# SPDX-License-Identifier: Apache-2.0
"""The lab's small guest and KVM's shadow pages, in the slowest and most obvious way, to set policies against.

Nothing of shadowwatch is used, and no kernel: the accesses are those of vmm.c, and what KVM does at a fault is
written down here from its source (Linux 6.1, arch/x86/kvm/mmu/mmu.c). With the orders of `stock`, `parents`,
`leaf-first`, `childless`, `accessed` and `newest` it comes to the faults that the kernel counts; so what it says of
orders that no kernel has, such as one that knows the future, can be set beside them.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from heapq import nlargest, nsmallest

from tests.experiment.accesses import PREFETCHED, PTRS, Accesses
from tests.lab.workload import Workload

ROOT_LEVEL = 4
#: KVM_MIN_FREE_MMU_PAGES and KVM_REFILL_PAGES (arch/x86/include/asm/kvm_host.h).
MIN_FREE, REFILL = 5, 25
#: MMU_RECLAIM_SPARED of patches/.
MOST_SPARED = 256

#: A shadow page by its level and the number of what it maps, so that its parent's is the next level's.
Page = tuple[int, int]
ROOT: Page = (ROOT_LEVEL, 0)
#: Of a guest that runs a guest: for its own code and two page tables, which no shadow page maps.
HYPERVISORS_FAULTS = 3


def above(page: Page) -> Page:
    """The page whose entry leads to this one."""
    return page[0] + 1, page[1] // PTRS


def path(number: int) -> list[Page]:
    """The shadow pages by which a page of the guest is reached, from below the root down to level 1."""
    return [(level, number // PTRS**level) for level in range(ROOT_LEVEL - 1, 0, -1)]


@dataclass
class Guest:
    """A VM's shadow pages while its guest works through its accesses."""

    accesses: Accesses
    order: Order
    limit: int
    pages: dict[Page, None] = field(default_factory=lambda: {ROOT: None})  # as on the list, the oldest first
    children: dict[Page, set[Page]] = field(default_factory=lambda: {ROOT: set()})  # those that an entry leads to
    mapped: dict[Page, set[int]] = field(default_factory=dict)  # pages of the guest, by table
    seen: set[int] = field(default_factory=set)  # what the processor has translated since something was zapped
    now: int = 0  # the number of the access
    faults: int = 0
    allocations: int = 1
    zaps: int = 0

    def run(self) -> Guest:
        """Touch all, and have the faults that come of it."""
        self.faults = HYPERVISORS_FAULTS if self.accesses.workload.nested else 0
        for now, instructions in enumerate(self.accesses.instructions()):
            self.now = now
            for touched in instructions:
                self.order.used(self, touched)
                while (missing := self._first_missing(touched)) is not None:
                    self._fault(missing)
                    # An instruction begins again after each fault.
                    self.order.used(self, touched)
        return self

    def _first_missing(self, touched: tuple[int, ...]) -> int | None:
        for number in touched:
            if number not in self.seen:
                table = path(number)[-1]
                if not self._in_reach(table) or number not in self.mapped[table]:
                    return number
                self.seen.add(number)
        return None

    def _in_reach(self, page: Page) -> bool:
        return page == ROOT or (self.is_linked(page) and self._in_reach(above(page)))

    def _fault(self, number: int) -> None:
        self.faults += 1
        free = self.limit - len(self.pages)
        if free < MIN_FREE:
            self._reclaim(REFILL - free)
        for page in path(number):
            if not self.is_linked(page):
                if page not in self.pages:
                    self.allocations += 1
                    self.pages[page] = None
                    self.children[page], self.mapped[page] = set(), set()
                self.children[above(page)].add(page)
                self.order.linked(self, page)
        self.mapped[page].add(number)
        # Its neighbours are mapped along with it, up to the first that cannot be.
        first = number - number % PREFETCHED
        for neighbour in range(first, first + PREFETCHED):
            if neighbour not in self.accesses.home and neighbour != number:
                break
            self.mapped[page].add(neighbour)

    def _reclaim(self, wanted: int) -> None:
        self.seen.clear()
        counted = 0
        victims = iter(self.order.victims(self, wanted))
        # No page is looked at after the last one that goes.
        while counted < wanted and (page := next(victims, None)):
            if page in self.pages:
                counted += self._zap(page)

    def _zap(self, page: Page) -> int:
        """Take a page out, and return how many KVM takes that for."""
        self.zaps += 1
        del self.pages[page], self.mapped[page]
        self.children.get(above(page), set()).discard(page)
        counted = 1
        for child in sorted(self.children.pop(page)):
            # With nested guests what nothing leads to any more goes as well; however many that are, the one who asks
            # hears of one, since kvm_mmu_prepare_zap_page() returns a bool.
            if self.accesses.workload.nested:
                counted += min(1, self._zap(child))
        return counted

    def is_linked(self, page: Page) -> bool:
        """Whether an entry of the page above leads to this one."""
        return page in self.children.get(above(page), ())

    def idle(self) -> list[Page]:
        """All pages but the root, which is in use, the oldest first."""
        return [page for page in self.pages if page != ROOT]


class Order:
    """`stock`: the oldest pages go first, and nothing makes a page newer."""

    def linked(self, guest: Guest, page: Page) -> None:
        """A page was linked to the one above it."""

    def used(self, guest: Guest, touched: tuple[int, ...]) -> None:
        """The guest has touched these."""

    def victims(self, guest: Guest, wanted: int) -> Iterator[Page] | list[Page]:
        """The pages in the order in which they go."""
        return guest.idle()


class Parents(Order):
    """`parents`: whatever leads to a page that is linked becomes newer."""

    def linked(self, guest: Guest, page: Page) -> None:
        """The parent, and then what is above it."""
        while page != ROOT:
            page = above(page)
            del guest.pages[page]
            guest.pages[page] = None


class LeafFirst(Order):
    """`leaf-first`: of four times as many as are wanted, or of half the list, first those of level 1."""

    def victims(self, guest: Guest, wanted: int) -> list[Page]:
        """Level 1 of a window, then the oldest."""
        window = max(wanted, min(4 * wanted, len(guest.pages) // 2))
        leaves = [page for page in list(guest.pages)[:window] if page[0] == 1]
        return leaves + guest.idle()


class Childless(Order):
    """`childless`: the oldest of those that lead to nothing, over and over as long as there are some."""

    def victims(self, guest: Guest, wanted: int) -> Iterator[Page]:
        """After so many that were passed over, whatever is oldest."""
        spared, progress = 0, True
        while progress and spared <= MOST_SPARED:
            progress = False
            for page in guest.idle():
                accessed = self.has_second_chance(guest, page)
                if accessed or (guest.is_linked(page) and guest.children[page]):
                    spared += 1
                    if spared > MOST_SPARED:
                        break
                    if accessed:
                        guest.pages[page] = guest.pages.pop(page)
                        progress = True
                else:
                    takes_others = bool(guest.children[page])
                    yield page
                    progress = True
                    if takes_others:
                        break
        yield from guest.idle()

    def has_second_chance(self, guest: Guest, page: Page) -> bool:
        """Whether a page becomes the newest instead."""
        return False


class Accessed(Childless):
    """`accessed`: the same, but what the processor went through since it was last asked becomes newer."""

    def __init__(self) -> None:
        self._accessed: set[Page] = set()

    def linked(self, guest: Guest, page: Page) -> None:
        """An entry is accessed to begin with."""
        self._accessed.add(page)

    def used(self, guest: Guest, touched: tuple[int, ...]) -> None:
        """Each entry on the way, up to the first that is not there."""
        for number in touched:
            for page in path(number):
                if not guest.is_linked(page):
                    break
                self._accessed.add(page)

    def has_second_chance(self, guest: Guest, page: Page) -> bool:
        """It has to earn the next one."""
        if not guest.is_linked(page) or page not in self._accessed:
            return False
        self._accessed.remove(page)
        return True


class Newest(Order):
    """`newest`: the mistake of Linux 5.9."""

    def victims(self, guest: Guest, wanted: int) -> list[Page]:
        """From the other end."""
        return guest.idle()[::-1]


class RandomLeaf(Order):
    """Any page that leads to no other one, by a generator of its own seed."""

    def __init__(self) -> None:
        self._random = random.Random(1)  # noqa: S311

    def victims(self, guest: Guest, wanted: int) -> Iterator[Page]:
        """A page of which the last child has gone is a leaf as well."""
        leaves = [page for page in guest.idle() if not guest.children[page]]
        while leaves:
            place = self._random.randrange(len(leaves))
            leaves[place], leaves[-1] = leaves[-1], leaves[place]
            page = leaves.pop()
            yield page
            parent = above(page)
            if parent != ROOT and parent in guest.pages and not guest.children[parent]:
                leaves.append(parent)


class LeastRecentlyUsed(Order):
    """What the guest has not touched for the longest time, by each access and not only by faults."""

    def __init__(self) -> None:
        self._last: dict[Page, int] = {}

    def used(self, guest: Guest, touched: tuple[int, ...]) -> None:
        """A touch uses all pages on the way."""
        for number in touched:
            for page in path(number):
                self._last[page] = guest.now

    def victims(self, guest: Guest, wanted: int) -> list[Page]:
        """Of those last used by the same access, what is nearest to the guest's memory."""
        return nsmallest(wanted, guest.idle(), key=lambda page: (self._last.get(page, -1), page[0]))


class FarthestNextUse(Order):
    """What the guest will not touch for the longest time: the accesses to come are known."""

    def __init__(self, accesses: Accesses) -> None:
        self._uses: dict[Page, list[int]] = {}
        for now, instructions in enumerate(accesses.instructions()):
            for page in {page for touched in instructions for number in touched for page in path(number)}:
                self._uses.setdefault(page, []).append(now)

    def victims(self, guest: Guest, wanted: int) -> list[Page]:
        """Of those next used by the same access, what is nearest to the guest's memory."""
        return nlargest(wanted, guest.idle(), key=lambda page: (self._next(page, guest.now), -page[0]))

    def _next(self, page: Page, now: int) -> int:
        uses = self._uses[page]
        place = bisect_left(uses, now)
        return uses[place] if place < len(uses) else uses[-1] + 2**32


#: What the kernel does, to check this against, and what no kernel can, to see how much there is to gain.
ORDERS: Mapping[str, Callable[[Accesses], Order]] = {
    "stock": lambda _: Order(),
    "parents": lambda _: Parents(),
    "leaf-first": lambda _: LeafFirst(),
    "childless": lambda _: Childless(),
    "accessed": lambda _: Accessed(),
    "newest": lambda _: Newest(),
    "random leaf": lambda _: RandomLeaf(),
    "least recently used": lambda _: LeastRecentlyUsed(),
    "farthest next use": FarthestNextUse,
}
REFERENCES = ("random leaf", "least recently used", "farthest next use")


def simulated(workload: Workload, order: str) -> Guest:
    """The guest after its round."""
    accesses = Accesses(workload)
    return Guest(accesses, ORDERS[order](accesses), workload.pages).run()
