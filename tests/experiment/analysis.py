# SPDX-License-Identifier: Apache-2.0
"""What a recording tells of each run in it: counts, the saw-tooth, and what was predicted of other policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from shadowwatch.capture.format import reading
from shadowwatch.capture.series import SawTooth
from shadowwatch.event.abi import UNCOUNTED, Event, Kind, decode
from shadowwatch.mmu.page import SPT_MASK
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.simulate.policies import POLICIES
from shadowwatch.snapshot import RECLAIM, Estimate, VmSnapshot
from shadowwatch.watch import Watch


@dataclass
class InReach:
    """A VM's pages as an obvious tree: how many tables of level 1 its roots lead to."""

    levels: dict[int, int] = field(default_factory=dict)
    children: dict[int, dict[int, int]] = field(default_factory=dict)  # by page and parent pte
    parents: dict[int, set[int]] = field(default_factory=dict)  # the ptes that lead to a page

    def tables(self) -> int:
        """Count them, from the roots down."""
        top = max(self.levels.values(), default=0)
        roots = [spt for spt, level in self.levels.items() if level == top]
        return sum(self.levels.get(spt) == 1 for spt in self.from_(roots))

    def from_(self, roots: Sequence[int]) -> set[int]:
        """These pages and all that they lead to."""
        reached: set[int] = set()
        waiting = [*roots]
        while waiting:
            spt = waiting.pop()
            if spt not in reached:
                reached.add(spt)
                waiting += self.children.get(spt, {}).values()
        return reached

    def take(self, event: Event, levels: Mapping[int, int]) -> None:
        """A page comes, is linked, or goes with all of its edges."""
        if event.kind == Kind.ALLOC:
            self.levels[event.spt] = levels[event.role]
        elif event.kind == Kind.LINK:
            self._unlink(event.parent_pte)
            self.children.setdefault(event.parent_pte & SPT_MASK, {})[event.parent_pte] = event.spt
            self.parents.setdefault(event.spt, set()).add(event.parent_pte)
        elif event.kind == Kind.ZAP:
            self.levels.pop(event.spt, None)
            for pte in [*self.children.get(event.spt, ()), *self.parents.get(event.spt, ())]:
                self._unlink(pte)

    def _unlink(self, pte: int) -> None:
        child = self.children.get(pte & SPT_MASK, {}).pop(pte, None)
        if child is not None:
            self.parents[child].discard(pte)


class Ended(NamedTuple):
    """Pages that there were when a nested guest was over: all, those of guests before it, and directories of these."""

    held: int
    stale: int
    directories: int


@dataclass
class Turns:
    """Nested guests that come one after another, each with a root of its own, which is told by its gfn."""

    gfns: set[int] = field(default_factory=set)
    root: int = 0  # the page that shadows the last one
    ended: list[Ended] = field(default_factory=list)

    def take(self, event: Event, tree: InReach, levels: Mapping[int, int]) -> None:
        """A root of a gfn that had none yet is the next guest's."""
        if event.kind != Kind.ALLOC or levels[event.role] < max(tree.levels.values(), default=0):
            return
        if event.gfn not in self.gfns and self.gfns:
            stale = set(tree.levels) - tree.from_([self.root])
            self.ended.append(Ended(len(tree.levels), len(stale), sum(tree.levels[spt] > 1 for spt in stale)))
        self.gfns.add(event.gfn)
        self.root = event.spt


@dataclass
class Teeth:
    """The saw-teeth of one VM: guest pages that KVM counts as mapped, and tables that a root leads to."""

    mapped: SawTooth = field(default_factory=SawTooth)
    in_reach: SawTooth = field(default_factory=SawTooth)
    tree: InReach = field(default_factory=InReach)
    turns: Turns = field(default_factory=Turns)
    reclaimed: bool = False
    allocated: int = 0
    #: (pages allocated so far, tables in reach) at each turn of the latter.
    over_time: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Recorded:
    """One VM of a recording."""

    vm: VmSnapshot
    mapped: SawTooth
    in_reach: SawTooth
    over_time: Sequence[tuple[int, int]]
    ended: Sequence[Ended]

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """What was predicted, by policy."""
        return self.vm.what_if


