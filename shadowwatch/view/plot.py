# SPDX-License-Identifier: Apache-2.0
"""Series drawn over time, one column for each: the only user of matplotlib."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from io import BytesIO
from typing import Any, NamedTuple

from shadowwatch.capture.series import Series
from shadowwatch.errors import ShadowwatchError, counted
from shadowwatch.snapshot import Cause

FORMATS = (".svg", ".png")

#: Levels 1 to 5, from light to dark: they differ in black and white, too.
_LEVELS = ("#C6DBEF", "#6BAED6", "#2171B5", "#08306B", "#000000")
#: Okabe and Ito's hues, which the colour-blind can tell apart; a cause has the same one everywhere.
_CAUSES = {
    Cause.QUOTA: "#0072B2",
    Cause.GUEST_WRITE: "#E69F00",
    Cause.ZAP_ALL: "#56B4E9",
    Cause.SYNC: "#CC79A7",
    Cause.TEARDOWN: "#000000",
}
_INK, _WARN, _PALE = "#0072B2", "#D55E00", "#C8C8C8"

#: A rate over fewer seconds than so many bins is noise.
_PER_RATE = 3

_STYLE = {
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    # Text stays text.
    "svg.fonttype": "none",
    "svg.hashsalt": "shadowwatch",
}


class _Panel(NamedTuple):
    label: str
    draw: Callable[[Any, Series], None]
    height: float


def _edges(series: Series, every: int = 1) -> list[float]:
    bins = len(series.low)
    return [series.width * min(bins, number) for number in range(0, bins + every, every)]


def _rates(series: Series, counts: Sequence[float]) -> list[float]:
    """Counts of bins as so many per second, over some bins each."""
    chunks = (counts[number : number + _PER_RATE] for number in range(0, len(counts), _PER_RATE))
    return [sum(chunk) / (len(chunk) * series.width) for chunk in chunks]


def _stack(axes: Any, edges: Sequence[float], layers: Mapping[str, tuple[Sequence[float], str]]) -> None:
    floor = [0.0] * (len(edges) - 1)
    for name, (values, colour) in layers.items():
        top = [below + value for below, value in zip(floor, values, strict=True)]
        axes.stairs(top, edges, baseline=floor, fill=True, color=colour, linewidth=0, label=name)
        floor = top
    if layers:
        _legend(axes)


def _legend(axes: Any) -> None:
    axes.legend(
        loc="lower right", bbox_to_anchor=(1.01, 0.97), ncol=5, handlelength=1, columnspacing=1.2, borderaxespad=0
    )


def _reached(axes: Any, series: Series) -> None:
    edges = _edges(series)
    axes.stairs(series.crests, edges, baseline=series.troughs, fill=True, color=_INK, linewidth=0)
    axes.stairs(series.crests, edges, baseline=None, color=_INK, linewidth=0.5)


def _mapped(axes: Any, series: Series) -> None:
    told = [number for number, low in enumerate(series.low) if low is not None]
    if not told:
        axes.text(0.5, 0.5, "this kernel does not count them", ha="center", va="center", transform=axes.transAxes)
        return
    # From the least to the most of each bin, and at least a line's breadth.
    edges = _edges(series)[told[0] :]
    low, high = ([value or 0 for value in values[told[0] :]] for values in (series.low, series.high))
    axes.stairs(high, edges, baseline=low, fill=True, color=_INK, linewidth=0)
    axes.stairs(high, edges, baseline=None, color=_INK, linewidth=0.5)


def _levels(axes: Any, series: Series) -> None:
    layers = {f"level {level}": (counts, _LEVELS[min(level, 5) - 1]) for level, counts in series.pages.items()}
    orphans = {"baseline": None, "color": _WARN, "linewidth": 0.8, "zorder": 3}
    axes.stairs(series.orphans, _edges(series), label="orphans", **orphans)
    _stack(axes, _edges(series), layers)


def _causes(axes: Any, series: Series) -> None:
    layers = {
        cause.name.lower().replace("_", " "): (_rates(series, series.zaps[cause]), colour)
        for cause, colour in _CAUSES.items()
        if cause in series.zaps
    }
    others = [counts for cause, counts in series.zaps.items() if cause not in _CAUSES]
    if others:
        layers["all else"] = (_rates(series, [sum(counts) for counts in zip(*others, strict=True)]), _PALE)
    _stack(axes, _edges(series, _PER_RATE), layers)


def _recent(axes: Any, series: Series) -> None:
    edges = _edges(series, _PER_RATE)
    axes.stairs(_rates(series, series.directories), edges, fill=True, color=_PALE, linewidth=0, label="all")
    recent = _rates(series, series.recent)
    axes.stairs(recent, edges, fill=True, color=_WARN, linewidth=0, label="recently parented")
    _legend(axes)


def _positions(axes: Any, series: Series) -> None:
    columns = [series.positions[number : number + _PER_RATE] for number in range(0, len(series.positions), _PER_RATE)]
    tenths = [[sum(row[tenth] for row in column) for column in columns] for tenth in range(10)]
    most = max(max(row) for row in tenths) or 1
    # Roots, so that a single zap is seen beside many.
    shades = [[(count / most) ** 0.5 for count in row] for row in tenths]
    extent = (0, series.seconds, 0, 1)
    axes.imshow(
        shades, extent=extent, origin="lower", aspect="auto", cmap="Greys", vmin=0, vmax=1, interpolation="none"
    )


def _limits(axes: Any, series: Series) -> None:
    edges = _edges(series, _PER_RATE)
    # Each limit before the next one, which leaves less.
    for (times, counts), colour in zip(series.limited.items(), _LEVELS, strict=False):
        label = f"{series.vm.limit * times:,.0f}"
        axes.stairs(_rates(series, counts), edges, fill=True, color=colour, linewidth=0, label=label)
    if series.limited:
        _legend(axes)


PANELS = (
    _Panel("page tables that\na root leads to", _reached, 1.3),
    _Panel("guest pages mapped\n(of 4 KiB)", _mapped, 0.8),
    _Panel("shadow pages,\nby level", _levels, 1.0),
    _Panel("zaps by cause\n(per second)", _causes, 1.0),
    _Panel("directories zapped\nby reclaim (per s)", _recent, 1.0),
    _Panel("refaults under such\nlimits (per second)", _limits, 1.0),
    _Panel("list position\nat zap by reclaim", _positions, 0.7),
)


def saw_tooth(series: Series) -> str:
    """One line: what goes up and down, and how far."""
    said = f"VM {series.vm.name}: a reclaim takes {series.fall:.1f} page tables out of a root's reach (mean)"
    if all(low is None for low in series.low):
        return f"{said}, this kernel does not count the guest pages that are mapped"
    return (
        f"{said}, saw-tooth of {series.amplitude:.1f} guest pages from crest to trough (mean),"
        f" {counted(series.turns, 'change')} of direction in {series.seconds:.2f} s"
    )


def _title(series: Series) -> str:
    policy = f"reclaim_policy={series.facts.policy}" if series.facts.policy else "stock KVM"
    return f"{policy}, Linux {series.facts.kernel}\nVM {series.vm.name}"


def _figure(columns: Sequence[Series]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 11), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.05, w_pad=0.05)
    heights = [panel.height for panel in PANELS]
    grid = figure.subplots(len(PANELS), len(columns), sharex=True, sharey="row", squeeze=False, height_ratios=heights)
    for row, panel in zip(grid, PANELS, strict=True):
        for axes, series in zip(row, columns, strict=True):
            panel.draw(axes, series)
            axes.margins(x=0)
        row[0].set_ylabel(panel.label)
        row[0].set_ylim(bottom=0)
        row[0].yaxis.set_major_formatter("{x:,g}")
    grid[0][0].set_xlim(0, max(series.seconds for series in columns))
    last = grid[-1][0]
    last.set_ylim(0, 1)
    last.set_yticks([0, 1], ["newest", "oldest"])
    for number, series in enumerate(columns):
        grid[0][number].set_title(_title(series), loc="left", fontsize=9, fontweight="bold")
        caption = saw_tooth(series).split(": ", 1)[1].replace(", ", ",\n")
        grid[-1][number].set_xlabel(f"seconds since the first event of the VM\n\n{caption}")
    figure.align_ylabels(grid[:, 0])
    return figure


def picture(columns: Sequence[Series], suffix: str) -> bytes:
    """Draw the series side by side, on the same axes, as .svg or .png.

    The same series make the same bytes. ShadowwatchError without matplotlib.
    """
    require_matplotlib()
    from matplotlib import rc_context

    drawn = BytesIO()
    with rc_context(_STYLE):
        metadata = {"Date": None} if suffix == ".svg" else None
        _figure(columns).savefig(drawn, format=suffix[1:], dpi=150, metadata=metadata)
    content = drawn.getvalue()
    if suffix == ".svg":
        # Hundredths of a point are fine enough, and make half the file.
        content = re.sub(rb"(?<=\d\.)(\d\d)\d+(?= )", rb"\1", content)
        # What names things within the file is made of places to the last bit, in which no two layouts are alike.
        names: dict[bytes, bytes] = {}
        content = re.sub(
            rb'(?<=["#])[mp][0-9a-f]{10}\b', lambda found: names.setdefault(found[0], b"n%d" % len(names)), content
        )
    return content


def suffix_of(path: str) -> str:
    """The suffix of a file that can be drawn; ShadowwatchError when it is another."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in FORMATS:
        raise ShadowwatchError(
            f"{path} is not a kind of picture that can be drawn; end its name in {' or '.join(FORMATS)}"
        )
    return suffix


def require_matplotlib() -> None:
    """ShadowwatchError with the cure when there is none; it is not imported yet, which takes its time."""
    if find_spec("matplotlib") is None:
        raise ShadowwatchError(
            "drawing needs matplotlib; `pip install 'shadowwatch[plot]'` or `apt install python3-matplotlib`"
        )
