# SPDX-License-Identifier: Apache-2.0
"""What is in a capture, on one screen."""

from __future__ import annotations

from typing import TextIO

from rich.table import Table

from shadowwatch.capture.contents import Contents
from shadowwatch.event.abi import RECORD, Kind
from shadowwatch.event.facts import PAGING
from shadowwatch.view import whole


def show(found: Contents, out: TextIO) -> None:
    """Print it."""
    console = whole.console(out)
    now, facts, size = found.now, found.facts, found.size
    recorded = now.received * RECORD.size
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("host", f"{facts.host}, Linux {facts.kernel}")
    grid.add_row("KVM", f"patched, reclaim_policy was {facts.policy}" if facts.policy else "stock")
    grid.add_row("paging", PAGING[facts.paging])
    grid.add_row("probe points", " ".join(facts.probes))
    grid.add_row("time", f"{found.seconds:,.1f} s")
    grid.add_row("events", f"{now.received:,}, {now.all_lost:,} lost, {now.undecodable:,} undecodable")
    if found.kinds:
        grid.add_row("", _by_kind(found))
    grid.add_row("size", f"{size:,} bytes" + (f", {size / recorded:.0%} of the events'" if recorded else ""))
    grid.add_row("begins", "in the middle of a run" if facts.midway else "with the daemon")
    grid.add_row("ends", found.fault or "whole")
    console.print(found.path, style="bold", markup=False)
    console.print(grid)
    table = Table(box=None, pad_edge=False)
    for heading in ("VM", "pid", "pages", "limit", "allocated", "reclaimed", "recently parented", "lost", "state"):
        table.add_column(heading, justify="left" if heading in ("VM", "state") else "right", no_wrap=heading == "VM")
    for vm in now.vms:
        figures = (vm.all_pages, vm.limit, vm.all_allocations, vm.reclaimed, vm.recently_parented, vm.lost)
        table.add_row(vm.name, str(vm.pid), *(f"{figure:,}" for figure in figures), vm.state)
    console.print()
    if now.vms:
        whole.show(console, table)
    else:
        console.print("no VM was running")
    if found.left:
        console.print(f"{found.left:,} more ended before these")


def _by_kind(found: Contents) -> str:
    known = {int(kind): kind.name.lower() for kind in Kind}
    return ", ".join(f"{known.get(kind, kind)} {count:,}" for kind, count in found.kinds.items())
