# SPDX-License-Identifier: Apache-2.0
"""The shadow pages of one VM, what points to what, and their order on active_mmu_pages."""

from __future__ import annotations

from collections.abc import Iterator

from shadowwatch.event.decoder import Life
from shadowwatch.mmu.active import ActiveMmuPages
from shadowwatch.mmu.page import GFN_MASK, NEVER_LINKED, PAGE_SHIFT, Directory, Page, Parenting
from shadowwatch.mmu.role import RoleLayout

#: Level 1 tables to level 5 roots, indexed by level; 0 and 6–15 only if an event is damaged.
LEVELS = 16


class Tree(Life):
    """Pages, edges and places, kept whole: each edge is known at both of its ends."""

    __slots__ = (
        "active",
        "by_level",
        "directories",
        "gfns",
        "levels",
        "more_parents",
        "obsolete",
        "orphans",
        "pages",
        "roles",
    )

    def __init__(self, kvm: int, pid: int, roles: RoleLayout) -> None:
        super().__init__(kvm, pid)
        self.roles = roles
        self.levels = roles.levels
        #: Page.table -> page, and what there is to those above level 1 besides.
        self.pages: dict[int, Page] = {}
        self.directories: dict[int, Directory] = {}
        #: How many directories there are of each level.
        self.by_level = [0] * LEVELS
        self.active = ActiveMmuPages()
        self.orphans = 0
        #: Page -> the (directory, slot) that point to it, beside the one that it knows: few pages have any (the kernel
        #: keeps them likewise: struct kvm_rmap_head).
        self.more_parents: dict[Page, dict[tuple[Directory, int], None]] = {}
        #: gfn -> directories that shadow it, made when a guest first writes to one.
        self.gfns: dict[int, set[Directory]] | None = None
        #: The directories of an older generation, which are about to be zapped: a guest's writes pass them over.
        self.obsolete: set[Directory] = set()

    def _forget_pages(self) -> None:
        # Pages that know each other would wait for Python's collector.
        for directory in self.directories.values():
            directory.children = {}
        self._begin_empty()

    def _begin_empty(self) -> None:
        self.pages = {}
        self.directories = {}
        self.by_level = [0] * LEVELS
        self.active = ActiveMmuPages()
        self.orphans = 0
        self.more_parents = {}
        self.gfns = None
        self.obsolete = set()

    def parents(self, page: Page) -> Iterator[int]:
        """Iterate over the sptes that point to a page."""
        if page.parent is not None:
            yield page.parent.pte(page.slot)
        for parent, slot in self.more_parents.get(page, ()):
            yield parent.pte(slot)

    def _add(self, table: int, identity: int, level: int) -> Page:
        pages = self.pages
        active = self.active
        if len(active.live) > active.room:
            active.renumber(pages)
        live = active.live
        page = pages[table] = Page(table, identity, len(live))
        live.append(1)
        if level > 1:
            self._add_directory(page, level)
        return page

    def _add_directory(self, page: Page, level: int) -> None:
        directory = self.directories[page.table] = Directory(page, level)
        self.by_level[level] += 1
        if self.gfns is not None:
            self.gfns.setdefault(page.identity & GFN_MASK, set()).add(directory)

    def _connect(self, parent: Directory, slot: int, child: Page) -> None:
        directory = self.directories.get(child.table)
        if directory is not None and directory.level >= parent.level:
            # No kernel does that; in a forged capture it would lead in circles, or as deep as there are pages.
            self._disconnect(parent, slot)
            return
        before = parent.children.get(slot)
        if before is not None:
            self._parent_gone(before, parent, slot)
        parent.children[slot] = child
        if child.parent is not None:
            self.more_parents.setdefault(child, {})[parent, slot] = None
            return
        if child.slot != NEVER_LINKED:
            self.orphans -= 1
        child.parent = parent
        child.slot = slot

    def _disconnect(self, parent: Directory, slot: int) -> None:
        child = parent.children.pop(slot, None)
        if child is not None:
            self._parent_gone(child, parent, slot)

    def _parent_gone(self, child: Page, parent: Directory, slot: int) -> None:
        """An spte that pointed to a page does so no more: it is an orphan when that was the last one."""
        more = self.more_parents.get(child) if self.more_parents else None
        if more is None:
            child.parent = None
            self.orphans += 1
            return
        if child.parent is parent and child.slot == slot:
            (child.parent, child.slot), _ = more.popitem()
        else:
            more.pop((parent, slot), None)
        if not more:
            del self.more_parents[child]

    def _parented(self, directory: Directory, now: Parenting) -> None:
        # A page that has this very stamp was reached over another path: do not walk on from it.
        at: Directory | None = directory
        while at is not None and at.parented is not now:
            at.parented = now
            page = at.page
            if self.more_parents:
                for parent, _ in self.more_parents.get(page, ()):
                    self._parented(parent, now)
            at = page.parent

    def _remove(self, page: Page) -> None:
        table = page.table
        del self.pages[table]
        self.active.live[page.age] = 0
        parent = page.parent
        if parent is not None:
            del parent.children[page.slot]
            page.parent = None
            if self.more_parents:
                for parent, slot in self.more_parents.pop(page, ()):
                    del parent.children[slot]
        elif page.slot != NEVER_LINKED:
            self.orphans -= 1
        directory = self.directories.pop(table, None)
        if directory is not None:
            self._leave(directory)

    def _leave(self, directory: Directory) -> None:
        """A directory goes: its children have a parent less."""
        self.by_level[directory.level] -= 1
        if self.obsolete:
            self.obsolete.discard(directory)
        if self.gfns is not None:
            self._unindex(self.gfns, directory)
        if self.more_parents:
            for slot, child in directory.children.items():
                self._parent_gone(child, directory, slot)
            return
        for child in directory.children.values():
            child.parent = None
        self.orphans += len(directory.children)

    @staticmethod
    def _unindex(gfns: dict[int, set[Directory]], directory: Directory) -> None:
        gfn = directory.page.gfn
        directories = gfns[gfn]
        directories.remove(directory)
        if not directories:
            del gfns[gfn]

    def _clear_written(self, address: int) -> None:
        """Take away the edges of the sptes that KVM clears when the guest writes there: of no obsolete directory."""
        gfns = self.gfns
        if gfns is None:
            gfns = self.gfns = {}
            for directory in self.directories.values():
                gfns.setdefault(directory.page.gfn, set()).add(directory)
        for directory in gfns.get(address >> PAGE_SHIFT, ()):
            if directory not in self.obsolete:
                for offset in self.roles.written(directory.page.role, address):
                    self._disconnect(directory, offset >> 3)

    def tables_in_reach(self) -> int:
        """How many tables of level 1 the roots lead to: through these the guest reaches its memory."""
        # A root is of the highest level, and nothing has ever pointed to it.
        top = max((directory.level for directory in self.directories.values()), default=0)
        waiting = [
            directory
            for directory in self.directories.values()
            if directory.level == top and directory.page.slot == NEVER_LINKED
        ]
        seen: set[int] = set()
        tables = 0
        while waiting:
            for child in waiting.pop().children.values():
                if child.table not in seen:
                    seen.add(child.table)
                    directory = self.directories.get(child.table)
                    if directory is None:
                        tables += 1
                    else:
                        waiting.append(directory)
        return tables
