# SPDX-License-Identifier: Apache-2.0
"""The compiled model against the same from its sources: one process of each, turn by turn."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from tests.bench.figure import Figure
from tests.compiled import CHECKOUT, compiled

ROUNDS = 11
#: What is measured, the unit, and how many of it are in what `tests.bench.work` tells.
WORK = {
    "model": ("the model, stock order", "ms", 1e3),
    "simulation": ("the same and one policy simulated", "ms", 1e3),
    "scrape": ("figures, text and gzip of 1,000 VMs that have changed", "ms", 1e3),
    "memory": ("memory of the model", "bytes/page", 1.0),
}


class _Flavour:
    def __init__(self, tree: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.work"],
            cwd=tree,
            env=os.environ | {"PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def measure(self, work: str) -> float:
        assert self._process.stdin
        assert self._process.stdout
        print(work, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate()


def flavours() -> list[Figure]:
    """Each, from sources and compiled, as a ratio to the first; of a simulation to the model alone."""
    with TemporaryDirectory() as folder, ExitStack() as ending:
        both = [_Flavour(CHECKOUT), _Flavour(compiled(Path(folder)))]
        for flavour in both:
            ending.callback(flavour.end)
        figures = []
        model: list[float] = []
        for work, (what, unit, scale) in WORK.items():
            for flavour in both:
                flavour.measure(work)  # once for the caches
            rounds = [[flavour.measure(work) * scale for flavour in both] for _ in range(ROUNDS)]
            pure, fast = ([each[flavour] for each in rounds] for flavour in (0, 1))
            model = model or pure
            base, named = (model, "the model from sources") if work == "simulation" else (pure, "from sources")
            ratio = median(pure) / median(model) if work == "simulation" else None
            figures += [
                Figure.of(f"{what}, from sources", pure, unit, ratio, named if ratio else None),
                Figure.of(f"{what}, compiled", fast, unit, median(fast) / median(base), named),
            ]
    return figures
