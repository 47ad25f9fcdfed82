# SPDX-License-Identifier: Apache-2.0
"""The experiment's plots: page faults by policy, and the saw-tooth over time."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from tests.experiment.analysis import in_reach_over_time
from tests.experiment.claims import Figures

#: Okabe and Ito's hues, which the colour-blind can tell apart.
COLOURS = {"stock": "#000000", "parents": "#0072B2", "mapped": "#56B4E9", "leaf-first": "#E69F00"}

#: What is drawn over time, and of how many allocations.
SHOWN, ALLOCATIONS = ("zipf", 64, 1), range(1000, 2500)

STYLE = {
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "shadowwatch",
}


def draw(figures: Figures, recordings: Path | None, folder: Path) -> None:
    """Write both, the one over time if its recording is there."""
    with rc_context(STYLE):
        _save(_faults(figures), folder / "experiment-faults.svg")
        name = f"{SHOWN[0]}-{SHOWN[1]}.capture"
        if recordings and (recordings / name).exists():
            _save(_over_time(recordings / name), folder / "experiment-saw-tooth.svg")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})


def _faults(figures: Figures) -> Any:
    places = figures.places()
    figure = Figure(figsize=(9, 1.0 + 0.42 * len(places)), layout="constrained")
    axes = figure.subplots()
    policies = [policy for policy in COLOURS if policy != "stock"]
    for number, policy in enumerate(policies):
        changes = [[100 * each for each in figures.changes(*place, policy, "page_faults")] for place in places]
        middle = [median(each) for each in changes]
        spread = [
            [value - min(each) for value, each in zip(middle, changes, strict=True)],
            [max(each) - value for value, each in zip(middle, changes, strict=True)],
        ]
        heights = [place + (number - 1) * 0.25 for place in range(len(places))]
        axes.barh(heights, middle, 0.22, xerr=spread, color=COLOURS[policy], label=policy, error_kw={"linewidth": 0.7})
    axes.set_yticks(range(len(places)), [f"{case}, {limit} pages" for case, limit in places])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.7)
    axes.set_xlabel("page faults, change from stock order in % (median of the seeds, lowest to highest)")
    axes.legend(loc="lower left")
    return figure


def _over_time(recording: Path) -> Any:
    figure = Figure(figsize=(9, 6), layout="constrained")
    grid = figure.subplots(len(COLOURS), 1, sharex=True, sharey=True)
    case, limit, seed = SHOWN
    highest = 0
    for axes, (policy, colour) in zip(grid, COLOURS.items(), strict=True):
        points = in_reach_over_time(recording, f"-{limit}-{seed}-{policy}")
        middle = [point for point in points if point[0] in ALLOCATIONS]
        axes.plot(*zip(*middle, strict=True), color=colour, linewidth=0.8)
        axes.set_ylabel(policy)
        highest = max(highest, *(tables for _, tables in middle))
    grid[0].set_ylim(0, highest + 1)
    grid[0].set_title(f"{case}, {limit} shadow pages: tables of level 1 that a root leads to", loc="left")
    grid[-1].set_xlabel("shadow pages allocated so far")
    return figure
