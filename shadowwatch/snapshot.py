# SPDX-License-Identifier: Apache-2.0
"""The figures of VMs as they leave the model and the simulator: frozen copies, and all that is reckoned from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Cause(IntEnum):
    """Why a page was zapped."""

    OTHER = 0
    QUOTA = 1
    RESIZE = 2
    SHRINKER = 3
    MEMSLOT = 4
    ZAP_ALL = 5
    TEARDOWN = 6
    GUEST_WRITE = 7
    UNPROTECT = 8
    SYNC = 9
    NX_RECOVERY = 10
    ROOT_FREE = 11
    LINK = 12
    PARENT_CAP = 13
    #: Of events that were lost: by reclaim, whichever, and all else.
    RECLAIM = 14
    UNKNOWN = 15


CAUSES = tuple(Cause)

#: Reclaim: the oldest pages went, to make room for others.
RECLAIM = frozenset({Cause.QUOTA, Cause.RESIZE, Cause.SHRINKER, Cause.RECLAIM})

#: The level of pages that KVM counted in events that were lost.
UNKNOWN_LEVEL = 0


class Distribution(NamedTuple):
    """A frozen histogram: `counts[i]` values were at most `bounds[i]`, the last ones above all bounds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    total: float


@dataclass(frozen=True, slots=True)
class PageSnapshot:
    """One shadow page and its place.

    `position` 0 is the newest on active_mmu_pages; `children` maps the address of an spte in the page to the
    spt that it points to; `parented` is how many pages were allocated since a child was last linked beneath the
    page, and `parented_ns` when that was on the clock of the events, both None if never.
    """

    spt: int
    gfn: int
    role: int
    level: int
    position: int
    parents: frozenset[int]
    children: Mapping[int, int]
    parented: int | None
    parented_ns: int | None


class ZapSnapshot(NamedTuple):
    """One zap: when on the clock of the events, of which page, why (a number of Cause), and how.

    `recursive` pages went along with their parent, `recent` ones are counted as recently parented.
    """

    ns: int
    gfn: int
    role: int
    level: int
    cause: int
    recursive: bool
    recent: bool


class Estimate(NamedTuple):
    """What a reclaim policy would have made of what was recorded, and, as `recorded_…`, what was counted then.

    `faults` are page faults that build page tables where the guest was recorded to have one and the policy had not all
    in place. `unseen` is how often a page was gone that the recorded guest still had, and may have used, which no event
    tells: each may be one more fault, with a zap and a refault, and `likely` of them are. `zaps` are pages that reclaim
    takes, `refaults` pages allocated again after that. `reproduced` are recorded zaps that the policy made in the same
    reclaim and order: all of them when it is the one that was in force. `lowered` says that the limit was lower than
    the recorded one: then `faults` are the least, and there is no telling how many there would have been.
    """

    faults: int
    zaps: int
    refaults: int
    unseen: int
    likely: float
    recorded_faults: int
    recorded_zaps: int
    recorded_refaults: int
    reproduced: int
    lowered: bool = False

    @property
    def likely_faults(self) -> float:
        """`faults`, and those of the unseen that were likely some."""
        return self.faults + self.likely

    @property
    def likely_zaps(self) -> float:
        """Likewise: a page that was faulted in again was zapped before."""
        return self.zaps + self.likely

    @property
    def likely_refaults(self) -> float:
        """Likewise."""
        return self.refaults + self.likely

    @property
    def most_faults(self) -> int:
        """`faults`, and all of the unseen."""
        return self.faults + self.unseen


class Limited(NamedTuple):
    """What there would have been under `times` a VM's limit, since KVM first reclaimed for want of room.

    `refaults` are pages that were allocated again and would have been so then: the least. `unseen` is how often a page
    would have been gone that the VM still had, and may have used, which no event tells. Once the limit: what there was,
    with refaults of pages that were zapped too long ago to count among the VM's own.
    """

    times: float
    refaults: int
    unseen: int

    @property
    def likely(self) -> float:
        """`refaults`, and half of the unseen: the nearest to what guests do under such limits (docs/policies.md)."""
        return self.refaults + self.unseen / 2


