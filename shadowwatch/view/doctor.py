# SPDX-License-Identifier: Apache-2.0
"""One screen: what this host offers, what it lacks, and the cure."""

from __future__ import annotations

from typing import TextIO

from rich.table import Table
from rich.text import Text

from shadowwatch.event.facts import PAGING
from shadowwatch.probe.checks import CHECKS, cure_of, paging, to_do
from shadowwatch.probe.host import Host
from shadowwatch.probe.plan import HIT_INSTRUCTIONS, Plan, unknown_clones
from shadowwatch.view import whole

_GOOD, _BAD = Text("ok", "green"), Text("no", "bold red")


def _kvm(host: Host) -> str:
    if host.patched:
        return f"patched, reclaim_policy is {host.parameters['kvm.reclaim_policy']}"
    if host.policy:
        return f"patched, always reclaims as reclaim_policy {host.policy}"
    return "stock: no reclaim_policy parameter" if host.kvm else "not loaded"


def _table() -> Table:
    # No wrapping inside a word: symbols and commands are there to be copied.
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, min_width=14)
    table.add_column(overflow="fold")
    return table


def _checks(host: Host) -> Table:
    table = _table()
    for check in CHECKS:
        table.add_row(_GOOD if check.holds(host) else _BAD, check.name, check.words(host))
    return table


def _points(plan: Plan, host: Host) -> Table:
    table = _table()
    for attachment in plan.attachments:
        table.add_row(
            _GOOD,
            attachment.point,
            f"{HIT_INSTRUCTIONS.get(attachment.kind, ''):>3}  {attachment.kind} {attachment.symbol}",
        )
    for point in plan.missing:
        mark = _BAD if point.needed else Text("–", "dim")
        table.add_row(mark, point.name, f"no hook, so unknown: {point.tells}{cure_of(point, plan)}")
    for clone in unknown_clones(host):
        table.add_row(_BAD, "clone", f"{clone}: its arguments are not known, so no probe is attached there")
    return table


def show(host: Host, plan: Plan, runs: bool, out: TextIO) -> bool:
    """Print the screen, `runs` is whether a daemon does already; true when `shadowwatch run` can work here."""
    console = whole.console(out)
    console.print(f"Linux {host.release}", style="bold")
    console.print(_checks(host))
    console.print()
    console.print("Guests", style="bold")
    facts = _table()
    facts.add_row("", "paging", PAGING[paging(host)])
    facts.add_row("", "KVM", _kvm(host))
    console.print(facts)
    console.print()
    console.print("Probe points, with the instructions that KVM pays for a hit of the hook alone", style="bold")
    console.print(_points(plan, host))
    console.print()
    cures = to_do(host, plan)
    if not cures:
        console.print("Ready, and it runs: shadowwatch top" if runs else "Ready: sudo shadowwatch run", style="green")
    else:
        steps = "; ".join((*cures, "then run shadowwatch doctor again"))
        console.print(f"Not ready. In this order: {steps}.", style="red")
    return not cures
