# SPDX-License-Identifier: Apache-2.0
"""What other reclaim policies would have made of a capture, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from shadowwatch.capture.format import Reader
from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import RECORD
from shadowwatch.event.facts import Facts
from shadowwatch.mmu.snapshot import Estimate
from shadowwatch.simulate.policies import POLICIES
from shadowwatch.simulate.simulator import Simulator

#: Simulations of long captures get a bar: it comes when this many records are read.
_LONG = 200_000

_NOTE = """\
Page faults are those that build page tables. "At least" counts faults that the guest had, and that would have found
no page; "at most" adds one for each page that the policy would have zapped and the kernel still had, since the guest
may have used it with no event to tell. The estimate takes as many of these for faults as the guest's returns to the
pages that it did lose make likely."""


@dataclass(frozen=True)
class Simulated:
    """VMs of a capture by name and pid, and for each what policies would have made of it; `fault` if it broke off."""

    path: str
    facts: Facts
    events: int
    vms: Mapping[tuple[str, int], Mapping[str, Estimate]]
    fault: str

    def only(self, wanted: str | None) -> Simulated:
        """Only the VM of this name or pid, all of them without one; ShadowwatchError when there is none."""
        if wanted is None:
            return self
        found = {key: of for key, of in self.vms.items() if wanted in (key[0], str(key[1]))}
        if not found:
            listed = ", ".join(f"{name} (pid {pid})" for name, pid in self.vms) or "none"
            raise ShadowwatchError(f"there is no VM {wanted} that allocated shadow pages; choose from {listed}")
        return replace(self, vms=found)


def simulated(reader: Reader, policies: Sequence[str], progress: TextIO) -> Simulated:
    """Read a capture to its end, once for all policies, with a bar on a terminal when that takes long."""
    simulators = [Simulator(reader.facts, policy) for policy in policies]
    names: dict[int, str] = {}
    events = 0
    fault = ""
    console = Console(file=progress, quiet=not progress.isatty())
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as bar:
        task = bar.add_task("simulating", total=reader.size, visible=False)
        try:
            for batch in reader.batches():
                events += len(batch.records) // RECORD.size
                for simulator in simulators:
                    simulator.feed(batch.records)
                bar.update(task, completed=reader.place()[0], visible=events > _LONG)
        except ShadowwatchError as error:
            fault = str(error)
    vms: dict[tuple[str, int], dict[str, Estimate]] = {}
    for simulator in simulators:
        for (_, pid), estimate in simulator.estimates().items():
            if estimate.recorded_faults:
                names.setdefault(pid, reader.name_of(pid))
                vms.setdefault((names[pid], pid), {})[simulator.policy] = estimate
    return Simulated(reader.path, reader.facts, events, vms, fault)


def _change(now: float, before: int) -> str:
    return f"{now / before - 1:+.0%}".replace("-", "−") if before else ""


def as_text(result: Simulated, out: TextIO) -> None:
    """Print a table of VMs and policies, and how to read it."""
    console = Console(file=out, highlight=False, markup=False, width=None if out.isatty() else 120)
    facts = result.facts
    kvm = f"reclaim_policy {facts.policy}" if facts.policy else "stock KVM"
    console.print(f"{result.path}: Linux {facts.kernel}, {kvm}, {result.events:,} events", style="bold")
    if not result.vms:
        console.print("no VM had a page fault that built page tables")
        return
    table = Table(box=None, pad_edge=False, show_edge=False)
    for heading in ("VM", "policy"):
        table.add_column(heading, no_wrap=True)
    for heading in ("page faults", "", "at least", "at most", "zaps", "", "refaults", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for (name, _), of in result.vms.items():
        first = next(iter(of.values()))
        counts = (first.recorded_faults, first.recorded_zaps, first.recorded_refaults)
        table.add_row(name, "as recorded", f"{counts[0]:,}", "", "", "", f"{counts[1]:,}", "", f"{counts[2]:,}", "")
        for policy, estimate in of.items():
            table.add_row("", policy, *_cells(policy, estimate))
    console.print(table)
    console.print()
    console.print(_NOTE, style="dim")


def _cells(policy: str, estimate: Estimate) -> Sequence[str]:
    if estimate.reproduced == estimate.recorded_zaps == estimate.zaps:
        same = f"{estimate.zaps:,}", "each", f"{estimate.refaults:,}", "each"
        return (f"{estimate.faults:,}", "each", "", "", *same)
    if not POLICIES[policy].bounded:
        return ("no estimate",)
    bounds = (
        _change(faults, estimate.recorded_faults) for faults in (estimate.faults, estimate.faults + estimate.unseen)
    )
    cells: list[str] = []
    for known, recorded in (
        (estimate.faults, estimate.recorded_faults),
        (estimate.zaps, estimate.recorded_zaps),
        (estimate.refaults, estimate.recorded_refaults),
    ):
        likely = known + estimate.likely
        cells += f"{likely:,.0f}", _change(likely, recorded)
        if len(cells) == 2:
            cells += bounds
    return cells


def as_json(result: Simulated, out: TextIO) -> None:
    """Print it all as one JSON object."""
    vms = [
        {"vm": name, "pid": pid, "policies": {policy: estimate._asdict() for policy, estimate in of.items()}}
        for (name, pid), of in result.vms.items()
    ]
    json.dump({"path": result.path, "events": result.events, "fault": result.fault, "vms": vms}, out, indent=1)
    out.write("\n")
