# SPDX-License-Identifier: Apache-2.0
"""Walks over the kernel's own list, which make the pages of a VM the kernel's."""

from __future__ import annotations

from shadowwatch.event.abi import Flags
from shadowwatch.mmu.page import GFN_BITS, OFFSET, PAGE_SHIFT, SLOTS, Directory, Page
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.mmu.tree import Tree


class Walked(Tree):
    """The pages of a VM, and whether they are the very pages that the kernel has: `exact`.

    When an event is lost the pages are forgotten, for some of them may be gone. Then they are
    exact again after a walk over the kernel's own list, or as soon as they are as many as KVM
    counts (kvm->arch.n_used_mmu_pages, which comes with each allocation): there is never one
    that the kernel has not.

    A walk tells the oldest page first, in steps, and events go on between the steps. Each
    page that it tells is newer than all that it told before, and what came after the walk
    began is nearer to the head than the walk is. So a page told is put at the head, wherever
    it was, and all are in their order when the walk ends there.
    """

    __slots__ = (
        "exact",
        "flushed",
        "losses",
        "lost",
        "resyncs",
        "step_last",
        "step_left",
        "steps",
        "waiting",
        "walk",
        "writes",
        "written",
    )

    def __init__(self, kvm: int, pid: int, roles: RoleLayout) -> None:
        super().__init__(kvm, pid, roles)
        self.exact = False
        self.lost = 0
        #: How often events were lost, also where it is not known how many.
        self.losses = 0
        self.resyncs = 0
        #: The walk under way (0: none), how many records of its step are to come, whether it is
        #: the last, and how many steps were heard so far, of this walk and others.
        self.walk = 0
        self.step_left = 0
        self.step_last = False
        self.steps = 0
        #: Writes of the guest so far; table of a directory that the walk has not come to -> {slot in it: the page that
        #: it points to, and `writes` when that was told}; gfn -> [(`writes`, the address written to)] since.
        self.writes = 0
        #: How many there had been when all pages became obsolete.
        self.flushed = 0
        self.waiting: dict[int, dict[int, tuple[Page, int]]] = {}
        self.written: dict[int, list[tuple[int, int]]] = {}

    def _forget_pages(self) -> None:
        super()._forget_pages()
        self._end_walk()

    def _exact_again(self) -> None:
        self.exact = True
        if self.losses:
            self.resyncs += 1

    def _link_later(self, table: int, slot: int, child: Page | None) -> None:
        """The walk has yet to come to the parent, or to the child: then it tells of the link itself."""
        waiting = self.waiting.setdefault(table, {})
        if child is None:
            waiting.pop(slot, None)
            parent = self.directories.get(table)
            if parent:
                self._disconnect(parent, slot)
        else:
            waiting[slot] = (child, self.writes)

    def step(self, walk: int, flags: int, records: int) -> None:
        """So many records of a walk over the kernel's list follow, if the step is good."""
        if flags & Flags.FIRST and not flags & Flags.VOID:
            self._forget_pages()
            self.exact = False
            self.walk = walk
        if walk != self.walk:
            return
        self.steps += 1
        if flags & Flags.VOID:
            self._forget_pages()
            return
        self.step_left = records
        self.step_last = bool(flags & Flags.LAST)
        if not records:
            self._step_done()

    def page(self, walk: int, spt: int, gfn: int, role: int, parent_pte: int, flags: int) -> None:
        """The walk came to a page: it is newer than all that it came to before."""
        if walk != self.walk or not self.step_left:
            return
        table = spt >> PAGE_SHIFT
        page = self.pages.get(table)
        if page is None:
            level = self.levels[role]
            page = self._add(table, role << GFN_BITS | gfn, level)
            if level > 1:
                directory = self.directories[table]
                if flags & Flags.OBSOLETE:
                    self.obsolete.add(directory)
                self._connect_waiting(directory)
        else:
            self.active.move(page, self.pages)
        if parent_pte:
            self._told_parent(page, parent_pte)
        self._step_done(1)

    def _connect_waiting(self, directory: Directory) -> None:
        """The walk came to a directory: connect the pages that it said to be beneath, and that still are."""
        page = directory.page
        writes = self.written.get(page.gfn, [])
        if directory in self.obsolete:
            writes = [write for write in writes if write[0] <= self.flushed]
        for slot, (child, told) in self.waiting.pop(page.table, {}).items():
            cleared = any(
                number > told and slot << 3 in self.roles.written(page.role, address) for number, address in writes
            )
            if not cleared and self.pages.get(child.table) is child:
                self._connect(directory, slot, child)

    def parent(self, walk: int, spt: int, parent_pte: int) -> None:
        """The walk tells a further parent of the page that it came to."""
        if walk != self.walk or not self.step_left:
            return
        page = self.pages.get(spt >> PAGE_SHIFT)
        if page is not None:
            self._told_parent(page, parent_pte)
        self._step_done(1)

    def _told_parent(self, page: Page, parent_pte: int) -> None:
        table, slot = parent_pte >> PAGE_SHIFT, SLOTS[(parent_pte & OFFSET) >> 3]
        parent = self.directories.get(table)
        if parent is None:
            self.waiting.setdefault(table, {})[slot] = (page, self.writes)
        elif parent.children.get(slot) is not page:
            self._connect(parent, slot, page)

    def _step_done(self, records: int = 0) -> None:
        self.step_left -= records
        if self.step_last and not self.step_left:
            self._end_walk()
            self._exact_again()

    def _end_walk(self) -> None:
        self.walk = 0
        self.step_left = 0
        self.step_last = False
        self.waiting = {}
        self.written = {}
