# SPDX-License-Identifier: Apache-2.0
"""The compiled flavour does what the sources say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compiled import compiled

#: What the model and the simulator are tested by.
MODEL = ("audit", "captures", "curve", "decoder", "model", "reclaim_time", "simulate", "vm", "walk", "watch")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with compiled modules."""
    return compiled(tmp_path_factory.mktemp("compiled"))


def passes(tree: Path, *words: str) -> None:
    """These tests pass there, and it is the compiled model that they test."""
    environment = os.environ | {"PYTHONPATH": str(tree)}
    said = subprocess.run(
        [sys.executable, "-m", "shadowwatch", "--version"], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert said.stdout.endswith(" (compiled)\n")
    code = "import shadowwatch.mmu.vm as vm; print(vm.__file__)"
    said = subprocess.run([sys.executable, "-c", code], cwd=tree, env=environment, capture_output=True, text=True)
    assert said.stdout.startswith(str(tree))
    assert said.stdout.endswith(".so\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:]


def test_the_compiled_model_passes_its_tests(tree: Path) -> None:
    """Those that need no other process."""
    passes(tree, "-m", "not soak", *(f"tests/unit/test_{name}.py" for name in MODEL))


@pytest.mark.soak
def test_the_compiled_flavour_passes_all_unit_tests(tree: Path) -> None:
    """The daemon, commands and views with the compiled model in them."""
    passes(tree, "-n", "2", "-m", "not soak", "tests/unit")
