# SPDX-License-Identifier: Apache-2.0
"""Words and tables of which nothing is cut, however narrow a terminal is, and no line folded where there is none."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from shadowwatch.view.columns import ENDLESS


def console(out: TextIO) -> Console:
    """What prints there as it is told, without a mark-up of its own; what is no terminal has no width."""
    width = None if out.isatty() else ENDLESS
    return Console(file=out, highlight=False, emoji=False, markup=False, width=width)


def show(console: Console, table: Table) -> None:
    """Print it; where the terminal is narrower than its figures, lines go on in the next one."""
    width = console.width
    needed = Measurement.get(console, console.options.update(max_width=ENDLESS), table).maximum
    console.width = max(width, needed)
    console.print(table)
    console.width = width
