# SPDX-License-Identifier: Apache-2.0
"""The model against the kernel's own list, entry by entry."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import zip_longest

from shadowwatch.event.decoder import Taker
from shadowwatch.mmu.page import Page
from shadowwatch.mmu.vm import Vm


@dataclass(frozen=True, slots=True)
class Entry:
    """What a place on active_mmu_pages holds: a page, and the sptes that point to it."""

    spt: int
    gfn: int
    role: int
    parents: frozenset[int]

    def __str__(self) -> str:
        parents = ", ".join(f"{pte:#x}" for pte in sorted(self.parents)) or "none"
        return f"spt {self.spt:#x} gfn {self.gfn:#x} role {self.role:#x} parents {parents}"


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place, counted from the newest page, where model and kernel differ; None: no such place."""

    vm: str
    position: int
    model: Entry | None
    kernel: Entry | None

    def __str__(self) -> str:
        return f"VM {self.vm}, position {self.position}: model has {self.model}, kernel has {self.kernel}"


class Audited(Taker):
    """A VM during an audit: its events go to the model, and to another that a walk builds from the kernel's list.

    When the walk ends both speak of the same moment, however long it took.
    """

    __slots__ = ("_vm", "kernel", "over")

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self.kernel = Vm(vm.kvm, vm.pid, vm.roles, vm.causes, vm.recent_ns)
        #: Whether the walk has ended, in one way or the other.
        self.over = False

    def alloc(self, ns: int, spt: int, gfn: int, role: int, limit: int, used: int, mapped: int) -> None:
        """As Vm.alloc."""
        self._vm.alloc(ns, spt, gfn, role, limit, used, mapped)
        self.kernel.alloc(ns, spt, gfn, role, limit, used, mapped)

    def link(self, ns: int, spt: int, parent_pte: int) -> None:
        """As Vm.link."""
        self._vm.link(ns, spt, parent_pte)
        self.kernel.link(ns, spt, parent_pte)

    def unlink(self, ns: int, parent_pte: int) -> None:
        """As Vm.unlink."""
        self._vm.unlink(ns, parent_pte)
        self.kernel.unlink(ns, parent_pte)

    def move(self, spt: int) -> None:
        """As Vm.move."""
        self._vm.move(spt)
        self.kernel.move(spt)

    def zap(self, run: list[tuple[int, ...]]) -> None:
        """As Vm.zap."""
        self._vm.zap(run)
        self.kernel.zap(run)

    def write(self, address: int) -> None:
        """As Vm.write."""
        self._vm.write(address)
        self.kernel.write(address)

    def reclaim(self, ns: int, caller: int, mapped: int) -> None:
        """As Vm.reclaim."""
        self._vm.reclaim(ns, caller, mapped)

    def flush(self, caller: int) -> None:
        """As Vm.flush."""
        self._vm.flush(caller)
        self.kernel.flush(caller)

    def step(self, walk: int, flags: int, records: int) -> None:
        """As Vm.step."""
        self.kernel.step(walk, flags, records)
        self.over = self.over or not self.kernel.walk

    def page(self, walk: int, spt: int, gfn: int, role: int, parent_pte: int, flags: int) -> None:
        """As Vm.page."""
        self.kernel.page(walk, spt, gfn, role, parent_pte, flags)
        self.over = self.over or not self.kernel.walk

    def parent(self, walk: int, spt: int, parent_pte: int) -> None:
        """As Vm.parent."""
        self.kernel.parent(walk, spt, parent_pte)
        self.over = self.over or not self.kernel.walk

    @property
    def steps(self) -> int:
        """As Vm.steps."""
        return self.kernel.steps

    def result(self) -> Difference | None:
        """Count what was compared, correct the model where it was wrong, and return the first difference.

        Nothing is counted when the walk did not come to its end.
        """
        vm, kernel = self._vm, self.kernel
        if not kernel.exact or not vm.exact:
            return None
        vm.audits += 1
        first = None
        for position, (mine, truth) in enumerate(zip_longest(_newest_first(vm), _newest_first(kernel))):
            vm.audited += 1
            if not _same(vm, mine, kernel, truth):
                vm.differing += 1
                first = first or Difference(vm.name, position, _entry(vm, mine), _entry(kernel, truth))
        if first:
            vm.adopt(kernel)
        else:
            kernel._forget_pages()
        return first


def _newest_first(vm: Vm) -> list[Page]:
    return sorted(vm.pages.values(), key=_age, reverse=True)


def _same(vm: Vm, mine: Page | None, kernel: Vm, truth: Page | None) -> bool:
    """Whether both are the same entry. None is made of each page: those would take more room than the pages do."""
    if mine is None or truth is None or mine.table != truth.table or mine.identity != truth.identity:
        return False
    if mine in vm.more_parents or truth in kernel.more_parents or mine.parent is None or truth.parent is None:
        return frozenset(vm.parents(mine)) == frozenset(kernel.parents(truth))
    return mine.parent.page.table == truth.parent.page.table and mine.slot == truth.slot


def _entry(vm: Vm, page: Page | None) -> Entry | None:
    return None if page is None else Entry(page.spt, page.gfn, page.role, frozenset(vm.parents(page)))


def _age(page: Page) -> int:
    return page.age
