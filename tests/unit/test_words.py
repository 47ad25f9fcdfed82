# SPDX-License-Identifier: Apache-2.0
"""What people read is in the words that an engineer would say aloud."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What not to say, and what to say instead.
AVOID = {
    r"mend(s|ed|ing)?": "fix, correct",
    r"anew": "again",
    r"fore(told|tells?|telling)": "predict",
    r"lest": "so that … not",
    r"thereof|therein|whereof": "of it, in it",
    r"in vain": "without success",
    r"in the midst": "in the middle",
    r"for who (wants?|asks?)": "if you want",
    r"is no (valid )?(TOML|YAML|table|mapping|list|address|bcrypt|number|path|picture|regular file)": "is not a …",
    r"(?<!there )(is|are) none of": "is not one of",
    r"has it read": "reads it",
}
PATTERN = re.compile(rf"\b({'|'.join(AVOID)})\b", re.IGNORECASE)

#: Whole files that people read.
GLOBS = ["*.md", "Makefile", "docs/*.md", "docs/*.toml", "docs/*.txt", "examples/**/*", "patches/README.md"]
GLOBS += ["prometheus/rules.yml", "dashboards/*.json", "debian/[cs]*", "systemd/*"]
FILES = [path for pattern in GLOBS for path in sorted(ROOT.glob(pattern)) if path.is_file()]
#: Code, of which people read the strings, and programmers the docstrings and comments.
CODE = [path for folder in ("shadowwatch", "dashboards", "debian") for path in sorted((ROOT / folder).rglob("*.py"))]


def sentences(path: Path) -> Iterator[tuple[int, str]]:
    """Each string of a file of Python with its line, its parts put together, and each comment."""
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for number, line in enumerate(text.splitlines(), 1):
        yield number, line.partition("#")[2]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_documents_say_it_plainly(path: Path) -> None:
    """A sentence may go over several lines."""
    text = " ".join(path.read_text().split())
    assert [text[max(0, found.start() - 40) : found.end()] for found in PATTERN.finditer(text)] == []


def test_messages_and_comments_say_it_plainly() -> None:
    """Help, errors, log lines and metrics among them."""
    odd = [
        f"{path.relative_to(ROOT)}:{number}: {found[0]}"
        for path in CODE
        for number, said in sentences(path)
        for found in PATTERN.finditer(" ".join(said.split()))
    ]
    assert odd == []
