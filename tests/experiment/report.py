# SPDX-License-Identifier: Apache-2.0
"""From rows to docs/experiment.csv, docs/experiment.md and its plots."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.experiment.cases import CASES
from tests.experiment.claims import CLAIMS, Figures
from tests.experiment.plots import draw

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROWS = DOCS / "experiment.csv"
PAGE = DOCS / "experiment.md"

#: Estimates are right when the median of their errors is no more than this, in percentage points.
POINTS = 5.0


def percent(ratio: float) -> str:
    """A change, as people read it."""
    return f"{100 * ratio:+.1f} %".replace("-", "−").replace("+0.0 %", "0 %").replace("−0.0 %", "0 %")


def _spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The median, and behind it the lowest and the highest."""
    low, high = show(min(values)), show(max(values))
    return show(median(values)) + (f" ({low} to {high})" if low != high else "")


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = ["---", "---", *["--:" for _ in head[2:]]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def read() -> list[dict[str, Any]]:
    """The rows of the last experiments; none when there was none."""
    if not ROWS.exists():
        return []
    with ROWS.open() as file:
        return [{key: _number(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _number(text: str) -> Any:
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text or None


def write(rows: Sequence[Mapping[str, Any]], recordings: Path | None) -> None:
    """Write all of it; the plot over time only when there is a folder with the recordings that it shows."""
    order = {name: number for number, name in enumerate(CASES)}
    rows = sorted(rows, key=lambda row: (order[row["case"]], row["limit"], row["seed"]))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with ROWS.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    figures = Figures(rows)
    PAGE.write_text(_page(figures))
    draw(figures, recordings, DOCS)


def _page(figures: Figures) -> str:
    cases = "\n".join(f"- **{case.name}**: {case.says}." for case in CASES.values() if figures.has(case.name))
    claims = "\n".join(f"| {claim.says} | **{claim.verdict(figures)}** | {claim.shows(figures)} |" for claim in CLAIMS)
    exact = sum(bool(row["reproduced"]) for row in figures.rows)
    return f"""\
# The RFC's three ideas, measured

Made by `make experiment` in the lab: Debian's Linux 6.1 with the KVM of `patches/linux-6.1`, on an emulated AMD
processor. Each workload runs under each policy, at each limit of shadow pages, with several seeds; figures are medians
over the seeds, with the lowest and the highest, and changes are those from the `stock` run with the same seed. All rows
are in [experiment.csv](experiment.csv). Each run is made three times: with nobody watching, in a machine that counts
instructions; again for the time under mmu_lock; and recorded by shadowwatch. The seeded ones came to the same counts
each time.

{cases}

## The mail's claims

| the mail of 2010 | here | |
| --- | --- | --- |
{claims}

## What each policy does

![Page faults under each policy, as a change from stock order](experiment-faults.svg)

{_effects(figures)}

## The saw-tooth

![Tables of level 1 that a root leads to, over time, under each policy](experiment-saw-tooth.svg)

From crest to trough and number of changes of direction, of two figures: the tables of level 1 that a root leads to,
by which the guest reaches its memory, and KVM's own count of mapped guest pages (`pages_4k` and the like), which has
what orphans map in it, too.

{_teeth(figures)}

## What it costs

Instructions of the VMM's process, its guest's and KVM's work for it among them (1 ns of the machine's clock is one
instruction). Time under mmu_lock is that from taking it for writing to giving it back, with the instructions of the
probe that looks at it.

{_costs(figures)}

## What was predicted

`shadowwatch simulate` on the recording in stock order, against what the patched kernel then did with the same
seed. What is simulated are faults that build page tables; the others are taken to stay as they were. The policy that
was in force made the recorded zaps again, each in its place, in {exact} of {len(figures.rows)} runs.

{_predicted(figures)}

{_error(figures)}
"""


def _effects(figures: Figures) -> str:
    lines = []
    for case, limit, policy in figures.cells():
        cells = [_spread(figures.values(case, limit, policy, "page_faults"), lambda value: f"{value:,.0f}")]
        cells.append(_spread(figures.changes(case, limit, policy, "page_faults"), percent))
        for name in ("zaps", "recently_parented", "refaults", "links"):
            cells.append(f"{median(figures.values(case, limit, policy, name)):,.0f}")
        lines.append((f"{case}, {limit}", policy, *cells))
    head = ("workload, limit", "policy", "page faults", "change", "zaps", "recently parented", "refaults", "links")
    return _table(head, lines)


def _teeth(figures: Figures) -> str:
    lines = []
    for case, limit, policy in figures.cells():
        cells = []
        for name in ("in_reach", "mapped"):
            cells.append(f"{median(figures.values(case, limit, policy, f'{name}_amplitude')):,.1f}")
            cells.append(f"{median(figures.values(case, limit, policy, f'{name}_turns')):,.0f}")
        lines.append((f"{case}, {limit}", policy, *cells))
    head = ("workload, limit", "policy", "tables in reach, crest to trough", "changes", "mapped pages", "changes")
    return _table(head, lines)


def _costs(figures: Figures) -> str:
    lines = []
    for case, limit, policy in figures.cells():
        faults = figures.values(case, limit, policy, "page_faults")
        instructions = figures.values(case, limit, policy, "instructions")
        each = [used / taken for used, taken in zip(instructions, faults, strict=True)]
        cells = [_spread(figures.changes(case, limit, policy, "instructions"), percent), f"{median(each):,.0f}"]
        held = figures.changes(case, limit, policy, "lock_ns")
        cells.append(percent(median(held)) if held else "")
        longest = figures.values(case, limit, policy, "lock_longest_ns")
        cells.append(f"{median(longest) / 1000:,.0f}" if longest else "")
        moves = figures.values(case, limit, policy, "moves")
        allocations = figures.values(case, limit, policy, "allocations")
        cells.append(f"{median(moves) / median(allocations):,.2f}")
        lines.append((f"{case}, {limit}", policy, *cells))
    head = (
        *("workload, limit", "policy", "instructions", "for each page fault", "time under mmu_lock"),
        *("longest, thousands of instructions", "moves for each allocation"),
    )
    return _table(head, lines)


def _predicted(figures: Figures) -> str:
    lines = []
    for case, limit, policy in figures.cells():
        if policy == "stock":
            continue
        cells = [percent(median(figures.watched_changes(case, limit, policy)))]
        cells.append(percent(median(figures.predicted(case, limit, policy, "faults"))))
        cells.append(f"{figures.error(case, limit, policy):.1f}")
        cells.append(percent(figures.change(case, limit, policy, "table_faults")))
        cells.append(percent(median(figures.building(case, limit, policy, "faults"))))
        bounds = [percent(median(figures.building(case, limit, policy, bound))) for bound in ("least", "most")]
        cells.append(" to ".join(bounds) + ("" if figures.within(case, limit, policy) else ", **not so**"))
        lines.append((f"{case}, {limit}", policy, *cells))
    head = (
        *("workload, limit", "policy", "page faults", "predicted", "error, points"),
        *("of them those that build page tables", "predicted", "between"),
    )
    return _table(head, lines)


def _error(figures: Figures) -> str:
    errors = figures.errors("parents")
    text = (
        f"For `parents` the median error is {median(errors.values()):.1f} percentage points"
        f" ({min(errors.values()):.1f} to {max(errors.values()):.1f})."
    )
    worse = dict.fromkeys(case for (case, _), error in errors.items() if error > POINTS)
    if worse:
        text += f" It is above {POINTS:.0f} for " + "; ".join(f"{case}: {CASES[case].unlike}" for case in worse) + "."
    return text + (
        " What mapping a page of the guest's leads to under `mapped` shows in no event of another policy, so it is"
        " predicted as `parents`."
    )
