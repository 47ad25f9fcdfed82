# SPDX-License-Identifier: Apache-2.0
"""What a recording tells of each run in it: counts, the saw-tooth, and what was predicted of other policies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    """A VM's pages as a slow, obvious tree: how many tables of level 1 its roots lead to."""

    levels: dict[int, int] = field(default_factory=dict)
    edges: dict[int, int] = field(default_factory=dict)

    def tables(self) -> int:
        """Count them, from the roots down."""
        children: dict[int, set[int]] = {}
        for pte, child in self.edges.items():
            children.setdefault(pte & SPT_MASK, set()).add(child)
        top = max(self.levels.values(), default=0)
        reached: set[int] = set()
        waiting = [spt for spt, level in self.levels.items() if level == top]
        while waiting:
            spt = waiting.pop()
            if spt not in reached:
                reached.add(spt)
                waiting += children.get(spt, ())
        return sum(self.levels[spt] == 1 for spt in reached)

    def take(self, event: Event, levels: Mapping[int, int]) -> None:
        """A page comes, is linked, or goes with all of its edges."""
        if event.kind == Kind.ALLOC:
            self.levels[event.spt] = levels[event.role]
        elif event.kind == Kind.LINK:
            self.edges[event.parent_pte] = event.spt
        elif event.kind == Kind.ZAP:
            self.levels.pop(event.spt, None)
            self.edges = {pte: to for pte, to in self.edges.items() if event.spt not in (to, pte & SPT_MASK)}


@dataclass
class Teeth:
    """The saw-teeth of one VM: guest pages that KVM counts as mapped, and tables that a root leads to."""

    mapped: SawTooth = field(default_factory=SawTooth)
    in_reach: SawTooth = field(default_factory=SawTooth)
    tree: InReach = field(default_factory=InReach)
    reclaimed: bool = False


@dataclass(frozen=True)
class Recorded:
    """One VM of a recording."""

    vm: VmSnapshot
    mapped: SawTooth
    in_reach: SawTooth

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """What was predicted, by policy."""
        return self.vm.what_if


def analyse(path: Path) -> dict[str, Recorded]:
    """Read a recording once: its VMs by name."""
    teeth: dict[int, Teeth] = {}
    with reading(str(path)) as reader:
        levels = RoleLayout(reader.facts.role).levels
        watch = Watch(reader.facts, reader.name_of, tuple(POLICIES))
        for batch in reader.batches():
            # At no time: VMs that end are then kept until the recording does.
            watch.take(batch._replace(now_ns=0))
            for event in _events(batch.records):
                _follow(teeth.setdefault(event.pid, Teeth()), event, levels)
    vms = watch.snapshot().vms
    return {vm.name: Recorded(vm, teeth[vm.pid].mapped, teeth[vm.pid].in_reach) for vm in vms if vm.pid in teeth}


def _events(records: bytes) -> Iterator[Event]:
    wanted = {Kind.ALLOC, Kind.LINK, Kind.ZAP, Kind.RECLAIM}
    return (event for event in map(Event._make, decode(records)[0]) if event.kind in wanted)


def _follow(teeth: Teeth, event: Event, levels: Mapping[int, int]) -> None:
    tree = teeth.tree
    if event.kind in (Kind.ALLOC, Kind.RECLAIM) and event.mapped != UNCOUNTED:
        teeth.mapped.take(event.mapped)
    # Tables come into reach one by one and go out of it in a reclaim: its two ends are all turning points.
    if event.kind == Kind.RECLAIM or (teeth.reclaimed and event.kind != Kind.ZAP):
        teeth.in_reach.take(tree.tables())
        teeth.reclaimed = event.kind == Kind.RECLAIM
    tree.take(event, levels)


def in_reach_over_time(path: Path, suffix: str) -> list[tuple[int, int]]:
    """(pages allocated so far, tables in reach) of the VM whose name ends so, at each of its turns."""
    tree = InReach()
    points: list[tuple[int, int]] = []
    allocated, reclaimed = 0, False
    with reading(str(path)) as reader:
        levels = RoleLayout(reader.facts.role).levels
        for batch in reader.batches():
            for event in _events(batch.records):
                if not reader.name_of(event.pid).endswith(suffix):
                    continue
                if event.kind == Kind.RECLAIM or (reclaimed and event.kind != Kind.ZAP):
                    points.append((allocated, tree.tables()))
                    reclaimed = event.kind == Kind.RECLAIM
                allocated += event.kind == Kind.ALLOC
                tree.take(event, levels)
    return points


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
