# SPDX-License-Identifier: Apache-2.0
"""From rows to docs/experiment.csv, docs/experiment.md and its plots, and to what other documents say of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

from tests.experiment import tables
from tests.experiment.cases import CASES, SEEDS
from tests.experiment.claims import CLAIMS, Effects, named, over, share
from tests.experiment.figures import SAME, STOCK, Figures
from tests.experiment.plots import draw
from tests.experiment.reference import REFERENCES

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ROWS = DOCS / "experiment.csv"
PAGE = DOCS / "experiment.md"

WIDTH = 120

#: Estimates are right when the median of their errors is no more than this, in percentage points.
POINTS = 5.0

#: What the lab cannot tell, whatever runs in it.
UNTESTED = """\
- **Time on real hardware.** The machine is emulated: it counts instructions, and has no caches to miss. A walk to many
  parents costs more than its instructions say.
- **Several vCPUs that fault at once**, and so how long others wait for mmu_lock. All guests here have one.
- **Guests that run for hours**, and programs that people use: databases, desktops, Windows.
- **Intel's EPT**, 32-bit guests, and other kernels than this one.
- **Other hypervisors that are guests** than Linux's KVM, with its own TDP MMU, and one of a few instructions. What
  Hyper-V or Xen does with the page tables of a guest that has ended is not known.
