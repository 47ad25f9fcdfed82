# SPDX-License-Identifier: Apache-2.0
"""The experiment's plots: page faults by policy, and the saw-tooth over time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from tests.experiment.cases import SHOWN
from tests.experiment.figures import STOCK, Figures

#: Okabe and Ito's hues, which the colour-blind can tell apart, in the order of the policies.
COLOURS = ("#000000", "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#009E73", "#CC79A7", "#F0E442")

#: Of how many allocations the saw-tooth is drawn.
ALLOCATIONS = range(1000, 2500)

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


def draw(figures: Figures, folder: Path) -> None:
    """Write both, the one over time if its rows have that."""
    place, seed = SHOWN
    over_time = {
        policy: points
        for policy in figures.policies(place)
        if (points := figures.by_seed[place, policy].get(seed, {}).get("over_time"))
    }
    with rc_context(STYLE):
        _save(_faults(figures), folder / "experiment-faults.svg")
        if over_time:
            _save(_over_time(over_time), folder / "experiment-saw-tooth.svg")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})


def _faults(figures: Figures) -> Any:
    places = figures.places()
    policies = [policy for policy in figures.policies() if policy != STOCK]
    width = 0.8 / len(policies)
    figure = Figure(figsize=(9, 1.0 + 0.16 * len(policies) * len(places)), layout="constrained")
    axes = figure.subplots()
    for number, policy in enumerate(policies):
        effects = figures.effects(policy, "page_faults")
        at = [place for place in places if place in effects]
        middle = [100 * effects[place].median for place in at]
        spread = [
            [100 * (effects[place].median - min(effects[place].changes)) for place in at],
            [100 * (max(effects[place].changes) - effects[place].median) for place in at],
        ]
        heights = [places.index(place) + (number - (len(policies) - 1) / 2) * width for place in at]
        colour = COLOURS[1:][number % (len(COLOURS) - 1)]
        axes.barh(heights, middle, 0.9 * width, xerr=spread, color=colour, label=policy, error_kw={"linewidth": 0.7})
    axes.set_yticks(range(len(places)), [f"{case}, {limit} pages" for case, limit in places])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.7)
    axes.set_xlabel("page faults, change from stock order in % (median, lowest to highest)")
    axes.legend(loc="lower left")
    return figure


def _over_time(over_time: dict[str, list[tuple[int, int]]]) -> Any:
    figure = Figure(figsize=(9, 1.5 * len(over_time)), layout="constrained")
    grid = figure.subplots(len(over_time), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    (case, limit), _ = SHOWN
    highest = 0
    for axes, (policy, points), colour in zip(grid, over_time.items(), COLOURS, strict=False):
        middle = [point for point in points if point[0] in ALLOCATIONS]
        axes.plot(*zip(*middle, strict=True), color=colour, linewidth=0.8)
        axes.set_ylabel(policy)
        highest = max(highest, *(tables for _, tables in middle))
    grid[0].set_ylim(0, highest + 1)
    grid[0].set_title(f"{case}, {limit} shadow pages: tables of level 1 that a root leads to", loc="left")
    grid[-1].set_xlabel("shadow pages allocated so far")
    return figure
