# SPDX-License-Identifier: Apache-2.0
"""Rooms: each outside library in one of them, and imports that point one way."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import shadowwatch

PACKAGE = Path(shadowwatch.__file__).parent

ROOMS = {"bcc": "probe/attach.py", "prometheus_client": "metrics/", "rich": "view/", "psutil": "daemon/vmname.py"}
ROOMS |= {"matplotlib": "view/plot.py", "yaml": "web/config.py", "bcrypt": "web/users.py"}

#: No room imports one to its right.
ORDER = ["errors", "progress", "service", "event", "mmu", "simulate", "watch", "capture", "source"]
ORDER += ["control", "web", "metrics", "probe", "view", "config", "start", "daemon", "commands", "cli", "__main__"]


def imports() -> list[tuple[str, str]]:
    """(file, module that it imports), for each import in the package."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            else:
                continue
            found += [(str(path.relative_to(PACKAGE)), name) for name in names]
    return found


def test_each_library_lives_in_one_room() -> None:
    """And each is used there."""
    users = {library: {file for file, name in imports() if name.split(".")[0] == library} for library in ROOMS}
    for library, room in ROOMS.items():
        assert users[library], library
        assert all(file.startswith(room) for file in users[library]), users[library]


def test_imports_point_one_way() -> None:
    """A file imports from its own room or from rooms to its left."""
    for file, name in imports():
        if name.startswith("shadowwatch."):
            source = file.split("/")[0].removesuffix(".py")
            assert ORDER.index(name.split(".")[1]) <= ORDER.index(source), f"{file} imports {name}"


@pytest.mark.parametrize("words", [("-c", "import shadowwatch.config"), ("-m", "shadowwatch", "--version")])
def test_a_command_that_needs_little_starts_fast(words: tuple[str, ...]) -> None:
    """It loads no model, no simulator and nothing that draws or serves."""
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True)
    loaded = re.findall(r"\| +(\S+)$", done.stderr, re.M)
    assert "shadowwatch.config" in loaded
    heavy = ("bcc", "rich", "prometheus_client", "matplotlib", "psutil", "yaml", "asyncio")
    ours = tuple(f"shadowwatch.{room}" for room in ("event", "mmu", "simulate", "watch", "view", "metrics", "web"))
    assert not [name for name in loaded if name.split(".")[0] in heavy or name.startswith(ours)]


def test_the_model_has_no_clock_and_no_file() -> None:
    """mmu/ and simulate/ can be fed from anywhere."""
    outside = {name.split(".")[0] for file, name in imports() if file.startswith(("mmu/", "simulate/"))}
    assert outside <= {
        "__future__",
        "bisect",
        "collections",
        "dataclasses",
        "difflib",
        "enum",
        "itertools",
        "shadowwatch",
        "typing",
    }
