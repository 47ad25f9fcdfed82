# SPDX-License-Identifier: Apache-2.0
"""One line on a terminal that says how far a long job is."""

from __future__ import annotations

from typing import TextIO


class ProgressLine:
    """Overwrites itself on a terminal, and is silent elsewhere."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._shown = ""

    def show(self, text: object) -> None:
        """Show this in place of what was shown before."""
        if self._out.isatty():
            line = str(text)
            self._out.write(f"\r{line.ljust(len(self._shown))}")
            self._out.flush()
            self._shown = line

    def end(self) -> None:
        """Leave the line as it is."""
        if self._shown:
            self._out.write("\n")
            self._shown = ""
