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
    """A shadow page of level 1.

    `parent_ptes` is kept as the kernel keeps it (struct kvm_rmap_head): one spte's address
    while there is one, a set when there are more, 0 when the last one went. It is None for
    a page that nothing has pointed to yet, such as a root.
    """

    __slots__ = ("age", "gfn", "parent_ptes", "role", "spt")

    def __init__(self, spt: int, gfn: int, role: int, age: int) -> None:
        self.spt = spt
        self.gfn = gfn
        self.role = role
        self.age = age
        self.parent_ptes: int | set[int] | None = None

    def parents(self) -> Iterator[int]:
        """Iterate over the sptes that point to this page."""
        ptes = self.parent_ptes
        if isinstance(ptes, set):
            yield from ptes
        elif ptes:
            yield ptes

    def add_parent(self, pte: int) -> None:
        """Note that this spte points here."""
        ptes = self.parent_ptes
        if not ptes:
            self.parent_ptes = pte
        elif isinstance(ptes, set):
            ptes.add(pte)
        elif ptes != pte:
            self.parent_ptes = {ptes, pte}

    def remove_parent(self, pte: int) -> bool:
        """Note that this spte points here no more; true when it was the last one."""
        ptes = self.parent_ptes
        if isinstance(ptes, set):
            ptes.discard(pte)
            if ptes:
                return False
        self.parent_ptes = 0
        return True


class Directory(Page):
    """A shadow page above level 1.

    `children` maps the address of an spte in this page to the page that it points to.
    `parented` tells when a child was last linked beneath this page, at any depth: None
    before the first time.
    """

    __slots__ = ("children", "parented")

    def __init__(self, spt: int, gfn: int, role: int, age: int) -> None:
        self.spt = spt
        self.gfn = gfn
        self.role = role
        self.age = age
        self.parent_ptes = None
        self.children: dict[int, Page] = {}
        self.parented: Parenting | None = None
