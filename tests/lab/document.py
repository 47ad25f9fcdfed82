# SPDX-License-Identifier: Apache-2.0
"""Commands that a document shows, and what it says that one sees.

They stand in blocks for a console: `# command` for root or `$ command` for a user, then what it says, to the next of
them. A line that is `…` stands for any lines or none, and `…` in a line for any part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """One command and what it says."""

    root: bool
    command: str
    says: tuple[str, ...]

    def said(self, output: str) -> bool:
        """Whether this is what the document says."""
        lines = (
            r"(.*\n)*" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r" *\n" for line in self.says
        )
        return re.fullmatch("".join(lines), output) is not None


def sections(document: Path) -> Mapping[str, tuple[Step, ...]]:
    """The steps of each section that has some, by its title, in their order."""
    parts = re.split(r"^## (.*)\n", document.read_text(), flags=re.MULTILINE)[1:]
    found = {title: tuple(_steps(text)) for title, text in zip(parts[::2], parts[1::2], strict=True)}
    return {title: steps for title, steps in found.items() if steps}


def _steps(text: str) -> Iterator[Step]:
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        for prompt, command, says in re.findall(r"^([#$]) (.*)\n((?:(?![#$] ).*\n)*)", block, re.MULTILINE):
            yield Step(prompt == "#", command, tuple(says.splitlines()))