class VmSnapshot(NamedTuple):
    """One VM's counts since it was first seen.

    `oversize` is of a VM whose pages are not kept, since there are too many.
    `reclaim_ns` is how long reclaim has held mmu_lock, at least and at most.
    `mapped` is the guest pages of 4 KiB that sptes map, None where the kernel does not count them.
    Maps are keyed by level in its order, UNKNOWN_LEVEL first, `zaps` by (level, Cause), `unknown_pages` by Kind; what
    is 0 is absent. `what_if` has what other reclaim policies would have made of it, by their names, of those that are
    simulated, `limited` what its limit and higher ones would have, the lowest first.
    """

    kvm: int
    pid: int
    name: str
    ended: bool
    exact: bool
    oversize: bool
    limit: int
    mapped: int | None
    pages: Mapping[int, int]
    orphans: int
    allocations: Mapping[int, int]
    zaps: Mapping[tuple[int, int], int]
    root_zaps: int
    recursive_zaps: Mapping[int, int]
    recently_parented_zaps: Mapping[int, int]
    links: int
    moves: int
    refaults: Mapping[int, int]
    refault_distance: Distribution
    parenting_age: Mapping[int, Distribution]
    parenting_age_seconds: Mapping[int, Distribution]
    zap_position: Mapping[int, Distribution]
    lost: int
    resyncs: int
    audits: int
    audited: int
    differing: int
    reclaims: int
    reclaim_ns: tuple[int, int]
    writes: int
    newest_first: bool
    unknown_pages: Mapping[int, int]
    what_if: Mapping[str, Estimate] = {}
    limited: tuple[Limited, ...] = ()

    @property
    def state(self) -> str:
        """In a word: exact, resyncing while its list is read again or events wait, oversize if not kept, or ended."""
        return "ended" if self.ended else "exact" if self.exact else "oversize" if self.oversize else "resyncing"

    @property
    def reclaim_least_seconds(self) -> float:
        """How long reclaim has held mmu_lock, at least."""
        return self.reclaim_ns[0] / 1e9

    @property
    def reclaim_most_seconds(self) -> float:
        """And at most."""
        return self.reclaim_ns[1] / 1e9

    @property
    def all_pages(self) -> int:
        """Shadow pages on active_mmu_pages, of all levels."""
        return sum(self.pages.values())

    @property
    def all_allocations(self) -> int:
        """Pages allocated."""
        return sum(self.allocations.values())

    @property
    def all_refaults(self) -> int:
        """Pages allocated again after a zap."""
        return sum(self.refaults.values())

    @property
    def all_zaps(self) -> int:
        """Pages zapped, for whatever cause."""
        return sum(self.zaps.values())

    @property
    def zaps_by_cause(self) -> Mapping[int, int]:
        """The same by Cause."""
        counts: Counter[int] = Counter()
        for (_, cause), zaps in self.zaps.items():
            counts[cause] += zaps
        return counts

    @property
    def reclaimed(self) -> int:
        """Pages zapped by reclaim."""
        return sum(zaps for (_, cause), zaps in self.zaps.items() if cause in RECLAIM)

    @property
    def reclaimed_directories(self) -> int:
        """Directories zapped by reclaim."""
        return sum(zaps for (level, cause), zaps in self.zaps.items() if level > 1 and cause in RECLAIM)

    @property
    def recently_parented(self) -> int:
        """Those of them to which a child had been added less than one list-length before."""
        return sum(self.recently_parented_zaps.values())


@dataclass(frozen=True, slots=True)
class VmDetail:
    """One VM as a whole: `pages` with the newest on active_mmu_pages first, `last_zaps` with the newest last.

    `now_ns` is on the clock of the events.
    """

    now_ns: int
    vm: VmSnapshot
    pages: tuple[PageSnapshot, ...]
    last_zaps: tuple[ZapSnapshot, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All VMs, and what the event stream itself was like until `now_ns` on the clock of the events."""

    now_ns: int

    vms: tuple[VmSnapshot, ...]
    received: int
    undecodable: int
    lost: int
    untracked: int
    missed: int
    behind_ns: int

    @property
    def all_lost(self) -> int:
        """Events that the kernel did not hand over, for whatever reason."""
        return self.lost + self.untracked + self.missed
