# SPDX-License-Identifier: Apache-2.0
"""What is in a capture, on one screen."""

from __future__ import annotations

import os
from collections import Counter
from typing import TextIO

from rich.console import Console
from rich.table import Table

from shadowwatch.capture.format import reading
from shadowwatch.event.abi import RECORD, Event, Kind, decode
from shadowwatch.event.facts import PAGING
from shadowwatch.mmu.cause import RECLAIM
from shadowwatch.watch import Watch

_KIND = Event._fields.index("kind")


def show(path: str, out: TextIO) -> bool:
    """Print it; false when the capture is cut or damaged, which is said, too. ShadowwatchError when it is none."""
    with reading(path) as reader:
        watch = Watch(reader.facts, reader.name_of)
        kinds: Counter[int] = Counter()
        first_ns = last_ns = 0
        for batch in reader.whole_batches():
            watch.take(batch)
            kinds.update(event[_KIND] for event in decode(batch.records)[0])
            first_ns, last_ns = first_ns or batch.now_ns, batch.now_ns
    console = Console(file=out, highlight=False, markup=False)
    now = watch.snapshot()
    facts = reader.facts
    size = os.path.getsize(path)
    whole = max(1, now.received * RECORD.size)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("host", f"{facts.host}, Linux {facts.kernel}")
    grid.add_row("KVM", f"patched, reclaim_policy was {facts.policy}" if facts.policy else "stock")
    grid.add_row("paging", PAGING[facts.paging])
    grid.add_row("probe points", " ".join(facts.probes))
    grid.add_row("time", f"{(last_ns - first_ns) / 1e9:,.1f} s")
    grid.add_row("events", f"{now.received:,}, {now.lost + now.untracked:,} lost, {now.undecodable:,} not decodable")
    known = {int(kind): kind.name.lower() for kind in Kind}
    grid.add_row("", ", ".join(f"{known.get(kind, kind)} {count:,}" for kind, count in kinds.most_common()))
    grid.add_row("size", f"{size:,} bytes, {size / whole:.0%} of the events'")
    grid.add_row("begins", "in the midst of a run" if facts.midway else "with the daemon")
    grid.add_row("ends", str(reader.fault or "whole"))
    console.print(path, style="bold", markup=False)
    console.print(grid)
    table = Table(box=None, pad_edge=False)
    for heading in ("VM", "pid", "pages", "limit", "allocated", "reclaimed", "recently parented", "lost", "state"):
        table.add_column(heading, justify="left" if heading in ("VM", "state") else "right", no_wrap=heading == "VM")
    for vm in now.vms:
        reclaimed = sum(zaps for (_, cause), zaps in vm.zaps.items() if cause in RECLAIM)
        figures = (sum(vm.pages.values()), vm.limit, sum(vm.allocations.values()), reclaimed)
        more = (sum(vm.recently_parented_zaps.values()), vm.lost)
        state = "ended" if vm.ended else "exact" if vm.exact else "not exact"
        table.add_row(vm.name, str(vm.pid), *(f"{figure:,}" for figure in (*figures, *more)), state)
    console.print()
    console.print(table if now.vms else "no VM was running")
    return reader.fault is None
