# SPDX-License-Identifier: Apache-2.0
"""One VM's shadow MMU, rebuilt from its events."""

from __future__ import annotations

from typing import Final

from shadowwatch.event.abi import Flags, Kind
from shadowwatch.mmu.cause import Unsettled
from shadowwatch.mmu.curve import Curve
from shadowwatch.mmu.figures import AGE_BOUNDS, IS_RECLAIM, POSITION_BOUNDS, SECONDS_BOUNDS, Figures
from shadowwatch.mmu.histogram import Histogram
from shadowwatch.mmu.page import GFN_BITS, OFFSET, PAGE_SHIFT, SLOTS, Directory, Parenting
from shadowwatch.snapshot import Cause

_BY_RECLAIM: Final = int(Unsettled.BY_RECLAIM)
_BY_FLUSH: Final = int(Unsettled.BY_FLUSH)
_BY_PARENT: Final = int(Unsettled.BY_PARENT)
_BY_SYNC: Final = int(Unsettled.BY_SYNC)
_SYNC: Final = int(Cause.SYNC)
_PARENT_CAP: Final = int(Cause.PARENT_CAP)
_IN_SYNC: Final = int(Flags.IN_SYNC)

#: The mean position is over about so many zaps.
ZAPS_TO_TELL: Final = 64

#: How many zapped pages a VM remembers for refaults: at least this many in each of two generations.
REMEMBERED: Final = 1024


