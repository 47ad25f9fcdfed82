# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/experiment.md: a line for each case and limit, or for each policy there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from shadowwatch.simulate.policies import SENSIBLE
from tests.experiment.cases import CASES
from tests.experiment.claims import percent, share
from tests.experiment.figures import BEST, STOCK, Figures, Place
from tests.experiment.reference import REFERENCES

#: What KVM has for a shadow page that is not direct: sptes, and what each was made from (shadowed_translation).
PAGE_BYTES, MIB = 2 * 4096, 1 << 20


def spread(values: Sequence[float], show: Callable[[float], str]) -> str:
    """The median, and behind it the lowest and the highest."""
    low, high = show(min(values)), show(max(values))
    return show(median(values)) + (f" ({low} to {high})" if low != high else "")


def _tenth(ratio: float) -> str:
    return percent(ratio, 1)


def count(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}"


def _table(head: Sequence[str], lines: Iterable[Sequence[str]], texts: int = 2) -> str:
    rule = [*["---"] * texts, *["--:" for _ in head[texts:]]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def at(place: Place) -> str:
    """How a case at a limit is named."""
    case, limit = place
    return case if case.endswith(f"-{limit}") else f"{case}, {limit}"


def possible(figures: Figures) -> str:
    """What was possible, and what of that each policy and each reference spared."""
    policies = [policy for policy in (*figures.policies(), *REFERENCES) if policy not in (STOCK, BEST)]
    lines = []
    for place in figures.places():
        best = figures.effect(place, BEST, "page_faults")
        if best:
            cells = [count(median(figures.values(place, STOCK, "page_faults"))), spread(best.changes, _tenth)]
            for policy in policies:
                shares = figures.possible(place, policy)
                cells.append(spread(shares, share) if shares else "")
            lines.append((at(place), *cells))
    return _table(("guest, limit", "stock", BEST, *policies), lines, 1)


def ran(figures: Figures) -> str:
    """What ran, how often."""
    lines = []
    for place in figures.places():
        case = CASES[place[0]]
        bare, recorded = (figures.seeds(place, name) for name in ("page_faults", "watched_page_faults"))
        cells = [f"{len(bare)} of {len(case.seeds)}", f"{len(recorded)} of {len(case.recorded)}"]
        cells += ["yes" if figures.seeds(place, name) else "no" for name in ("lock_ns", "timed_links")]
        lines.append((at(place), case.says, *cells))
    head = ("guest, limit", "", "seeds", "recorded", "mmu_lock timed", "walk timed")
    return _table(head, lines)


def effects(figures: Figures) -> str:
    """Page faults, and what else a policy changes."""
    lines = []
    for place in figures.places():
        for policy in figures.policies(place):
            faults = figures.effect(place, policy, "page_faults")
            if not faults:
                continue
            cells = [spread(figures.values(place, policy, "page_faults"), count)]
            cells.append("" if policy == STOCK else spread(faults.changes, _tenth) + _none(faults.sign))
            for name in ("zaps", "recently_parented", "refaults", "links"):
                values = figures.values(place, policy, name)
                cells.append(count(median(values)) if values else "")
            lines.append((at(place), policy, *cells))
    head = ("guest, limit", "policy", "page faults", "change", "zaps", "recently parented", "refaults", "links")
    return _table(head, lines)


def _none(sign: int) -> str:
    return "" if sign else ", no effect seen"


def ended(figures: Figures) -> str:
    """What is held for nested guests that have ended."""
    lines = []
    for place in figures.places():
        for policy in figures.policies(place):
            names = ("held_first", "held", "stale", "stale_directories")
            found = [figures.values(place, policy, name) for name in names]
            faults = figures.effect(place, policy, "page_faults")
            if all(found) and faults:
                first, held, stale, directories = (median(values) for values in found)
                cells = [count(first), count(held), count(stale), f"{stale * PAGE_BYTES / MIB:.2f}"]
                cells.append(count(directories))
                cells.append("" if policy == STOCK else spread(faults.changes, _tenth) + _none(faults.sign))
                lines.append((at(place), policy, *cells))
    head = (
        *("guest, limit", "policy", "pages after the first", "after the eighth", "of guests before that", "MiB"),
        *("directories among them", "page faults"),
    )
    return _table(head, lines)


def teeth(figures: Figures) -> str:
    """The saw-tooth."""
    lines = []
    for place in figures.places():
        for policy in figures.policies(place):
            names = ("in_reach_amplitude", "in_reach_turns", "mapped_amplitude", "mapped_turns")
            found = [figures.values(place, policy, name) for name in names]
            if all(found):
                shown = ("{:,.1f}", "{:,.0f}", "{:,.1f}", "{:,.0f}")
                cells = [form.format(median(values)) for form, values in zip(shown, found, strict=True)]
                lines.append((at(place), policy, *cells))
    head = ("guest, limit", "policy", "tables in reach, crest to trough", "changes", "mapped pages", "changes")
    return _table(head, lines)


def costs(figures: Figures) -> str:
    """What each policy costs."""
    lines = []
    for place in figures.places():
        for policy in figures.policies(place):
            instructions = figures.effect(place, policy, "instructions")
            if not instructions:
                continue
            used, faults = (median(figures.values(place, policy, name)) for name in ("instructions", "page_faults"))
            cells = ["" if policy == STOCK else spread(instructions.changes, _tenth) + _none(instructions.sign)]
            cells.append(count(used / faults))
            held = figures.effect(place, policy, "lock_ns")
            cells.append("" if policy == STOCK or not held else _tenth(held.median))
            longest = figures.values(place, policy, "lock_longest_ns")
            cells.append(count(median(longest) / 1000) if longest else "")
            moves, links = (figures.values(place, policy, name) for name in ("moves", "links"))
            cells.append(f"{median(moves) / median(links):.2f}" if links else "")
            lines.append((at(place), policy, *cells))
    head = (
        *("guest, limit", "policy", "instructions", "for each page fault", "time under mmu_lock"),
        *("longest, thousands of instructions", "moves for each link"),
    )
    return _table(head, lines)


def walks(figures: Figures) -> str:
    """What the walks of `parents` cost."""
    lines = []
    for place in figures.places():
        each, walks, unthrottled = figures.walk(place), figures.walks(place), figures.unthrottled(place)
        if each is not None and walks and unthrottled:
            counts = [count(median(figures.values(place, "parents", name))) for name in ("timed_links", "mappings")]
            lines.append((at(place), count(each), *counts, share(walks.median), share(unthrottled.median)))
    head = (
        *("guest, limit", "instructions of a walk", "links", "mappings"),
        *("all walks, of all instructions", "if every mapping walked"),
    )
    return _table(head, lines, 1)


def predicted(figures: Figures) -> str:
    """What was predicted, and what came."""
    lines = []
    for place in figures.places():
        for policy in figures.policies(place):
            error, faults = figures.error(place, policy), figures.effect(place, policy, "watched_page_faults")
            tables = figures.effect(place, policy, "table_faults")
            if policy not in SENSIBLE or policy == STOCK or error is None or not faults or not tables:
                continue
            cells = [_tenth(faults.median), _tenth(median(figures.predicted(place, policy, "faults")))]
            cells += [f"{error:.1f}", _tenth(tables.median)]
            cells.append(_tenth(median(figures.building(place, policy, "faults"))))
            bounds = [_tenth(median(figures.building(place, policy, bound))) for bound in ("least", "most")]
            cells.append(" to ".join(bounds) + ("" if figures.within(place, policy) else ", **not so**"))
            lines.append((at(place), policy, *cells))
    head = (
        *("guest, limit", "policy", "page faults", "predicted", "error, points"),
        *("of them those that build page tables", "predicted", "between"),
    )
    return _table(head, lines)
