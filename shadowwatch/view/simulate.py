# SPDX-License-Identifier: Apache-2.0
"""What other reclaim policies would have made of a capture, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from shadowwatch.errors import counted
from shadowwatch.simulate.policies import parsed
from shadowwatch.simulate.run import Simulated
from shadowwatch.snapshot import Estimate
from shadowwatch.view import whole

#: Simulations of long captures get a bar: it comes when this many records are read.
_LONG = 200_000

_NOTE = """\
Page faults are those that build page tables. "At least" counts only faults that the guest really had and would still
have had, and under a lower limit nobody can say more. "At most" adds one for each page that the policy would have
zapped while the kernel kept it: the guest may have used that page, which makes no event. How many of these become
faults is estimated from how often the guest came back to pages that it did lose."""

_BOUNDLESS = ("no estimate",)
_NO_MOST = """\
Of {} there is no estimate: a page that it zaps as soon as a fault has built it may be wanted any number of times, so
that there is no "at most"."""


@contextmanager
def bar(size: int, out: TextIO) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal that moves when it is told of how many bytes of `size` are read, and how many events."""
    console = Console(file=out, quiet=not out.isatty())
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=console.quiet) as shown:
        task = shown.add_task("simulating", total=size, visible=False)
        yield lambda place, events: shown.update(task, completed=place, visible=events > _LONG)


def _change(now: float, before: int) -> str:
    return f"{now / before - 1:+.0%}".replace("-", "−") if before else ""


def as_text(path: str, result: Simulated, out: TextIO) -> None:
    """Print a table of VMs and policies, and how to read it."""
    console = whole.console(out)
    facts = result.facts
    kvm = f"reclaim_policy {facts.policy}" if facts.policy else "stock KVM"
    console.print(f"{path}: Linux {facts.kernel}, {kvm}, {counted(result.events, 'event')}", style="bold")
    if not result.vms:
        console.print("no VM had a page fault that built page tables")
        return
    # Of 80 columns none is left for more between two.
    table = Table(box=None, pad_edge=False, show_edge=False, collapse_padding=True)
    for heading in ("VM", "policy"):
        table.add_column(heading, no_wrap=True)
    for heading in ("page faults", "", "at least", "at most", "zaps", "", "refaults", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    boundless: dict[str, None] = {}
    for (name, _), of in result.vms.items():
        first = next(iter(of.values()))
        counts = (first.recorded_faults, first.recorded_zaps, first.recorded_refaults)
        table.add_row(name, "as recorded", f"{counts[0]:,}", "", "", "", f"{counts[1]:,}", "", f"{counts[2]:,}", "")
        for policy, estimate in of.items():
            cells = _cells(policy, estimate)
            table.add_row("", policy, *cells)
            if cells == _BOUNDLESS:
                boundless[parsed(policy)[0].name] = None
    whole.show(console, table)
    console.print()
    console.print(_NOTE, style="dim")
    if boundless:
        console.print(_NO_MOST.format(", ".join(boundless)), style="dim")


def _cells(policy: str, estimate: Estimate) -> Sequence[str]:
    if estimate.reproduced == estimate.recorded_zaps == estimate.zaps:
        same = f"{estimate.zaps:,}", "each", f"{estimate.refaults:,}", "each"
        return (f"{estimate.faults:,}", "each", "", "", *same)
    if not parsed(policy)[0].bounded:
        return _BOUNDLESS
    if estimate.lowered:
        return ("no estimate", "", _change(estimate.faults, estimate.recorded_faults))
    bounds = (_change(faults, estimate.recorded_faults) for faults in (estimate.faults, estimate.most_faults))
    cells: list[str] = []
    for likely, recorded in (
        (estimate.likely_faults, estimate.recorded_faults),
        (estimate.likely_zaps, estimate.recorded_zaps),
        (estimate.likely_refaults, estimate.recorded_refaults),
    ):
        cells += f"{likely:,.0f}", _change(likely, recorded)
        if len(cells) == 2:
            cells += bounds
    return cells


def as_json(path: str, result: Simulated, out: TextIO) -> None:
    """Print it all as one JSON object."""
    vms = [
        {"vm": name, "pid": pid, "policies": {policy: estimate._asdict() for policy, estimate in of.items()}}
        for (name, pid), of in result.vms.items()
    ]
    json.dump({"path": path, "events": result.events, "fault": result.fault, "vms": vms}, out, indent=1)
    out.write("\n")
