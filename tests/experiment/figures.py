# SPDX-License-Identifier: Apache-2.0
"""The rows of the experiment as figures: what changed against stock order, and whether that is anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.experiment.cases import CASES
from tests.experiment.reference import REFERENCES

Row = Mapping[str, Any]
#: A case and a limit.
Place = tuple[str, int]

STOCK, BEST = "stock", "farthest next use"

#: A change of less than this part is none.
SAME = 0.01

#: A page that is mapped has one page more to move than a table that is linked has: the table itself.
PAGES_ABOVE = 3


@dataclass(frozen=True)
class Effect:
    """Changes between pairs of runs, as parts; `sign` is 0 where they are within the spread."""

    changes: tuple[float, ...]

    @property
    def median(self) -> float:
        """The one in the middle."""
        return median(self.changes)

    @property
    def sign(self) -> int:
        """Which way it went in all pairs, if in all of them the same way and in the median by more than SAME."""
        if abs(self.median) < SAME:
            return 0
        return 1 if min(self.changes) > 0 else -1 if max(self.changes) < 0 else 0


class Figures:
    """The rows of the experiment, by case, limit and policy."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.by_seed: dict[tuple[Place, str], dict[int, Row]] = {}
        for row in rows:
            self.by_seed.setdefault(((row["case"], row["limit"]), row["policy"]), {})[row["seed"]] = row

    def places(self) -> list[Place]:
        """Each case and limit that ran."""
        return list(dict.fromkeys(place for place, policy in self.by_seed if policy == STOCK))

    def policies(self, place: Place | None = None) -> list[str]:
        """What the kernel ran there, or anywhere, stock order first."""
        found = [policy for at, policy in self.by_seed if place in (None, at) and policy not in REFERENCES]
        return list(dict.fromkeys(found))

    def seeds(self, place: Place, name: str) -> list[int]:
        """The seeds with a value in this column in stock order."""
        return [seed for seed, row in self.by_seed.get((place, STOCK), {}).items() if row.get(name) is not None]

    def values(self, place: Place, policy: str, name: str) -> list[float]:
        """A column, one value for each seed that has one."""
        rows = self.by_seed.get((place, policy), {}).values()
        return [row[name] for row in rows if row.get(name) is not None]

    def effect(self, place: Place, policy: str, name: str, base: str = STOCK) -> Effect | None:
        """A column against another policy's, by seed; of a real Linux, each run against each. None without any."""
        before, after = self.by_seed.get((place, base), {}), self.by_seed.get((place, policy), {})
        alike = not CASES[place[0]].linux
        changes = [
            new[name] / old[name] - 1
            for seed, new in after.items()
            for other, old in before.items()
            if (seed == other or not alike) and old.get(name) and new.get(name) is not None
        ]
        return Effect(tuple(changes)) if changes else None

    def effects(self, policy: str, name: str, base: str = STOCK) -> dict[Place, Effect]:
        """That for all places that have it."""
        found = {place: self.effect(place, policy, name, base) for place in self.places()}
        return {place: effect for place, effect in found.items() if effect}

    def possible(self, place: Place, policy: str) -> list[float]:
        """What a policy spares of the page faults that are spared if the next use is known, by seed."""
        found = []
        for seed, best in self.by_seed.get((place, BEST), {}).items():
            stock, row = (self.by_seed.get((place, name), {}).get(seed) for name in (STOCK, policy))
            if stock and row and stock["page_faults"] > best["page_faults"]:
                spared = stock["page_faults"] - row["page_faults"]
                found.append(spared / (stock["page_faults"] - best["page_faults"]))
        return found

    def recent_share(self, place: Place) -> Effect | None:
        """Of the directories that reclaim zapped in stock order, the part that had just been given a child."""
        rows = self.by_seed.get((place, STOCK), {}).values()
        shares = [row["recently_parented"] / row["directories"] for row in rows if row.get("directories")]
        return Effect(tuple(shares)) if shares else None

    def walk(self, place: Place) -> float | None:
        """Instructions of one walk to the parents: what a link takes longer under `parents` than in stock order."""
        each = []
        for policy in ("parents", STOCK):
            links, ns = (sum(self.values(place, policy, name)) for name in ("timed_links", "link_ns"))
            if not links:
                return None
            each.append(ns / links)
        return each[0] - each[1]

    def walks(self, place: Place) -> Effect | None:
        """All walks of `parents`, as a part of all instructions."""
        return self._of_all(place, lambda row: row["timed_links"])

    def unthrottled(self, place: Place) -> Effect | None:
        """What it would add to walk whenever a page is mapped: counted mappings × a walk from the table on."""
        return self._of_all(place, lambda row: row["mappings"] * (PAGES_ABOVE + 1) / PAGES_ABOVE)

    def _of_all(self, place: Place, walks: Callable[[Row], float]) -> Effect | None:
        each = self.walk(place)
        instructions = self.values(place, "parents", "instructions")
        rows = self.by_seed.get((place, "parents"), {}).values()
        counts = [walks(row) for row in rows if row.get("timed_links")]
        if each is None or not instructions or not counts:
            return None
        return Effect(tuple(each * count / median(instructions) for count in counts))

    def exact(self) -> tuple[int, int]:
        """In how many runs the kernel counted the faults that the reference came to, and of how many."""
        both = [row for row in self.rows if row.get("reference_faults") and row["policy"] not in REFERENCES]
        return sum(row["page_faults"] == row["reference_faults"] for row in both), len(both)

    # What shadowwatch predicted.

    def predicted(self, place: Place, policy: str, bound: str) -> list[float]:
        """The change in page faults that was predicted; those that build no page table are taken to stay."""
        return self._predicted(
            place,
            policy,
            lambda row, stock: (row[f"predicted_{bound}"] - stock["table_faults"]) / stock["watched_page_faults"],
        )

    def building(self, place: Place, policy: str, bound: str) -> list[float]:
        """The change that was predicted in faults that build page tables."""
        return self._predicted(place, policy, lambda row, stock: row[f"predicted_{bound}"] / stock["table_faults"] - 1)

    def _predicted(self, place: Place, policy: str, change: Callable[[Row, Row], float]) -> list[float]:
        stock = self.by_seed.get((place, STOCK), {})
        rows = self.by_seed.get((place, policy), {})
        both = [(row, stock[seed]) for seed, row in rows.items() if seed in stock]
        return [change(row, old) for row, old in both if row.get("predicted_faults") is not None]

    def within(self, place: Place, policy: str) -> bool:
        """Whether the faults that built page tables came to no less and no more than what was predicted."""
        rows = [row for row in self.by_seed[place, policy].values() if row.get("predicted_faults") is not None]
        return all(row["predicted_least"] <= row["table_faults"] <= row["predicted_most"] for row in rows)

    def error(self, place: Place, policy: str) -> float | None:
        """Points between what was predicted and what came, both as medians: of Linux no two runs are alike."""
        measured, predicted = self.effect(place, policy, "watched_page_faults"), self.predicted(place, policy, "faults")
        return 100 * abs(median(predicted) - measured.median) if measured and predicted else None
