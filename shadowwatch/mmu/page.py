# SPDX-License-Identifier: Apache-2.0
"""A shadow page as the model keeps it: `struct kvm_mmu_page`, less what nobody asks for."""

from __future__ import annotations

from typing import Final, TypeAlias

#: A moment in a VM's life: its allocations so far, its parent moves so far, and the time in ns.
#: A plain tuple, because one is made for every link; of no length that is told, so that compiled, too, it is an object.
Parenting: TypeAlias = tuple[int, ...]

#: A page table is one 4 KiB page, so an spte's address names the table that it is in.
SPT_MASK = ~0xFFF

#: The number of that page, `spt >> PAGE_SHIFT`, is what tables are known by: it is shorter, and spreads well in a map.
PAGE_SHIFT: Final = 12

#: Events are fed with signed addresses (event/abi.py, SIGNED).
ADDRESS: Final = 0xFFFF_FFFF_FFFF_FFFF

#: A page's identity is its role and its gfn in one number, of which the lower bits, by which a map finds it, are the
#: gfn's: roles are few. An address of a guest has 52 bits at most.
GFN_BITS: Final = 40
GFN_MASK: Final = (1 << GFN_BITS) - 1

#: The places in a table, by the offset of an spte there >> 3; one of each, so that no page keeps a number of its own.
SLOTS: Final = tuple(range(512))
OFFSET: Final = 0xFFF

#: `slot` of a page that nothing has pointed to yet.
NEVER_LINKED: Final = -1


class Page:
    """A shadow page of any level.

    `table` is the number of the 4 KiB page that its table is; gfn and role are one number, `identity`. `age` is its
    place on active_mmu_pages (see ActiveMmuPages).

    `parent` is a directory of which the spte at the place `slot` points here, None when the last one went, and while
    nothing has pointed here yet, as to a root: then `slot` is NEVER_LINKED. The others, which few pages have, are kept
    by the tree.
    """

    __slots__ = ("age", "identity", "parent", "slot", "table")

    def __init__(self, table: int, identity: int, age: int) -> None:
        self.table = table
        self.identity = identity
        self.age = age
        self.parent: Directory | None = None
        self.slot = NEVER_LINKED

    @property
    def spt(self) -> int:
        """The address of its table."""
        return self.table << PAGE_SHIFT & ADDRESS

    @property
    def gfn(self) -> int:
        """The guest's page that it shadows."""
        return self.identity & GFN_MASK

    @property
    def role(self) -> int:
        """The word of union kvm_mmu_page_role."""
        return self.identity >> GFN_BITS


class Directory:
    """What there is to a page above level 1 besides.

    `children` maps places in its table to the pages that their sptes point to. `parented` tells when a child was last
    linked beneath it, at any depth: None before the first time.
    """

    __slots__ = ("children", "level", "page", "parented")

    def __init__(self, page: Page, level: int) -> None:
        self.page = page
        self.level = level
        self.children: dict[int, Page] = {}
        self.parented: Parenting | None = None

    def pte(self, slot: int) -> int:
        """The address of an spte in its table."""
        return (self.page.table << PAGE_SHIFT | slot << 3) & ADDRESS
