# SPDX-License-Identifier: Apache-2.0
"""One VM's shadow MMU, rebuilt from its events."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

from shadowwatch.event.abi import UNCOUNTED, Flags, Kind
from shadowwatch.mmu.cause import Unsettled
from shadowwatch.mmu.curve import Curve
from shadowwatch.mmu.figures import AGE_BOUNDS, IS_RECLAIM, POSITION_BOUNDS, SECONDS_BOUNDS, Figures
from shadowwatch.mmu.histogram import Histogram
from shadowwatch.mmu.page import GFN_BITS, NEVER_LINKED, OFFSET, PAGE_SHIFT, SLOTS, Directory, Page, Parenting
from shadowwatch.snapshot import Cause

_BY_RECLAIM: Final = int(Unsettled.BY_RECLAIM)
_BY_FLUSH: Final = int(Unsettled.BY_FLUSH)
_BY_PARENT: Final = int(Unsettled.BY_PARENT)
_BY_SYNC: Final = int(Unsettled.BY_SYNC)
_SYNC: Final = int(Cause.SYNC)
_PARENT_CAP: Final = int(Cause.PARENT_CAP)
_IN_SYNC: Final = int(Flags.IN_SYNC)

#: No caller has this address.
_NOBODY: Final = -1

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
        if self.mapped != UNCOUNTED:
            self.mapped = 0
        self._forget_pages()

    def _forget_pages(self) -> None:
        super()._forget_pages()
        self.zapped = {}
        self.zapped_before = {}
        self.reclaiming = False
        if self.curve is not None:
            self.curve.forget()

    def alloc(self, ns: int, spt: int, gfn: int, role: int, limit: int, used: int, mapped: int) -> None:
        """A page was allocated; it is the newest on the list."""
        if self.reclaiming:
            self._reclaim_over(ns)
        table = spt >> PAGE_SHIFT
        pages = self.pages
        if table in pages:
            # The walk that is under way may have told of it just before.
            if not self.walk:
                self.unknown_pages[Kind.ALLOC] += 1
            self._remove(pages[table])
            self.waiting.pop(table, None)
            self.active.tidy(pages)
        level = self.levels[role]
        identity = role << GFN_BITS | gfn
        live = self.active.live
        page = pages[table] = Page(table, identity, len(live))
        live.append(1)
        if level > 1:
            self._add_directory(page, level)
        allocated = self.allocated = self.allocated + 1
        self.allocations[level] += 1
        self.limit = limit
        self.mapped = mapped
        then = self.zapped.pop(identity, None)
        if then is None and self.zapped_before:
            then = self.zapped_before.pop(identity, None)
        curve = self.curve
        if curve is not None and (curve.part == 1 or not identity % curve.part):
            curve.fresh.append(identity)
            if then is None:
                curve.new.append(identity)
        if then is not None:
            self.refaults[level] += 1
            distance = allocated - then
            distances = self.refault_distance
            distances.counts[bisect_left(AGE_BOUNDS, distance)] += 1
            distances.total += distance
        if not self.exact and used == len(pages) and not self.walk and not self.oversize:
            self._exact_again()

    def link(self, ns: int, spt: int, parent_pte: int) -> None:
        """An spte was made to point to a page: all directories above are parented now."""
        if self.reclaiming:
            self._reclaim_over(ns)
        self.links += 1
        slot = SLOTS[(parent_pte & OFFSET) >> 3]
        directories = self.directories
        child = self.pages.get(spt >> PAGE_SHIFT)
        parent = directories.get(parent_pte >> PAGE_SHIFT)
        if child is None or parent is None:
            if self.exact:
                self.unknown_pages[Kind.LINK] += 1
            if self.walk:
                self._link_later(parent_pte >> PAGE_SHIFT, slot, child)
            elif parent is not None:
                self._disconnect(parent, slot)
            return
        before = parent.children.get(slot)
        if before is not child:
            below = directories.get(child.table)
            if before is None and child.parent is None and (below is None or below.level < parent.level):
                # Nothing points to the child, and the spte pointed to nothing: so it is nearly always.
                if child.slot != NEVER_LINKED:
                    self.orphans -= 1
                parent.children[slot] = child
                child.parent = parent
                child.slot = slot
            else:
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
        if self.reclaiming:
            self._reclaim_over(ns)
        parent = self.directories.get(parent_pte >> PAGE_SHIFT)
        if parent is not None:
            self._disconnect(parent, SLOTS[(parent_pte & OFFSET) >> 3])
        elif self.waiting:
            self.waiting.get(parent_pte >> PAGE_SHIFT, {}).pop(SLOTS[(parent_pte & OFFSET) >> 3], None)

    def move(self, spt: int) -> None:
        """mmu_parent_walk() moved a page to the head of the list."""
        self.moves += 1
        page = self.pages.get(spt >> PAGE_SHIFT)
        if page is None:
            if self.exact:
                self.unknown_pages[Kind.MOVE] += 1
            return
        self.active.move(page, self.pages)

    def zap(self, run: list[tuple[int, ...]]) -> None:
        """Pages are being zapped, one after the other: each leaves the list, its children and its parents."""
        curve = self.curve
        part = 1 if curve is None else curve.part
        causes, levels, invalid, exact = self.zap_causes, self.levels, self.invalid, self.exact
        last_zaps, zapped, allocated = self.last_zaps, self.zapped, self.allocated
        pages, directories, active = self.pages, self.directories, self.active
        more_parents, waiting = self.more_parents, self.waiting
        active.tidy(pages)
        live, oldest = active.live, active.oldest()
        asked, cause, chosen, by_reclaim = _NOBODY, self.last_cause, True, False
        zaps: list[int] = []
        gone: list[int] = []
        last_ns = 0
        mean = self.mean_position
        #: A page of this age has as many older ones on the list as the one that was zapped before.
        next_age, older = -1, 0
        for _, ns, spt, _, _, _, _, role, _, _, _, caller, _, _, flags in run:
            if caller != asked:
                asked = caller
                told = causes[caller]
                chosen = told != _BY_PARENT
                if told >= 0:
                    cause = told
                elif told == _BY_RECLAIM:
                    cause = self.reclaim_cause
                elif told == _BY_FLUSH:
                    cause = self.flush_cause
                elif told == _BY_SYNC:
                    # The page tells which, so the next one is asked again.
                    asked = _NOBODY
                    cause = _PARENT_CAP if flags & _IN_SYNC else _SYNC
                by_reclaim = IS_RECLAIM[cause]
                zaps = self._zaps_by(cause)
            if role & invalid:
                # A root that was zapped while a vCPU used it left the list then; now it is freed.
                self.root_zaps += 1
                continue
            table = spt >> PAGE_SHIFT
            page = pages.pop(table, None)
            if page is None:
                level = levels[role]
                zaps[level] += 1
                if not chosen:
                    self.recursive_zaps[level] += 1
                if exact:
                    self.unknown_pages[Kind.ZAP] += 1
                continue
            identity = page.identity
            level = levels[identity >> GFN_BITS]
            zaps[level] += 1
            if not chosen:
                self.recursive_zaps[level] += 1
            age = page.age
            live[age] = 0
            directory = directories.pop(table, None) if level > 1 else None
            recent = False
            if by_reclaim:
                if chosen:
                    if age != next_age:
                        older = live.count(1, oldest, age)
                    others = len(pages)
                    position = 1.0 - older / others if others else 1.0
                    mean += (position - mean) / ZAPS_TO_TELL
                    histogram = self.zap_position.get(level)
                    if histogram is None:
                        histogram = self.zap_position[level] = Histogram(POSITION_BOUNDS)
                    histogram.counts[bisect_left(POSITION_BOUNDS, position)] += 1
                    histogram.total += position
                    next_age = age + 1
                else:
                    next_age = -1
                if directory is not None and directory.parented is not None:
                    recent = self._reclaimed(directory.parented, level, ns)
                last_ns = ns
                if part == 1 or not identity % part:
                    gone.append(identity)
            else:
                next_age = -1
                if curve is not None:
                    if gone:
                        curve.reclaimed(gone)
                        gone = []
                    curve.zapped(identity)
            last_zaps.append((ns, identity, level, cause, chosen, recent))
            if page.parent is not None:
                del page.parent.children[page.slot]
                page.parent = None
                if more_parents:
                    for parent, slot in more_parents.pop(page, ()):
                        del parent.children[slot]
            elif page.slot != NEVER_LINKED:
                self.orphans -= 1
            if directory is not None:
                self._leave(directory)
            if waiting:
                waiting.pop(table, None)
            zapped[identity] = allocated
            if len(zapped) > REMEMBERED and len(zapped) > len(pages) >> 2:
                self.zapped_before = zapped
                zapped = self.zapped = {}
        self.last_cause = cause
        self.mean_position = mean
        if last_ns:
            self.reclaim_time.last_ns = last_ns
        if curve is not None and gone:
            curve.reclaimed(gone)

    def reclaim(self, ns: int, caller: int, mapped: int) -> None:
        """The oldest pages are about to be zapped."""
        self.reclaims += 1
        if self.reclaiming:
            self.reclaim_time.over(ns)
        self.reclaiming = True
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

    def _reclaim_over(self, ns: int) -> None:
        self.reclaim_time.over(ns)
        self.reclaiming = False

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
        seconds = age_ns / 1e9
        ages = self.parenting_age.get(level)
        if ages is None:
            ages = self.parenting_age[level] = Histogram(AGE_BOUNDS)
            self.parenting_age_seconds[level] = Histogram(SECONDS_BOUNDS)
        ages.counts[bisect_left(AGE_BOUNDS, age)] += 1
        ages.total += age
        ages = self.parenting_age_seconds[level]
        ages.counts[bisect_left(SECONDS_BOUNDS, seconds)] += 1
        ages.total += seconds
        # A page put at the head is the oldest after one list-length of pages was put there:
        # allocated ones, and with the patched KVM moved ones, too. It is not among them any more.
        put_ahead = age + self.moves - moves
        recent = put_ahead <= len(self.pages) if self.recent_ns is None else age_ns < self.recent_ns
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
        self.by_level = other.by_level
        self.active = other.active
        self.orphans = other.orphans
        self.more_parents = other.more_parents
        self.obsolete = other.obsolete
        self.resyncs += 1
