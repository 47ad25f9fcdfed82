# SPDX-License-Identifier: Apache-2.0
"""What leaves the model: frozen copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


# Not frozen by force, which would take more than all its figures: a thousand are made while the event loop waits.
@dataclass(slots=True)
class VmSnapshot:
    """One VM's counts since it was first seen.

    `mapped` is the guest pages of 4 KiB that sptes map, None where the kernel does not count them.
    Maps are keyed by level in its order, `zaps` by (level, Cause), `strangers` by Kind; what is 0 is absent.
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
