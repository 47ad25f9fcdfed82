# SPDX-License-Identifier: Apache-2.0
"""A shadow page as the model keeps it: `struct kvm_mmu_page`, less what nobody asks for."""

from __future__ import annotations

from collections.abc import Iterator

#: A moment in a VM's life: its allocations so far, its parent moves so far, and the time in ns.
#: A plain tuple, because one is made for every link.
Parenting = tuple[int, int, int]

#: A page table is one 4 KiB page, so an spte's address names the table that it is in.
SPT_MASK = ~0xFFF


class Page:
    """A shadow page; above level 1 it is a directory.

    `age` is its place on active_mmu_pages (see ActiveMmuPages).

    `parent_pte` is the address of an spte that points here, 0 when the last one went, and
    None while nothing has pointed here yet, as to a root. `more_parents` are the others,
    which few pages have (the kernel keeps them likewise: struct kvm_rmap_head).

    `children` maps the address of an spte in this page to the page that it points to. All
    pages of level 1 share one map, which stays empty.

    `parented` tells when a child was last linked beneath this page, at any depth: None
    before the first time.

    There is one class for both, since the hot path is faster when it meets only one.
    """

    __slots__ = ("age", "children", "gfn", "more_parents", "parent_pte", "parented", "role", "spt")

    def __init__(self, spt: int, gfn: int, role: int, age: int, children: dict[int, Page]) -> None:
        self.spt = spt
        self.gfn = gfn
        self.role = role
        self.age = age
        self.children = children
        self.parent_pte: int | None = None
        self.more_parents: set[int] | None = None
        self.parented: Parenting | None = None

    def parents(self) -> Iterator[int]:
        """Iterate over the sptes that point to this page."""
        if self.parent_pte:
            yield self.parent_pte
        if self.more_parents:
            yield from self.more_parents

    def add_parent(self, pte: int) -> None:
        """Note that this spte points here, beside the one that does."""
        if self.more_parents is None:
            self.more_parents = set()
        self.more_parents.add(pte)

    def remove_parent(self, pte: int) -> bool:
        """Note that this spte points here no more; true when it was the last one."""
        more = self.more_parents
        if not more:
            self.parent_pte = 0
            return True
        if pte == self.parent_pte:
            self.parent_pte = more.pop()
        else:
            more.discard(pte)
        return False
