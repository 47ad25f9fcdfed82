# SPDX-License-Identifier: Apache-2.0
"""Tables of which no figure is cut, however narrow a terminal is."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from shadowwatch.view.columns import ENDLESS


def show(console: Console, table: Table) -> None:
    """Print it; where the terminal is narrower than its figures, lines go on in the next one."""
    width = console.width
    needed = Measurement.get(console, console.options.update(max_width=ENDLESS), table).maximum
    console.width = max(width, needed)
    console.print(table)
    console.width = width
