# SPDX-License-Identifier: Apache-2.0
"""What came of one VM's shadow pages since it was first seen, and its copies as others read them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import compress, starmap
from typing import Final, TypeAlias

from shadowwatch.event.abi import UNCOUNTED, Kind
from shadowwatch.mmu.cause import CauseTables
from shadowwatch.mmu.counts import Counts
from shadowwatch.mmu.curve import Curve
from shadowwatch.mmu.histogram import Histogram
from shadowwatch.mmu.noted import Noted
from shadowwatch.mmu.page import GFN_BITS, GFN_MASK
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

AGE_BOUNDS: Final = tuple(1 << power for power in range(0, 21, 2))
SECONDS_BOUNDS: Final = tuple(float(f"{step}e{power}") for power in range(-5, 3) for step in (1, 3))
POSITION_BOUNDS: Final = tuple(step / 10 for step in range(11))

#: Whether a cause is reclaim, by its number.
IS_RECLAIM: Final = tuple(cause in RECLAIM for cause in CAUSES)

#: Reclaim takes the oldest pages, so their mean position is near 1; below this it does not.
NEWEST_FIRST = 0.25

#: How many of its last zaps a VM keeps for people to see.
LAST_ZAPS = 64

#: One of them: ns, identity, level, cause, whether it was chosen, and whether it is counted as recently parented.
Zap: TypeAlias = tuple[int, int, int, int, bool, bool]

#: What there would have been of a VM under other policies, by their names.
WhatIf: TypeAlias = "Callable[[Figures], Mapping[str, Estimate]]"


class Figures(Walked):
    """One VM: its shadow pages, and what came of them since it was first seen."""

    __slots__ = (
        "allocated",
        "allocations",
        "apart",
        "audited",
        "audits",
        "called",
        "causes",
        "counted",
        "curve",
        "curve_due",
        "differing",
        "ended_ns",
        "flush_cause",
        "frozen",
        "invalid",
        "last_cause",
        "last_zaps",
        "limit",
        "links",
        "mapped",
        "mean_position",
        "moves",
        "name",
        "oversize",
        "parenting_age",
        "parenting_age_seconds",
        "recent_ns",
        "recently_parented_zaps",
        "reclaim_cause",
        "reclaim_time",
        "reclaiming",
        "reclaims",
        "recursive_zaps",
        "refault_distance",
        "refaults",
        "root_zaps",
        "unknown_pages",
        "unsettled",
        "zap_causes",
        "zap_position",
        "zapped",
        "zapped_before",
        "zaps",
    )

    def __init__(self, kvm: int, pid: int, roles: RoleLayout, causes: CauseTables, recent_ns: int | None) -> None:
        super().__init__(kvm, pid, roles)
        #: What its process calls it, and the same made unlike all other VMs' names.
        self.called = ""
        self.name = ""
        self.causes = causes
        self.zap_causes = causes.zap
        self.invalid = roles.invalid
        self.recent_ns = recent_ns
        self.ended_ns: int | None = None
        #: The last copy of the figures; it holds until there are events again.
        self.frozen: VmSnapshot | None = None
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
        #: Whether what came last is a reclaim or its zaps.
        self.reclaiming = False
        self.reclaim_time = ReclaimTime()
        #: By cause, of those that there were, and level.
        self.zaps: dict[int, list[int]] = {}
        self.last_cause = int(Cause.OTHER)
        self.reclaim_cause = int(Cause.QUOTA)
        self.flush_cause = int(Cause.ZAP_ALL)
        self.last_zaps: deque[Zap] = deque(maxlen=LAST_ZAPS)
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
        #: How many of its pages are in the model's number of all.
        self.counted = 0

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
        self._zaps_by(int(Cause.RECLAIM))[UNKNOWN_LEVEL] += by_reclaim
        self._zaps_by(int(Cause.UNKNOWN))[UNKNOWN_LEVEL] += zaps - by_reclaim
        self.apart = kernel.less(self._counts())
        return missed if missed.allocations or missed.zaps else None

    def _counts(self) -> Counts:
        reclaimed = sum(sum(zaps) for cause, zaps in self.zaps.items() if IS_RECLAIM[cause])
        return Counts(sum(self.allocations), sum(map(sum, self.zaps.values())) + self.root_zaps, reclaimed)

    def _zaps_by(self, cause: int) -> list[int]:
        """How many pages were zapped for this cause, by level."""
        zaps = self.zaps.get(cause)
        if zaps is None:
            zaps = self.zaps[cause] = [0] * LEVELS
        return zaps

    def freeze(
        self, what_if: Callable[[Figures], Mapping[str, Estimate]] | None = None, current: bool = True
    ) -> VmSnapshot:
        """Copy the figures, unless the last copy holds; the time does not depend on the number of pages.

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
                for cause in sorted(self.zaps)
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
        tables = len(self.pages) - len(self.directories)
        return ({1: tables} if tables else {}) | _by_level(self.by_level)

    def detail(self, now_ns: int, current: bool = True) -> Callable[[], VmDetail]:
        """Note what there is of each page now; what is returned makes a copy of that, and takes longer."""
        vm, pages, zaps = self.freeze(current=current), self._noted(), tuple(self.last_zaps)
        return lambda: VmDetail(now_ns=now_ns, vm=vm, pages=pages.copied(), last_zaps=tuple(starmap(_zap, zaps)))

    def tree(self) -> tuple[PageSnapshot, ...]:
        """Copy every page, the newest on active_mmu_pages first."""
        return self._noted().copied()

    def _noted(self) -> Noted:
        pages = [
            (page.age, page.table, page.identity, None if page.parent is None else page.parent.pte(page.slot))
            for page in self.pages.values()
        ]
        more = {page.table: [parent.pte(slot) for parent, slot in others] for page, others in self.more_parents.items()}
        directories = {
            table: ({slot: child.table for slot, child in directory.children.items()}, directory.parented)
            for table, directory in self.directories.items()
        }
        return Noted(pages, more, directories, self.allocated, self.levels)


def _zap(ns: int, identity: int, level: int, cause: int, chosen: bool, recent: bool) -> ZapSnapshot:
    return ZapSnapshot(ns, identity & GFN_MASK, identity >> GFN_BITS, level, cause, not chosen, recent)


_LEVELS: Final = range(LEVELS)


def _by_level(counts: list[int]) -> dict[int, int]:
    return {level: counts[level] for level in compress(_LEVELS, counts)} if any(counts) else {}


def _frozen(histograms: dict[int, Histogram]) -> dict[int, Distribution]:
    return {level: histograms[level].freeze() for level in sorted(histograms)}
