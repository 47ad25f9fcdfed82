# SPDX-License-Identifier: Apache-2.0
"""What leaves the model: frozen copies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shadowwatch.mmu.histogram import Distribution


@dataclass(frozen=True, slots=True)
class PageSnapshot:
    """One shadow page and its place.

    `position` 0 is the newest on active_mmu_pages; `parented` is the VM's count of
    allocations when a child was last linked beneath the page, None if never.
    """

    spt: int
    gfn: int
    role: int
    level: int
    position: int
    parents: frozenset[int]
    children: frozenset[int]
    parented: int | None


@dataclass(frozen=True, slots=True)
class VmSnapshot:
    """One VM's counts since it was first seen.

    Maps are keyed by level, `zaps` by (level, Cause), `strangers` by Kind; what is 0 is absent.
    """

    kvm: int
    pid: int
    name: str
    ended: bool
    exact: bool
    limit: int
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
class Snapshot:
    """All VMs, and what the event stream itself was like."""

    vms: tuple[VmSnapshot, ...]
    received: int
    undecodable: int
    lost: int
    untracked: int
    behind_ns: int
