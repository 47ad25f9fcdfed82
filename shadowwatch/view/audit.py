# SPDX-License-Identifier: Apache-2.0
"""The result of audits, as a table."""

from __future__ import annotations

from typing import TextIO

from rich.table import Table

from shadowwatch.snapshot import Snapshot
from shadowwatch.view import whole


def audit_table(now: Snapshot, out: TextIO) -> bool:
    """Print a line for each VM; true when each running one was compared and is as the kernel has it."""
    table = Table(box=None, pad_edge=False)
    for heading in ("VM", "pages", "audits", "compared", "differing", "resyncs", "lost"):
        table.add_column(heading, justify="left" if heading == "VM" else "right", no_wrap=heading == "VM")
    good = True
    for vm in now.vms:
        figures = (vm.all_pages, vm.audits, vm.audited, vm.differing, vm.resyncs, vm.lost)
        table.add_row(vm.name, *(f"{figure:,}" for figure in figures))
        good = good and not vm.differing and (vm.ended or vm.audits > 0)
    console = whole.console(out)
    if now.vms:
        whole.show(console, table)
    else:
        console.print("no VM is running")
    return good
