# SPDX-License-Identifier: Apache-2.0
"""A shadow page in two lives: the recorded one, and the one that it would have had under another policy."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TypeAlias

#: active_mmu_pages as simulated, the oldest page first.
SimulatedList: TypeAlias = "OrderedDict[SimulatedPage, None]"

#: Later than all times.
NEVER = 1 << 62


class SimulatedPage:
    """A gfn and role that are shadowed now and then.

    Times are on the simulation's clock, which goes on with every fault and every reclaim; 0 is never. `recorded` and
    `resident` tell whether the page is there in the recorded life and in the simulated one, `reclaimed` and `died` when
    it last went in either, `before` when it had gone before that. An spte of a parent that was written after both its
    ends last went still points here:
    `links` and `parents` map a parent to the time when its spte was written in either life. `up` is the parent whose
    spte was recorded last, at the offset `slot`, None for a root; `loaded` roots are those that faults came through
    last. `accessed` ones were gone through by a fault since that was asked last, at the time `asked`; `wait` is for how
    long the guest did without the page when it last came back to it. `lost` is when no root led here any more in the
    recorded life, `missed` when in the simulated one, if that was earlier, and `reached` when it came there. `children`
    are the pages that this one leads to in the simulated life, and the offset of the spte; a `nested` one, which stands
    for a page table of a guest's guest, goes with its last parent. `followers` are the pages that were recorded to go
    along with this one.
    """

    __slots__ = (
        "accessed",
        "asked",
        "before",
        "children",
        "died",
        "followers",
        "identity",
        "level",
        "links",
        "loaded",
        "lost",
        "missed",
        "nested",
        "parents",
        "reached",
        "reclaimed",
        "recorded",
        "resident",
        "slot",
        "up",
        "wait",
    )

    def __init__(self, identity: int, level: int, nested: bool) -> None:
        self.identity = identity
        self.level = level
        self.nested = nested
        self.recorded = False
        self.resident = False
        self.reclaimed = self.before = 0
        self.died = 0
        self.links: dict[SimulatedPage, int] = {}
        self.parents: dict[SimulatedPage, int] = {}
        self.children: dict[SimulatedPage, int] = {}
        self.up: SimulatedPage | None = None
        self.slot = 0
        self.loaded = False
        self.accessed = False
        self.asked = self.wait = 0
        self.lost = self.missed = 0
        self.reached = 0
        self.followers: list[SimulatedPage] | None = None

    @property
    def in_use(self) -> bool:
        """Whether a vCPU may have it loaded: a root that was there. Reclaim passes over those."""
        return self.up is None and self.recorded

    def broke(self, written: int) -> int:
        """When an spte that was written then was lost, by a reclaim of this page at its one end; NEVER if not."""
        if self.reclaimed < written or not self.reclaimed:
            return NEVER
        return self.before if self.before >= written and self.before else self.reclaimed

    def gone(self) -> int:
        """When it went out of reach in the simulated life; NEVER if it has not."""
        died = NEVER
        below: SimulatedPage | None = self
        while below is not None:
            up = below.up
            if not below.resident:
                died = min(died, below.died)
            elif up is not None and up in below.links and below.parents.get(up, -1) < up.died:
                died = min(died, up.died)
            below = up
        return died

    def was_used(self, now: int) -> bool:
        """Whether the guest, which faults for none that is there, has likely used this one since that was asked."""
        return 0 < self.wait <= (self.lost or now) - self.asked

    def directories(self) -> Iterator[SimulatedPage]:
        """The resident directories whose sptes point here in the simulation."""
        return (parent for parent, written in self.parents.items() if written >= parent.died and parent.resident)
