# SPDX-License-Identifier: Apache-2.0
"""The pages of one VM that are there in either life, or were there lately."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shadowwatch.mmu.page import GFN_BITS, GFN_MASK, PAGE_SHIFT
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.simulate.page import SimulatedPage

#: Pages that are in neither life are forgotten when there are so many for each that is, and some more.
SLACK, FLOOR = 4, 4096


class Pages:
    """Found by identity (mmu/page.py), and directories by what the guest writes to."""

    __slots__ = ("_by_identity", "_directories", "_roles")

    def __init__(self, roles: RoleLayout) -> None:
        self._roles = roles
        self._by_identity: dict[int, SimulatedPage] = {}
        #: By the gfn that they shadow.
        self._directories: dict[int, list[SimulatedPage]] = {}

    def get(self, gfn: int, role: int, alive: int) -> SimulatedPage:
        """The page of this gfn and role, the same as before if it is known; `alive` are in one of the lives."""
        identity = role << GFN_BITS | gfn
        page = self._by_identity.get(identity)
        if page is None:
            if len(self._by_identity) > SLACK * alive + FLOOR:
                known = [page for page in self._by_identity.values() if page.recorded or page.resident]
                self._by_identity = {}
                self._directories = {}
                for page in known:
                    self._add(page)
            page = SimulatedPage(identity, self._roles.levels[role], bool(self._roles.field(role, "guest_mode")))
            self._add(page)
        return page

    def _add(self, page: SimulatedPage) -> None:
        self._by_identity[page.identity] = page
        if page.level > 1:
            self._directories.setdefault(page.identity & GFN_MASK, []).append(page)

    def written(self, address: int) -> Sequence[tuple[SimulatedPage, range]]:
        """The directories that shadow what is at this address, and the offsets of the sptes made from it."""
        directories = self._directories.get(address >> PAGE_SHIFT, ())
        return [(page, self._roles.written(page.identity >> GFN_BITS, address)) for page in directories]

    def __len__(self) -> int:
        return len(self._by_identity)

    def __iter__(self) -> Iterator[SimulatedPage]:
        return iter(self._by_identity.values())