class Vm(Figures):
    """One VM, and what its events do to its pages and figures."""

    __slots__ = ()

    @property
    def blank(self) -> bool:
        """Whether it has no list of pages, and is not about to be told one."""
        return not self.exact and not self.walk

    def lose(self, events: int) -> None:
        """So many events of this VM were lost: forget the pages, for some of them may be gone."""
        self.lost += events
        self.unsettled = True
        self.losses += 1
        self.exact = False
        self._forget_pages()

    def give_up(self) -> None:
        """There is no room for its pages: they are forgotten, and what comes of them is only counted."""
        self.oversize = True
        self.exact = False
        self.changed = True
        self._forget_pages()

    def end(self, ns: int) -> None:
        """The VM is gone, and its pages with it; its figures stay."""
        self.ended_ns = ns
        self.changed = True
        self._forget_pages()

    def _forget_pages(self) -> None:
        super()._forget_pages()
        self.zapped = {}
        self.zapped_before = {}
        self.reclaim_time.forget()
        if self.curve is not None:
            self.curve.forget()

    def alloc(self, ns: int, spt: int, gfn: int, role: int, limit: int, used: int, mapped: int) -> None:
        """A page was allocated; it is the newest on the list."""
        if self.reclaim_time.began_ns:
            self.reclaim_time.over(ns)
        table = spt >> PAGE_SHIFT
        pages = self.pages
        if table in pages:
            # The walk that is under way may have told of it just before.
            if not self.walk:
                self.unknown_pages[Kind.ALLOC] += 1
            self._remove(pages[table])
            self.waiting.pop(table, None)
        level = self.levels[role]
        identity = role << GFN_BITS | gfn
        self._add(table, identity, level)
        self.allocated += 1
        self.allocations[level] += 1
        self.limit = limit
        self.mapped = mapped
        then = self.zapped.pop(identity, None)
        if then is None:
            then = self.zapped_before.pop(identity, None)
        if then is not None:
            self.refaults[level] += 1
            self.refault_distance.observe(self.allocated - then)
        if self.curve is not None:
            self.curve.alloc(identity, then is not None)
        if not self.exact and used == len(pages) and not self.walk and not self.oversize:
            self._exact_again()

    def link(self, ns: int, spt: int, parent_pte: int) -> None:
        """An spte was made to point to a page: all directories above are parented now."""
        if self.reclaim_time.began_ns:
            self.reclaim_time.over(ns)
        self.links += 1
        slot = SLOTS[parent_pte & OFFSET]
        child = self.pages.get(spt >> PAGE_SHIFT)
        parent = self.directories.get(parent_pte >> PAGE_SHIFT)
        if child is None or parent is None:
            if self.exact:
                self.unknown_pages[Kind.LINK] += 1
            if self.walk:
                self._link_later(parent_pte >> PAGE_SHIFT, slot, child)
            elif parent is not None:
                self._disconnect(parent, slot)
            return
        if parent.children.get(slot) is not child:
            self._connect(parent, slot, child)
        now = (self.allocated, self.moves, ns)
        if self.more_parents:
            self._parented(parent, now)
            return
        # Each page has one parent at most: so it is nearly always.
        above: Directory | None = parent
        while above is not None:
            above.parented = now
            above = above.page.parent

    def unlink(self, ns: int, parent_pte: int) -> None:
        """An spte was made to map memory: if it pointed to a page before, it does so no more."""
        if self.reclaim_time.began_ns:
            self.reclaim_time.over(ns)
        parent = self.directories.get(parent_pte >> PAGE_SHIFT)
        if parent is not None:
            self._disconnect(parent, SLOTS[parent_pte & OFFSET])
        elif self.waiting:
            self.waiting.get(parent_pte >> PAGE_SHIFT, {}).pop(SLOTS[parent_pte & OFFSET], None)

    def move(self, spt: int) -> None:
        """mmu_parent_walk() moved a page to the head of the list."""
        self.moves += 1
        page = self.pages.get(spt >> PAGE_SHIFT)
        if page is None:
            if self.exact:
                self.unknown_pages[Kind.MOVE] += 1
            return
        self.active.move(page, self.pages)

    def zap(self, ns: int, spt: int, role: int, caller: int, flags: int) -> None:
        """A page is being zapped: it leaves the list, its children and its parents."""
        cause = self.zap_causes[caller]
        chosen = cause != _BY_PARENT
        if cause < 0:
            if cause == _BY_RECLAIM:
                cause = self.reclaim_cause
            elif cause == _BY_FLUSH:
                cause = self.flush_cause
            elif cause == _BY_SYNC:
                cause = _PARENT_CAP if flags & _IN_SYNC else _SYNC
            else:
                cause = self.last_cause
        self.last_cause = cause
        if role & self.invalid:
            # A root that was zapped while a vCPU used it left the list then; now it is freed.
            self.root_zaps += 1
            return
        level = self.levels[role]
        self.zaps[cause][level] += 1
        if not chosen:
            self.recursive_zaps[level] += 1
        table = spt >> PAGE_SHIFT
        pages = self.pages
        page = pages.get(table)
        if page is None:
            if self.exact:
                self.unknown_pages[Kind.ZAP] += 1
            return
        identity = page.identity
        curve = self.curve
        recent = False
        if IS_RECLAIM[cause]:
            if chosen:
                histogram = self.zap_position.get(level)
                if histogram is None:
                    histogram = self.zap_position[level] = Histogram(POSITION_BOUNDS)
                position = self.active.position(page.age, len(pages))
                histogram.observe(position)
                self.mean_position += (position - self.mean_position) / ZAPS_TO_TELL
            directory = self.directories.get(table)
            if directory is not None and directory.parented is not None:
                recent = self._reclaimed(directory.parented, level, ns)
            self.reclaim_time.last_ns = ns
            if curve is not None:
                curve.reclaimed(identity)
        elif curve is not None:
            curve.zapped(identity)
        self.last_zaps.append((ns, identity, level, cause, chosen, recent))
        self._remove(page)
        if self.waiting:
            self.waiting.pop(table, None)
        zapped = self.zapped
        zapped[identity] = self.allocated
        if len(zapped) > REMEMBERED and len(zapped) > len(pages) >> 2:
            self.zapped_before = zapped
            self.zapped = {}

    def reclaim(self, ns: int, caller: int, mapped: int) -> None:
        """The oldest pages are about to be zapped."""
        self.reclaims += 1
        self.reclaim_time.begin(ns)
        self.mapped = mapped
        self.reclaim_cause = self.causes.reclaim[caller]
        if self.exact and self.allocated >= self.curve_due and (self.curve is None or self.curve.limit != self.limit):
            # Who changes the limit all the time does not have the list sorted as often.
            self.curve_due = self.allocated + len(self.pages)
            if self.curve is None:
                self.curve = Curve(sum(self.refaults))
            oldest_first = sorted(self.pages.values(), key=lambda page: page.age)
            self.curve.begin(self.limit, [page.identity for page in oldest_first])

    def flush(self, caller: int) -> None:
        """All pages became obsolete, and are about to be zapped."""
        self.flush_cause = self.causes.flush[caller]
        self.obsolete = set(self.directories.values())
        self.flushed = self.writes

    def write(self, address: int) -> None:
        """The guest wrote to a page of its own: the sptes made from what was there are cleared."""
        self.writes += 1
        if self.walk:
            self.written.setdefault(address >> 12, []).append((self.writes, address))
        self._clear_written(address)

    def _reclaimed(self, parented: Parenting, level: int, ns: int) -> bool:
        """A directory with children was zapped by reclaim: keep its age, and tell whether it was recently parented."""
        allocated, moves, parented_ns = parented
        age = self.allocated - allocated
        age_ns = ns - parented_ns
        ages = self.parenting_age.get(level)
        if ages is None:
            ages = self.parenting_age[level] = Histogram(AGE_BOUNDS)
            self.parenting_age_seconds[level] = Histogram(SECONDS_BOUNDS)
        ages.observe(age)
        self.parenting_age_seconds[level].observe(age_ns / 1e9)
        # A page put at the head is the oldest after one list-length of pages was put there:
        # allocated ones, and with the patched KVM moved ones, too.
        put_ahead = age + self.moves - moves
        recent = put_ahead < len(self.pages) if self.recent_ns is None else age_ns < self.recent_ns
        if recent:
            self.recently_parented_zaps[level] += 1
        return recent

    def adopt(self, other: Vm) -> None:
        """Take over the pages of another model of the same VM, which is right where this one is not."""
        for table, directory in other.directories.items():
            mine = self.directories.get(table)
            if mine is not None and mine.page.role == directory.page.role:
                directory.parented = mine.parented
        super()._forget_pages()
        self.pages = other.pages
        self.directories = other.directories
        self.active = other.active
        self.orphans = other.orphans
        self.more_parents = other.more_parents
        self.obsolete = other.obsolete
        self.resyncs += 1
