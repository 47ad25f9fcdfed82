# SPDX-License-Identifier: Apache-2.0
"""A slow and obvious KVM that faults: it builds page tables for a guest's accesses, and reclaims in a policy's order.

The policies are written down here a second time, on lists; nothing is shared with shadowwatch/simulate.
"""

from __future__ import annotations

from collections.abc import Callable

from shadowwatch.event.abi import Kind
from tests.unit.kernel import PAGE_SIZE, KernelVm, Ring, role_of
from tests.unit.story import FACTS, PAGE_FAULT, RECLAIM, Story, within

ROOT_LEVEL = 3
#: The guest's address: which directory of the root, and which table of that.
Address = tuple[int, int]


def _as_they_are(vm: Faulting, directory: int) -> None:
    """Nothing moves."""


def _parents_up(vm: Faulting, directory: int) -> None:
    """The directory, then what leads to it."""
    vm.move(directory)
    for pte in [pte for pte, child in vm.edges.items() if child == directory]:
        _parents_up(vm, pte & ~0xFFF)


def _oldest(vm: Faulting, wanted: int) -> list[int]:
    return vm.order[::-1]


def _newest(vm: Faulting, wanted: int) -> list[int]:
    return vm.order[:]


def _leaves_first(vm: Faulting, wanted: int) -> list[int]:
    window = max(wanted, min(4 * wanted, len(vm.order) // 2))
    oldest = vm.order[::-1]
    leaves = [spt for spt in oldest[:window] if vm.pages[spt].level == 1]
    return leaves + [spt for spt in oldest if spt not in leaves]


def _on_a_path(vm: Faulting, spt: int, zapped: list[int]) -> bool:
    children = [child for pte, child in vm.edges.items() if pte & ~0xFFF == spt and child not in zapped]
    parents = [pte for pte, child in vm.edges.items() if child == spt and pte & ~0xFFF not in zapped]
    return bool(children and parents)


def _childless(vm: Faulting, wanted: int) -> list[int]:
    chosen: list[int] = []
    waiting: list[int] = []
    while len(chosen) < wanted:
        if not waiting:
            waiting = [spt for spt in vm.order[::-1] if spt != vm.root and spt not in chosen]
            if all(_on_a_path(vm, spt, chosen) for spt in waiting) and not (vm.policy == "accessed" and vm.accessed):
                break
        spt = waiting.pop(0)
        if vm.policy == "accessed" and spt in vm.accessed:
            vm.accessed.remove(spt)
            vm.move(spt)
        elif not _on_a_path(vm, spt, chosen):
            chosen.append(spt)
    return chosen + [spt for spt in vm.order[::-1] if spt not in chosen]


#: Policy -> what moves when a directory gets a child, and in which order reclaim looks at pages.
POLICIES: dict[str, tuple[Callable[[Faulting, int], None], Callable[[Faulting, int], list[int]]]] = {
    "stock": (_as_they_are, _oldest),
    "parents": (_parents_up, _oldest),
    "mapped": (_parents_up, _oldest),
    "leaf-first": (_as_they_are, _leaves_first),
    "childless": (_as_they_are, _childless),
    "accessed": (_as_they_are, _childless),
    "newest": (_as_they_are, _newest),
}


class Faulting(KernelVm):
    """One VM with a root, directories and tables, each with a gfn of its own, and room for so many pages."""

    def __init__(self, policy: str, limit: int) -> None:
        super().__init__(Ring(), Story().kvm, 1, patched=True, limit=limit)
        self.policy = policy
        self.moves, self.looks_at = POLICIES[policy]
        self.faults = 0
        self.zapped: list[int] = []
        #: Whose spte, in the one parent that each has, has its accessed bit set.
        self.accessed: set[int] = set()
        self._made = 0
        self._by_gfn: dict[int, int] = {}
        self.root = self._new(0, ROOT_LEVEL)

    def _new(self, gfn: int, level: int) -> int:
        self._made += 1
        spt = Story.spt(self._made)
        self.alloc(spt, gfn, role_of(level))
        self._by_gfn[gfn] = spt
        return spt

    @staticmethod
    def path(address: Address) -> list[tuple[int, int, int]]:
        """(index, gfn, level) of the pages below the root."""
        directory, table = address
        return [(directory, 1 + directory, 2), (table, 1000 + 100 * directory + table, 1)]

    def in_reach(self, address: Address) -> bool:
        """Whether the guest's access would find all there."""
        spt = self.root
        for index, gfn, _ in self.path(address):
            child = self.edges.get(spt + 8 * index)
            if child is None:
                return False
            assert self.pages[child].gfn == gfn
            spt = child
        return True

    def forget(self, address: Address, level: int) -> None:
        """The guest clears the entry of this level on the way to an address, as when a process ends."""
        entries = [(0, address[0]), (1 + address[0], address[1])]
        gfn, index = entries[ROOT_LEVEL - level]
        self.accessed.discard(self.edges.get(self._by_gfn.get(gfn, 0) + 8 * index, 0))
        self.write(gfn * PAGE_SIZE + 8 * index)

    def _go_through(self, address: Address) -> None:
        """The processor sets accessed bits as far as it gets."""
        spt = self.root
        for index, _, _ in self.path(address):
            if spt + 8 * index not in self.edges:
                return
            spt = self.edges[spt + 8 * index]
            self.accessed.add(spt)

    def access(self, address: Address) -> None:
        """The guest touches memory: a fault, if what maps it is not all there."""
        self._go_through(address)
        if self.in_reach(address):
            return
        self.faults += 1
        free = self.limit - len(self.order)
        if free < 5:
            self._make_room(25 - free)
        spt = self.root
        for index, gfn, level in self.path(address):
            pte = spt + 8 * index
            if pte not in self.edges:
                child = self._by_gfn.get(gfn) or self._new(gfn, level)
                self.link(pte, child)
                self.moves(self, spt)
            spt = self.edges[pte]
        self._go_through(address)

    def _make_room(self, wanted: int) -> None:
        self._numbered(Kind.RECLAIM, caller=within(PAGE_FAULT))
        # The root is in use, and stays.
        for spt in [spt for spt in self.looks_at(self, wanted) if spt != self.root][:wanted]:
            gfn = self.pages[spt].gfn
            self.zapped.append(gfn)
            del self._by_gfn[gfn]
            # What led to it, and what it led to, is not linked any more.
            self.accessed -= {spt, *(child for pte, child in self.edges.items() if pte & ~0xFFF == spt)}
            self.zap(spt, RECLAIM)

    def list_of_gfns(self) -> list[int]:
        """active_mmu_pages, the oldest first."""
        return [self.pages[spt].gfn for spt in reversed(self.order)]


__all__ = ["FACTS", "POLICIES", "Address", "Faulting"]
