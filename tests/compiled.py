# SPDX-License-Identifier: Apache-2.0
"""The compiled modules: `python -m tests.compiled FOLDER` puts them there, at the places that they have in a wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.lab.cache import Cache, default_root
from tests.lab.machine import say

CHECKOUT = Path(__file__).parents[1]
#: What a wheel is made of.
_PARTS = ("LICENSE", "README.md", "bpf", "docs", "pyproject.toml", "shadowwatch", "systemd")


def compile_into(folder: Path) -> None:
    """As `HATCH_BUILD_HOOKS_ENABLE=1 hatchling build -t wheel` does; CalledProcessError has what the compiler said."""
    with TemporaryDirectory() as copied:
        tree = Path(copied)
        for part in _PARTS:
            take = shutil.copytree if (CHECKOUT / part).is_dir() else shutil.copy
            take(CHECKOUT / part, tree / part)
        hatchling = str(Path(sys.executable).parent / "hatchling")
        environment = os.environ | {"HATCH_BUILD_HOOKS_ENABLE": "1"}
        subprocess.run(
            [hatchling, "build", "-t", "wheel"],
            cwd=tree,
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for module in (*tree.glob("*.so"), *(tree / "shadowwatch").rglob("*.so")):
            place = folder / module.relative_to(tree)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(module, place)


def compiled(folder: Path) -> Path:
    """A copy of the checkout in this folder, with compiled modules beside the sources."""
    sources = sorted((CHECKOUT / "shadowwatch").rglob("*.py"))
    made = Cache(default_root(), say).artifact(
        "compiled", [sys.version, CHECKOUT / "pyproject.toml", *sources], compile_into
    )
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=CHECKOUT, check=True, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(CHECKOUT / name, folder / name)
    shutil.copytree(made, folder, dirs_exist_ok=True)
    return folder


if __name__ == "__main__":
    compile_into(Path(sys.argv[1]))
