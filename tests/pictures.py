# SPDX-License-Identifier: Apache-2.0
"""`python -m tests.pictures`: README's pictures, made from the recorded captures."""

from __future__ import annotations

from pathlib import Path

from shadowwatch.cli import main
from tests.captures import CAPTURES

DOCS = Path(__file__).parents[1] / "docs"

#: When the tree is shown: reclaim has just gone through it, so it is small.
AT_SECONDS = "0.42"


def make(folder: Path) -> None:
    """Draw the RFC's before and after, and print a tree, into this folder."""
    folder.mkdir(exist_ok=True)
    stock, parents = str(CAPTURES["stock"]), str(CAPTURES["parents"])
    made = [
        main(["plot", stock, parents, "-o", str(folder / "before-after.svg")]),
        main(["tree", "zipf", "--replay", stock, "--at", AT_SECONDS, "-o", str(folder / "tree.txt")]),
    ]
    assert made == [0, 0], "the command said why on standard error"


if __name__ == "__main__":
    make(DOCS)
