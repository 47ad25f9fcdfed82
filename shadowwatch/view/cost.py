# SPDX-License-Identifier: Apache-2.0
"""What page faults and reclaim took, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TextIO

from rich.table import Table

from shadowwatch.cost import Cost, Times, VmCost, edge
from shadowwatch.view import whole
from shadowwatch.view.columns import sparkline

#: What the kinds are called here, and in JSON.
_KINDS = {"building": "faults that build page tables", "other": "other faults", "reclaim": "reclaim"}

_NOTE = """\
From entry to return of KVM's functions, in processor time of the thread that runs them: waits are left out, interrupts
are in it, and so are the probes. The processor's way out of the guest and back comes on top. A fault's time is without
the reclaim that it does, which has its own line."""
_UNKNOWN = "Reclaim cannot be told apart on this kernel: it is among the faults that do it."


def length(seconds: float) -> str:
    """A time in the unit that fits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.0f} ns"


def as_text(cost: Cost, out: TextIO) -> None:
    """Print a table of VMs, those that lose most first, and how to read it."""
    console = whole.console(out)
    console.print(f"{cost.host}  Linux {cost.kernel}  measured for {cost.seconds:.1f} s", style="bold")
    vms = sorted(cost.vms, key=lambda vm: -sum(times.seconds for _, times in vm.kinds()))
    first, behind = _span(vms)
    table = Table(box=None, pad_edge=False, show_edge=False)
    table.add_column("VM", no_wrap=True)
    table.add_column("what", no_wrap=True)
    for heading in ("times/s", "of a core", "mean", "median", "p99"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(f"{length(2**first / 1e9)} to {length(2**behind / 1e9)}", no_wrap=True)
    for vm in vms:
        name = vm.name
        for kind, times in vm.kinds():
            if times.times:
                table.add_row(name, _KINDS[kind], *_cells(times, cost.seconds, first, behind))
                name = ""
    whole.show(console, table)
    console.print()
    if cost.missed:
        console.print(f"{cost.missed:,} more could not be timed; measure one VM alone", style="yellow")
    console.print(_NOTE, style="dim")
    if not cost.reclaim_known:
        console.print(_UNKNOWN, style="yellow")


def _span(vms: Sequence[VmCost]) -> tuple[int, int]:
    """The first and the last power of two of nanoseconds between which all times are."""
    used = [octave for vm in vms for _, times in vm.kinds() for octave, count in enumerate(times.octaves()) if count]
    return min(used, default=0), max(used, default=0) + 1


def _cells(times: Times, seconds: float, first: int, behind: int) -> Sequence[str]:
    each_second = times.times / seconds
    shares = f"{each_second:,.0f}" if each_second >= 10 else f"{each_second:.1f}", f"{times.seconds / seconds:.2%}"
    lengths = (length(value) for value in (times.mean, times.quantile(0.5), times.quantile(0.99)))
    counts = times.octaves()[first:behind]
    # None at all is something else than few.
    bars = zip(sparkline(counts, behind - first), counts, strict=True)
    return (*shares, *lengths, "".join(bar if count else "·" for bar, count in bars))


def as_json(cost: Cost, out: TextIO) -> None:
    """Print it all as one JSON object; a bucket is [the seconds at which it ends, how many]."""
    vms = [
        {"vm": vm.name, "pid": vm.pid, "tables": vm.tables} | {kind: _times(times, cost) for kind, times in vm.kinds()}
        for vm in cost.vms
    ]
    head = {name: getattr(cost, name) for name in ("host", "kernel", "measured", "seconds", "missed", "reclaim_known")}
    json.dump(head | {"vms": vms}, out, indent=1)
    out.write("\n")


def _times(times: Times, cost: Cost) -> dict[str, Any]:
    return {
        "times": times.times,
        "seconds": times.seconds,
        "seconds_per_second": times.seconds / cost.seconds,
        "mean_seconds": times.mean,
        "median_seconds": times.quantile(0.5),
        "p99_seconds": times.quantile(0.99),
        "buckets": [[edge(bucket + 1), count] for bucket, count in enumerate(times.buckets) if count],
    }
