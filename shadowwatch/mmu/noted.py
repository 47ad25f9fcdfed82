# SPDX-License-Identifier: Apache-2.0
"""All pages of a VM at one moment: noted fast, since the model waits meanwhile, and copied for others to read later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from shadowwatch.mmu.page import ADDRESS, GFN_BITS, GFN_MASK, PAGE_SHIFT, Parenting
from shadowwatch.snapshot import PageSnapshot


class Noted(NamedTuple):
    """`pages` are (age, table, identity, the spte that points to it if any), `more` further ones by table.

    `directories` are (slot -> the child's table, when it was parented) by table; `allocated` is the VM's clock.
    """

    pages: Sequence[tuple[int, int, int, int | None]]
    more: Mapping[int, Sequence[int]]
    directories: Mapping[int, tuple[Mapping[int, int], Parenting | None]]
    allocated: int
    levels: Mapping[int, int]

    def copied(self) -> tuple[PageSnapshot, ...]:
        """The newest on active_mmu_pages first."""
        snapshots = []
        for position, (_, table, identity, pte) in enumerate(sorted(self.pages, reverse=True)):
            role = identity >> GFN_BITS
            children, parented = self.directories.get(table, ({}, None))
            spt = table << PAGE_SHIFT
            snapshots.append(
                PageSnapshot(
                    spt=spt & ADDRESS,
                    gfn=identity & GFN_MASK,
                    role=role,
                    level=self.levels[role],
                    position=position,
                    parents=frozenset() if pte is None else frozenset((pte, *self.more.get(table, ()))),
                    children={
                        (spt | slot << 3) & ADDRESS: child << PAGE_SHIFT & ADDRESS for slot, child in children.items()
                    },
                    parented=None if parented is None else self.allocated - parented[0],
                    parented_ns=None if parented is None else parented[2],
                )
            )
        return tuple(snapshots)
