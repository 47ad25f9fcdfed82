# SPDX-License-Identifier: Apache-2.0
"""What leaves the model: frozen copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from shadowwatch.mmu.histogram import Distribution


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
    reclaim and order: all of them when it is the one that was in force.
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


# Not frozen by force, which would take more than all its figures: a thousand are made while the event loop waits.
@dataclass(slots=True)
class VmSnapshot:
    """One VM's counts since it was first seen.

    `mapped` is the guest pages of 4 KiB that sptes map, None where the kernel does not count them.
    Maps are keyed by level in its order, `zaps` by (level, Cause), `strangers` by Kind; what is 0 is absent.
    `what_if` has what other reclaim policies would have made of it, by their names, of those that are simulated.
    """

    kvm: int
    pid: int
    name: str
    ended: bool
    exact: bool
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
    writes: int
    newest_first: bool
    strangers: Mapping[int, int]
    what_if: Mapping[str, Estimate] = field(default_factory=dict)


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
    behind_ns: int