def analyse(path: Path) -> dict[str, Recorded]:
    """Read a recording once: its VMs by name."""
    teeth: dict[int, Teeth] = {}
    with reading(str(path)) as reader:
        levels = RoleLayout(reader.facts.role).levels
        # What a move means depends on the policy that a VM ran under, which its name ends with.
        watches = {
            policy: Watch(replace(reader.facts, policy=policy), reader.name_of, tuple(POLICIES))
            for policy in ("stock", "accessed")
        }
        for batch in reader.batches():
            for watch in watches.values():
                # At no time: VMs that end are then kept until the recording does.
                watch.take(batch._replace(now_ns=0))
            for event in _events(batch.records):
                _follow(teeth.setdefault(event.pid, Teeth()), event, levels)
    vms = [
        vm
        for policy, watch in watches.items()
        for vm in watch.snapshot().vms
        if vm.name.endswith("-accessed") == (policy == "accessed")
    ]
    found = {vm.name: (vm, teeth[vm.pid]) for vm in vms if vm.pid in teeth}
    return {
        name: Recorded(vm, each.mapped, each.in_reach, each.over_time, each.turns.ended)
        for name, (vm, each) in found.items()
    }


def _events(records: bytes) -> Iterator[Event]:
    wanted = {Kind.ALLOC, Kind.LINK, Kind.ZAP, Kind.RECLAIM}
    return (event for event in map(Event._make, decode(records)[0]) if event.kind in wanted)


def _follow(teeth: Teeth, event: Event, levels: Mapping[int, int]) -> None:
    tree = teeth.tree
    if event.kind in (Kind.ALLOC, Kind.RECLAIM) and event.mapped != UNCOUNTED:
        teeth.mapped.take(event.mapped)
    # Tables come into reach one by one and go out of it in a reclaim: its two ends are all turning points.
    if event.kind == Kind.RECLAIM or (teeth.reclaimed and event.kind != Kind.ZAP):
        tables = tree.tables()
        teeth.in_reach.take(tables)
        teeth.over_time.append((teeth.allocated, tables))
        teeth.reclaimed = event.kind == Kind.RECLAIM
    teeth.allocated += event.kind == Kind.ALLOC
    teeth.turns.take(event, tree, levels)
    tree.take(event, levels)


def ended(recorded: Recorded) -> dict[str, int]:
    """What was held for nested guests when the first was over, and when the last but one was."""
    first, last = recorded.ended[0], recorded.ended[-1]
    return {
        "held_first": first.held,
        "held": last.held,
        "stale": last.stale,
        "stale_directories": last.directories,
    }


def _directories(vm: VmSnapshot) -> int:
    return sum(zaps for (level, cause), zaps in vm.zaps.items() if level > 1 and cause in RECLAIM)


def together(recorded: Sequence[Recorded]) -> dict[str, float]:
    """The figures of a run, those of its VMs added up, or the mean where a sum says nothing."""
    vms = [each.vm for each in recorded]
    count = len(recorded)
    return {
        "links": sum(vm.links for vm in vms),
        "moves": sum(vm.moves for vm in vms),
        "refaults": sum(sum(vm.refaults.values()) for vm in vms),
        "directories": sum(_directories(vm) for vm in vms),
        "recently_parented": sum(sum(vm.recently_parented_zaps.values()) for vm in vms),
        "mapped_amplitude": round(sum(each.mapped.amplitude for each in recorded) / count, 2),
        "mapped_turns": sum(each.mapped.turns for each in recorded),
        "in_reach_amplitude": round(sum(each.in_reach.amplitude for each in recorded) / count, 2),
        "in_reach_turns": sum(each.in_reach.turns for each in recorded),
        "lost": sum(vm.lost for vm in vms),
    }
