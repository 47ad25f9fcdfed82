# SPDX-License-Identifier: Apache-2.0
"""docs/install.md is read as it is meant, so that the lab's test of it cannot pass by a mistake in reading."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.document import Step, sections

CHECKOUT = Path(__file__).parents[2]


def test_every_command_of_the_document_is_a_step(tmp_path: Path) -> None:
    """With its section, whose it is, and what it says; blocks that are no console's have none."""
    document = tmp_path / "document.md"
    document.write_text(
        "# Title\n\n## One\n\nWords.\n\n```console\n# first 'a b'  # why\n$ second\nsays\n…\n```\n\n"
        "```text\n$ nothing\n```\n\n## Two\n\nNo command.\n\n## Three\n\n```console\n# third\n```\n"
    )
    assert sections(document) == {
        "One": (Step(True, "first 'a b'  # why", ()), Step(False, "second", ("says", "…"))),
        "Three": (Step(True, "third", ()),),
    }
    text = (CHECKOUT / "docs/install.md").read_text()
    prompts = [line for line in text.splitlines() if line.startswith(("# ", "$ "))]
    found = sections(CHECKOUT / "docs/install.md").values()
    assert len(prompts) - 1 == sum(map(len, found)) > 20  # but for the title


@pytest.mark.parametrize(
    ("says", "output", "said"),
    [
        ((), "", True),
        ((), "words\n", False),
        (("words",), "words\n", True),
        (("words",), "words  \n", True),
        (("words",), "words and more\n", False),
        (("words",), "words\nmore\n", False),
        (("… 1.0 …",), "it is 1.0 now\n", True),
        (("… 1.0 …",), "it is 1x0 now\n", False),
        (("…", "last"), "last\n", True),
        (("…", "last"), "one\ntwo\nlast\n", True),
        (("…", "last"), "last\none\n", False),
        (("first …", "…"), "first and\n", True),
    ],
)
def test_what_a_command_says_is_compared_line_by_line(says: tuple[str, ...], output: str, said: bool) -> None:
    """All of it, but where the document leaves something out."""
    assert Step(True, "command", says).said(output) is said
