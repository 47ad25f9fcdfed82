# SPDX-License-Identifier: Apache-2.0
"""One VM's shadow MMU, rebuilt from its events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import compress

from shadowwatch.event.abi import UNCOUNTED, Flags, Kind
from shadowwatch.mmu.cause import CauseTables, Unsettled
from shadowwatch.mmu.counts import Counts
from shadowwatch.mmu.curve import Curve
from shadowwatch.mmu.histogram import Histogram
from shadowwatch.mmu.page import SPT_MASK, Page, Parenting
from shadowwatch.mmu.reclaim_time import ReclaimTime
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.mmu.tree import LEVELS
from shadowwatch.mmu.walk import Walked
from shadowwatch.snapshot import (
    CAUSES,
    RECLAIM,
    UNKNOWN_LEVEL,
    Cause,
    Distribution,
    Estimate,
    PageSnapshot,
    VmDetail,
    VmSnapshot,
    ZapSnapshot,
)

AGE_BOUNDS = tuple(1 << power for power in range(0, 21, 2))
SECONDS_BOUNDS = tuple(float(f"{step}e{power}") for power in range(-5, 3) for step in (1, 3))
POSITION_BOUNDS = tuple(step / 10 for step in range(11))

_BY_RECLAIM, _BY_FLUSH, _BY_PARENT, _BY_SYNC = map(int, Unsettled)
_SYNC, _PARENT_CAP, _IN_SYNC = int(Cause.SYNC), int(Cause.PARENT_CAP), int(Flags.IN_SYNC)

#: Whether a cause is reclaim, by its number.
_IS_RECLAIM = tuple(cause in RECLAIM for cause in CAUSES)

#: Reclaim takes the oldest pages, so their mean position is near 1; below this it does not.
NEWEST_FIRST = 0.25

#: The mean is over about so many zaps.
ZAPS_TO_TELL = 64

#: How many of its last zaps a VM keeps for people to see.
LAST_ZAPS = 64

#: How many zapped pages a VM remembers for refaults: at least this many in each of two generations.
REMEMBERED = 1024


class Vm(Walked):
    """One VM: its shadow pages, and what came of them since it was first seen."""

    __slots__ = (
        "allocated",
        "allocations",
        "apart",
        "audited",
        "audits",
        "called",
        "causes",
        "changed",
        "curve",
        "curve_due",
        "differing",
        "ended_ns",
        "flush_cause",
        "frozen",
        "kvm",
        "last_cause",
        "last_zaps",
        "limit",
        "links",
        "listed",
        "mapped",
        "mean_position",
        "moves",
        "name",
        "oversize",
        "parenting_age",
        "parenting_age_seconds",
        "pid",
        "recent_ns",
        "recently_parented_zaps",
        "reclaim_cause",
        "reclaim_time",
        "reclaims",
        "recursive_zaps",
        "refault_distance",
        "refaults",
        "root_zaps",
        "seq",
        "unknown_pages",
        "unsettled",
        "zap_causes",
        "zap_position",
        "zapped",
        "zapped_before",
        "zaps",
    )

    def __init__(self, kvm: int, pid: int, roles: RoleLayout, causes: CauseTables, recent_ns: int | None) -> None:
        super().__init__(roles)
        self.kvm = kvm
        self.pid = pid
        #: What its process calls it, and the same made unlike all other VMs' names.
        self.called = ""
        self.name = ""
        self.causes = causes
        self.zap_causes = causes.zap
        self.recent_ns = recent_ns
        self.ended_ns: int | None = None
        #: Whether there were events since the last copy of the figures.
        self.changed = True
        self.frozen: VmSnapshot | None = None
        #: The walk over vm_list that told of this VM last.
        self.listed = 0
        self.seq = 0
        self.audits = 0
        self.audited = 0
        self.differing = 0
        self.limit = 0
        #: Guest pages of 4 KiB that sptes map, UNCOUNTED where the kernel does not count them.
        self.mapped = UNCOUNTED
        #: The VM's own clock: pages allocated so far.
        self.allocated = 0
        self.allocations = [0] * LEVELS
        self.links = 0
        self.moves = 0
        self.reclaims = 0
        self.reclaim_time = ReclaimTime()
        self.zaps = [[0] * LEVELS for _ in CAUSES]
        self.last_cause = int(Cause.OTHER)
        self.reclaim_cause = int(Cause.QUOTA)
        self.flush_cause = int(Cause.ZAP_ALL)
        #: As ZapSnapshot has them.
        self.last_zaps: deque[tuple[int, int, int, int, int, bool, bool]] = deque(maxlen=LAST_ZAPS)
        self.root_zaps = 0
        self.recursive_zaps = [0] * LEVELS
        self.recently_parented_zaps = [0] * LEVELS
        self.refaults = [0] * LEVELS
        self.refault_distance = Histogram(AGE_BOUNDS)
        self.parenting_age: dict[int, Histogram] = {}
        self.parenting_age_seconds: dict[int, Histogram] = {}
        self.zap_position: dict[int, Histogram] = {}
        #: The position of the last pages that reclaim zapped, each weighing less than the next.
        self.mean_position = 1.0
        #: (gfn, role) of zapped pages -> `allocated` at that time, in two generations.
        self.zapped: dict[int, int] = {}
        self.zapped_before: dict[int, int] = {}
        #: What there would have been under higher limits, once KVM reclaims.
        self.curve: Curve | None = None
        #: When the lists may begin again, in pages allocated.
        self.curve_due = 0
        #: Events about a page that the model does not hold although it is exact, by kind.
        self.unknown_pages = [0] * (max(Kind) + 1)
        #: What KVM counts beside what is counted here, None while that is unknown, and whether events were lost since
        #: the two were compared.
        self.apart: Counts | None = Counts(0, 0, 0)
        self.unsettled = False
        #: Whether its pages are not kept, for there are too many on this host.
        self.oversize = False

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

    def settle(self, kernel: Counts) -> Counts | None:
        """KVM has counted so much up to here: count what no event told; returns that, None if nothing differs.

        Where KVM has counted less than there were events, somebody has cleared its counters: they count from there on.
        What it says of reclaim is at least so: with nested guests it leaves pages out.
        """
        mine = self._counts()
        if self.apart is None:
            self.apart = kernel.less(mine)
        missed = kernel.less(self.apart).less(mine)
        allocations, zaps = max(0, missed.allocations), max(0, missed.zaps)
        by_reclaim = min(max(0, missed.reclaimed), zaps) if self.causes.known else 0
        self.allocations[UNKNOWN_LEVEL] += allocations
        self.zaps[Cause.RECLAIM][UNKNOWN_LEVEL] += by_reclaim
        self.zaps[Cause.UNKNOWN][UNKNOWN_LEVEL] += zaps - by_reclaim
        self.apart = kernel.less(self._counts())
        return missed if missed.allocations or missed.zaps else None

    def _counts(self) -> Counts:
        reclaimed = sum(sum(zaps) for zaps in compress(self.zaps, _IS_RECLAIM))
        return Counts(sum(self.allocations), sum(map(sum, self.zaps)) + self.root_zaps, reclaimed)

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
        pages = self.pages
        if spt in pages:
            # The walk that is under way may have told of it just before.
            if not self.walk:
                self.unknown_pages[Kind.ALLOC] += 1
            self._remove(pages[spt])
            self.waiting.pop(spt, None)
        level = self.levels[role]
        self._add(spt, gfn, role, level)
        self.allocated += 1
        self.allocations[level] += 1
        self.limit = limit
        self.mapped = mapped
        identity = gfn << 32 | role
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
        child = self.pages.get(spt)
        parent = self.directories.get(parent_pte & SPT_MASK)
        if child is None or parent is None:
            if self.exact:
                self.unknown_pages[Kind.LINK] += 1
            if self.walk:
                self._link_later(parent_pte, child)
            elif parent is not None:
                self._disconnect(parent, parent_pte)
            return
        if parent.children.get(parent_pte) is not child:
            self._connect(parent, parent_pte, child)
        self._parented(parent, (self.allocated, self.moves, ns))

    def unlink(self, ns: int, parent_pte: int) -> None:
        """An spte was made to map memory: if it pointed to a page before, it does so no more."""
        if self.reclaim_time.began_ns:
            self.reclaim_time.over(ns)
        parent = self.directories.get(parent_pte & SPT_MASK)
        if parent is not None:
            self._disconnect(parent, parent_pte)
        elif self.waiting:
            self.waiting.get(parent_pte & SPT_MASK, {}).pop(parent_pte, None)

    def move(self, spt: int) -> None:
        """mmu_parent_walk() moved a page to the head of the list."""
        self.moves += 1
        page = self.pages.get(spt)
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
        if role & self.roles.invalid:
            # A root that was zapped while a vCPU used it left the list then; now it is freed.
            self.root_zaps += 1
            return
        level = self.levels[role]
        self.zaps[cause][level] += 1
        if not chosen:
            self.recursive_zaps[level] += 1
        page = self.pages.get(spt)
        if page is None:
            if self.exact:
                self.unknown_pages[Kind.ZAP] += 1
            return
        recent = False
        if _IS_RECLAIM[cause]:
            if chosen:
                self._chosen(page, level)
            if page.parented:
                recent = self._reclaimed(page.parented, level, ns)
        self.last_zaps.append((ns, page.gfn, page.role, level, cause, not chosen, recent))
        self._remove(page)
        if self.waiting:
            self.waiting.pop(spt, None)
        zapped = self.zapped
        identity = page.gfn << 32 | page.role
        zapped[identity] = self.allocated
        if _IS_RECLAIM[cause]:
            self.reclaim_time.zapped(ns)
            if self.curve is not None:
                self.curve.reclaimed(identity)
        elif self.curve is not None:
            self.curve.zapped(identity)
        if len(zapped) > REMEMBERED and len(zapped) > len(self.pages) >> 2:
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
            self.curve.begin(self.limit, [page.gfn << 32 | page.role for page in oldest_first])

    def flush(self, caller: int) -> None:
        """All pages became obsolete, and are about to be zapped."""
        self.flush_cause = self.causes.flush[caller]
        self.obsolete = set(self.directories)
        self.flushed = self.writes

    def write(self, address: int) -> None:
        """The guest wrote to a page of its own: the sptes made from what was there are cleared."""
        self.writes += 1
        if self.walk:
            self.written.setdefault(address >> 12, []).append((self.writes, address))
        self._clear_written(address)

    def _chosen(self, page: Page, level: int) -> None:
        histogram = self.zap_position.get(level)
        if histogram is None:
            histogram = self.zap_position[level] = Histogram(POSITION_BOUNDS)
        position = self.active.position(page.age)
        histogram.observe(position)
        self.mean_position += (position - self.mean_position) / ZAPS_TO_TELL

    def _reclaimed(self, parented: Parenting, level: int, ns: int) -> bool:
        """A directory with children was zapped by reclaim: keep its age, and tell whether it was recently parented."""
        allocated, moves, parented_ns = parented
        age = self.allocated - allocated
        age_ns = ns - parented_ns
        if level not in self.parenting_age:
            self.parenting_age[level] = Histogram(AGE_BOUNDS)
            self.parenting_age_seconds[level] = Histogram(SECONDS_BOUNDS)
        self.parenting_age[level].observe(age)
        self.parenting_age_seconds[level].observe(age_ns / 1e9)
        # A page put at the head is the oldest after one list-length of pages was put there:
        # allocated ones, and with the patched KVM moved ones, too.
        put_ahead = age + self.moves - moves
        recent = put_ahead < self.active.size if self.recent_ns is None else age_ns < self.recent_ns
        if recent:
            self.recently_parented_zaps[level] += 1
        return recent

    def adopt(self, other: Vm) -> None:
        """Take over the pages of another model of the same VM, which is right where this one is not."""
        for spt, page in other.pages.items():
            mine = self.pages.get(spt)
            if mine is not None and mine.role == page.role:
                page.parented = mine.parented
        self.pages = other.pages
        self.directories = other.directories
        self.active = other.active
        self.orphans = other.orphans
        self.obsolete = other.obsolete
        self.gfns = None
        self.resyncs += 1

    def freeze(self, what_if: Callable[[Vm], Mapping[str, Estimate]] | None = None, current: bool = True) -> VmSnapshot:
        """Copy the figures, unless the last copy holds; the time depends on the directories, not on all pages.

        `what_if` is asked for what belongs into a new copy beside them. A living VM that is not `current`, for events
        are known to be still to come, is not exact.
        """
        exact = self.exact and (current or self.ended_ns is not None)
        if self.changed or self.frozen is None or self.frozen.exact != exact:
            self.frozen = self._freeze(what_if(self) if what_if else {}, exact)
            self.changed = False
        return self.frozen

    def _freeze(self, what_if: Mapping[str, Estimate], exact: bool) -> VmSnapshot:
        return VmSnapshot(
            kvm=self.kvm,
            pid=self.pid,
            name=self.name,
            ended=self.ended_ns is not None,
            exact=exact,
            oversize=self.oversize,
            limit=self.limit,
            mapped=None if self.mapped == UNCOUNTED else self.mapped,
            pages=self._pages_by_level(),
            orphans=self.orphans,
            allocations=_by_level(self.allocations),
            zaps={
                (level, cause): zaps
                for cause in compress(CAUSES, map(any, self.zaps))
                for level, zaps in _by_level(self.zaps[cause]).items()
            },
            root_zaps=self.root_zaps,
            recursive_zaps=_by_level(self.recursive_zaps),
            recently_parented_zaps=_by_level(self.recently_parented_zaps),
            links=self.links,
            moves=self.moves,
            refaults=_by_level(self.refaults),
            refault_distance=self.refault_distance.freeze(),
            parenting_age=_frozen(self.parenting_age),
            parenting_age_seconds=_frozen(self.parenting_age_seconds),
            zap_position=_frozen(self.zap_position),
            lost=self.lost,
            resyncs=self.resyncs,
            audits=self.audits,
            audited=self.audited,
            differing=self.differing,
            reclaims=self.reclaims,
            reclaim_ns=(self.reclaim_time.least_ns, self.reclaim_time.most_ns),
            writes=self.writes,
            newest_first=self.mean_position < NEWEST_FIRST,
            unknown_pages={kind: count for kind, count in enumerate(self.unknown_pages) if count},
            what_if=what_if,
            limited=self.curve.freeze() if self.curve else (),
        )

    def _pages_by_level(self) -> dict[int, int]:
        counts = [0] * LEVELS
        counts[1] = len(self.pages) - len(self.directories)
        for directory in self.directories.values():
            counts[self.levels[directory.role]] += 1
        return _by_level(counts)

    def detail(self, now_ns: int, current: bool = True) -> VmDetail:
        """Copy everything, page by page, as it is now."""
        last_zaps = tuple(map(ZapSnapshot._make, self.last_zaps))
        return VmDetail(now_ns=now_ns, vm=self.freeze(current=current), pages=self.tree(), last_zaps=last_zaps)

    def tree(self) -> tuple[PageSnapshot, ...]:
        """Copy every page, the newest on active_mmu_pages first."""
        newest_first = sorted(self.pages.values(), key=lambda page: -page.age)
        return tuple(
            PageSnapshot(
                spt=page.spt,
                gfn=page.gfn,
                role=page.role,
                level=self.levels[page.role],
                position=position,
                parents=frozenset(page.parents()),
                children={pte: child.spt for pte, child in page.children.items()},
                parented=page.parented and self.allocated - page.parented[0],
                parented_ns=page.parented and page.parented[2],
            )
            for position, page in enumerate(newest_first)
        )


def _by_level(counts: list[int]) -> dict[int, int]:
    return dict(compress(enumerate(counts), counts))


def _frozen(histograms: dict[int, Histogram]) -> dict[int, Distribution]:
    return {level: histograms[level].freeze() for level in sorted(histograms)}
