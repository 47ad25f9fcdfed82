# SPDX-License-Identifier: Apache-2.0
"""The shadow pages of one VM, what points to what, and their order on active_mmu_pages."""

from __future__ import annotations

from shadowwatch.mmu.active import ActiveMmuPages
from shadowwatch.mmu.page import SPT_MASK, Page, Parenting
from shadowwatch.mmu.role import RoleLayout

#: Level 1 tables to level 5 roots, indexed by level; 0 and 6–15 only if an event is damaged.
LEVELS = 16

_NO_CHILDREN: dict[int, Page] = {}


class Tree:
    """Pages, edges and places, kept whole: each edge is known at both of its ends."""

    __slots__ = ("active", "directories", "gfns", "levels", "obsolete", "orphans", "pages", "roles")

    def __init__(self, roles: RoleLayout) -> None:
        self.roles = roles
        self.levels = roles.levels
        #: spt -> page: all of them, and those above level 1.
        self.pages: dict[int, Page] = {}
        self.directories: dict[int, Page] = {}
        self.active = ActiveMmuPages()
        self.orphans = 0
        #: gfn -> directories that shadow it, made when a guest first writes to one.
        self.gfns: dict[int, set[int]] | None = None
        #: The directories of an older generation, which are about to be zapped: a guest's writes pass them over.
        self.obsolete: set[int] = set()

    def _forget_pages(self) -> None:
        self.pages = {}
        self.directories = {}
        self.active = ActiveMmuPages()
        self.orphans = 0
        self.gfns = None
        self.obsolete = set()

    def _add(self, spt: int, gfn: int, role: int, level: int) -> Page:
        pages = self.pages
        role = self.roles.words.setdefault(role, role)
        age = self.active.add(pages)
        if level > 1:
            page = pages[spt] = self.directories[spt] = Page(spt, gfn, role, age, {})
            if self.gfns is not None:
                self.gfns.setdefault(gfn, set()).add(spt)
        else:
            page = pages[spt] = Page(spt, gfn, role, age, _NO_CHILDREN)
        return page

    def _connect(self, parent: Page, parent_pte: int, child: Page) -> None:
        if self.levels[child.role] >= self.levels[parent.role]:
            # No kernel does that; in a forged capture it would lead in circles, or as deep as there are pages.
            self._disconnect(parent, parent_pte)
            return
        before = parent.children.get(parent_pte)
        if before is not None and before.remove_parent(parent_pte):
            self.orphans += 1
        parent.children[parent_pte] = child
        if child.parent_pte:
            child.add_parent(parent_pte)
        else:
            if child.parent_pte == 0:
                self.orphans -= 1
            child.parent_pte = parent_pte

    def _disconnect(self, parent: Page, parent_pte: int) -> None:
        child = parent.children.pop(parent_pte, None)
        if child is not None and child.remove_parent(parent_pte):
            self.orphans += 1

    def _parented(self, directory: Page, now: Parenting) -> None:
        # A page that has this very stamp was reached over another path: do not walk on from it.
        directories = self.directories
        while directory.parented is not now:
            directory.parented = now
            if directory.more_parents:
                for pte in directory.more_parents:
                    self._parented(directories[pte & SPT_MASK], now)
            if not directory.parent_pte:
                return
            directory = directories[directory.parent_pte & SPT_MASK]

    def _remove(self, page: Page) -> None:
        directories = self.directories
        del self.pages[page.spt]
        self.active.remove(page.age)
        pte = page.parent_pte
        if pte:
            del directories[pte & SPT_MASK].children[pte]
            if page.more_parents:
                for pte in page.more_parents:
                    del directories[pte & SPT_MASK].children[pte]
        elif pte == 0:
            self.orphans -= 1
        if page.spt in directories:
            del directories[page.spt]
            if self.obsolete:
                self.obsolete.discard(page.spt)
            if self.gfns is not None:
                self._unindex(self.gfns, page)
            for pte, child in page.children.items():
                if child.remove_parent(pte):
                    self.orphans += 1

    @staticmethod
    def _unindex(gfns: dict[int, set[int]], page: Page) -> None:
        directories = gfns[page.gfn]
        directories.remove(page.spt)
        if not directories:
            del gfns[page.gfn]

    def _clear_written(self, address: int) -> None:
        """Take away the edges of the sptes that KVM clears when the guest writes there: of no obsolete directory."""
        gfns = self.gfns
        if gfns is None:
            gfns = self.gfns = {}
            for spt, directory in self.directories.items():
                gfns.setdefault(directory.gfn, set()).add(spt)
        for spt in gfns.get(address >> 12, ()):
            if spt in self.obsolete:
                continue
            directory = self.directories[spt]
            for offset in self.roles.written(directory.role, address):
                self._disconnect(directory, spt + offset)

    def tables_in_reach(self) -> int:
        """How many tables of level 1 the roots lead to: through these the guest reaches its memory."""
        # A root is of the highest level, and nothing has ever pointed to it.
        top = max((self.levels[directory.role] for directory in self.directories.values()), default=0)
        waiting = [
            directory
            for directory in self.directories.values()
            if directory.parent_pte is None and self.levels[directory.role] == top
        ]
        seen: set[int] = set()
        tables = 0
        while waiting:
            for child in waiting.pop().children.values():
                if child.spt not in seen:
                    seen.add(child.spt)
                    if child.children is _NO_CHILDREN:
                        tables += 1
                    else:
                        waiting.append(child)
        return tables