- **Accesses that change over time**: the small guest's come from distributions that stay as they are, but for `hotset`.
  So whatever came first is likely to be wanted for ever, and `newest`, which keeps that, does well with them. It is the
  mistake of Linux 5.9, under which an OpenBSD guest took minutes for what had taken seconds (“Bad performance since
  5.9-rc1”, KVM's list, November 2020).
"""


def _filled(text: str, indent: str = "") -> str:
    """A paragraph in lines as long as this project's."""
    return fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


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


def write(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all of it; without any row leave all as it was."""
    if not rows:
        return
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "over_time"))
    with ROWS.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    figures = Figures(rows)
    PAGE.write_text(page(figures))
    for name, text in quoted(figures).items():
        path = ROOT / name
        path.write_text(between(path.read_text(), text))
    draw(figures, DOCS)


#: Between these stands what `make experiment` writes into a document that says more than that.
MARKS = ("<!-- written by make experiment -->", "<!-- up to here -->")


def between(document: str, text: str) -> str:
    """The document with this text between its marks."""
    begin, end = MARKS
    return re.sub(f"{begin}\n.*?{end}", lambda _: f"{begin}\n{text}\n{end}", document, flags=re.DOTALL)


def page(figures: Figures) -> str:
    """The report."""
    claims = "\n".join(f"| {claim.says} | **{claim.verdict(figures)}** | {claim.shows(figures)} |" for claim in CLAIMS)
    return f"""\
# The RFC's three ideas, measured

{_in_short(figures)}

| the mail of 2010 | here | |
| --- | --- | --- |
{claims}

*Confirmed* is what is so in every guest and at every limit, *refuted* what is so in none, *conditional* what lies
between. An effect counts only if all pairs of runs go the same way, and by {100 * SAME:.0f} % or more in the median;
else no effect is seen. Pairs have the same seed; of a real Linux each run is compared with each.

## How much of what was possible

Beside each policy's page faults stand those of orders that no kernel can have, by a simulator of the same guest that
shares no code with shadowwatch: zap what is **farthest from its next use** (the accesses are known), what was **least
recently used**, or a **random leaf**. Percentages are the share of what farthest next use spares against stock order;
it is close to the best, not proven to be. The simulator has the kernel's orders as well.
{_exact(figures)}

{tables.possible(figures)}

## What was not tested

{UNTESTED}{_left_out(figures)}
## What ran

{tables.ran(figures)}

## What each policy does

![Page faults under each policy, as a change from stock order](experiment-faults.svg)

{tables.effects(figures)}

## Nested guests that have ended

{_filled(_left(figures))}

{tables.ended(figures)}

## The saw-tooth

![Tables of level 1 that a root leads to, over time, under each policy](experiment-saw-tooth.svg)

From crest to trough and number of changes of direction, of two figures: the tables of level 1 that a root leads to,
by which the guest reaches its memory, and KVM's own count of mapped guest pages (`pages_4k` and the like), which has
what orphans map in it, too.

{tables.teeth(figures)}

## What it costs

Instructions of the VMM's process, or of a Linux those of its vCPU's thread, with the guest's own and KVM's work for it
(1 ns of the machine's clock is one instruction). Time under mmu_lock is that from taking it for writing to giving it
back, with the instructions of the probe that looks at it.

{tables.costs(figures)}

What the walk itself takes is measured apart: `__link_shadow_page()` is timed under `parents` and in stock order, by the
same probes, and the difference of the two means is one walk. The last column is computed: as many walks from a table on
as KVM mapped pages, if each mapping led to one.

{tables.walks(figures)}

## What was predicted

{_predictions(figures)}

What is simulated are faults that build page tables; the others are taken to stay as they were. What mapping a page of
the guest's leads to under `mapped` shows in no event of another policy, so it is predicted as `parents`.

{tables.predicted(figures)}
"""


def quoted(figures: Figures) -> dict[str, str]:
    """What other documents say of it."""
    faults, instructions = (figures.effects("parents", name) for name in ("page_faults", "instructions"))
    readme = f"Moving parents up changes page faults by {over(faults)} of {len(faults)} guests and limits"
    readme += f", and all instructions by {over(instructions)}." if instructions else "."
    return {"README.md": _filled(readme), "docs/policies.md": f"{_policies(figures)}\n\n{_predictions(figures)}"}


def _in_short(figures: Figures) -> str:
    cases = {case for case, _ in figures.places()}
    limits = [limit for _, limit in figures.places()]
    runs = sum(row["policy"] not in REFERENCES for row in figures.rows)
    policies = ", ".join(f"`{policy}`" for policy in figures.policies())
    but = ", but for those named below" if _earlier(figures) else ""
    text = (
        "Made by `make experiment` in the lab: Debian's Linux 6.1 with the KVM of `patches/linux-6.1`, on an emulated"
        f" AMD processor. {runs} runs, of {len(cases)} kinds of guest at limits from {min(limits)} to {max(limits):,}"
        f" shadow pages, under the policies {policies}. Runs are in a shuffled order within each seed, and the first"
        f" one of each lab is thrown away{but}. Figures are medians, with the lowest and the highest. All rows are in"
        " [experiment.csv](experiment.csv); [what ran](#what-ran) says how many seeds each guest has."
    )
    return f"{_filled(text)}\n\n{_policies(figures)}"


def _policies(figures: Figures) -> str:
    """One sentence for each policy."""
    lines = []
    for policy in figures.policies():
        faults = figures.effects(policy, "page_faults")
        if policy == STOCK or not faults:
            continue
        shares = [median(found) for place in faults if (found := figures.possible(place, policy))]
        line = f"- **{policy}**: page faults {over(faults)}"
        line += f", which is {_range(shares)} of what farthest next use spares" if shares else ""
        line += _where(faults)
        instructions = figures.effects(policy, "instructions")
        line += f". All instructions: {over(instructions)}." if instructions else "."
        lines.append(_filled(line, "  "))
    return "\n".join(lines)


def _range(values: Sequence[float]) -> str:
    return f"{share(median(values))} ({share(min(values))} to {share(max(values))})"


def _where(effects: Effects) -> str:
    """Where a policy has no effect, or a bad one."""
    none, more = ([place for place, effect in effects.items() if effect.sign == sign] for sign in (0, 1))
    said = f"; no effect seen: {named(none)}" if none else ""
    return said + (f"; **more faults**: {named(more)}" if more else "")


def _left(figures: Figures) -> str:
    """What there is of nested guests that have ended."""
    rows = [row for row in figures.rows if (linux := CASES[row["case"]].linux) and linux.nested]
    said = "What is shadowed of a nested guest are page tables of its hypervisor's; nobody tells KVM when it has ended."
    if rows:
        left = [row["allocations"] - row["zaps"] for row in rows]
        said += (
            " Linux's KVM as that hypervisor clears what led to them (`tdp_mmu_zap_root()`). The host's KVM sees it"
            " write, and zaps all below:"
            f" when the real Linux of nested-linux had ended, {tables.spread(left, tables.count)} pages were left of"
            f" {tables.spread([row['allocations'] for row in rows], tables.count)} that had been allocated."
        )
    return said + (
        " A hypervisor that clears nothing, as that of nested-ended, leaves all on active_mmu_pages, until reclaim"
        " takes them or its VM ends. Below is how many there are when its first guest is over, and when its eighth is;"
        " how many of the latter the root of the eighth does not lead to, so that they are of the seven before; what"
        " memory these hold, 8 KiB each; and how many of them are directories, which tells whether a policy that spares"
        " these keeps dead ones longer. At least three of them are roots, under every policy: a vCPU keeps its last"
        " three (`prev_roots`), and reclaim passes over those."
    )


def _exact(figures: Figures) -> str:
    exact, both = figures.exact()
    if not both:
        return "No run was compared with it."
    return (
        f"Of the orders that a kernel has, it came to the kernel's own count of page faults in {exact} of {both} runs."
    )


def _left_out(figures: Figures) -> str:
    """What this experiment has fewer of than it should."""
    ran = {case for case, _ in figures.places()}
    left = [name for name in CASES if name not in ran]
    said = [f"- **In this run of it**: {', '.join(left)} did not run."] if left else []
    seeds = {place: len(figures.seeds(place, "page_faults")) for place in figures.places()}
    if old := _earlier(figures):
        said.append(
            f"- **A shuffled order everywhere**: {', '.join(old)} are of an earlier experiment, in which stock order"
            " always came first and no run was thrown away. Of the real Linux the first run of the lab is left out, and"
            " so are instructions, which were counted in another thread than the guest's."
        )
    few = [f"{tables.at(place)}: {number}" for place, number in seeds.items() if number < len(SEEDS)]
    if few:
        said.append(f"- **More seeds** than these of {len(SEEDS)}, by which to know the spread: {'; '.join(few)}.")
    return "".join(f"{_filled(line, '  ')}\n" for line in said)


def _earlier(figures: Figures) -> list[str]:
    """Cases whose rows are older than the shuffled order."""
    return list(dict.fromkeys(row["case"] for row in figures.rows if row.get("earlier")))


def _predictions(figures: Figures) -> str:
    """How far off it was."""
    recorded = [row for row in figures.rows if row.get("reproduced") is not None]
    found = {place: figures.error(place, "parents") for place in figures.places()}
    errors = {place: error for place, error in found.items() if error is not None}
    if not errors:
        return "No run was recorded."
    exact = sum(bool(row["reproduced"]) for row in recorded)
    others = dict.fromkeys(f"{row['case']} under `{row['policy']}`" for row in recorded if not row["reproduced"])
    but = f" (not in all of {', '.join(others)})" if others else ""
    text = (
        f"`shadowwatch simulate` made the zaps of the policy that was in force again, each in its place, in {exact} of"
        f" {len(recorded)} recorded runs{but}. What it predicts of page faults under `parents` from stock order is"
        f" {median(errors.values()):.1f} percentage points off in the median ({min(errors.values()):.1f} to"
        f" {max(errors.values()):.1f})."
    )
    worse = dict.fromkeys(case for (case, _), error in errors.items() if error > POINTS)
    if worse:
        reasons = (f"{case}: {CASES[case].unlike or 'why is not known'}" for case in worse)
        text += f" It is more than {POINTS:.0f} off for " + "; ".join(reasons) + "."
    return _filled(text)
