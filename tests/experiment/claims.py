# SPDX-License-Identifier: Apache-2.0
"""What the mail claims, each one declaration: the claim, how the figures decide it, and which figures show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

Row = Mapping[str, Any]

#: A change of less than this part is none.
SAME = 0.01


class Figures:
    """The rows of the experiment, by case, limit and policy."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._by_run = {(row["case"], row["limit"], row["policy"], row["seed"]): row for row in rows}

    def has(self, case: str) -> bool:
        """Whether there are rows of this case."""
        return any(row["case"] == case for row in self.rows)

    def cells(self) -> Iterator[tuple[str, int, str]]:
        """Each case, limit and policy."""
        return iter(dict.fromkeys((row["case"], row["limit"], row["policy"]) for row in self.rows))

    def places(self) -> list[tuple[str, int]]:
        """Each case and limit."""
        return list(dict.fromkeys((case, limit) for case, limit, _ in self.cells()))

    def _rows(self, case: str, limit: int, policy: str) -> list[Row]:
        return [row for row in self.rows if (row["case"], row["limit"], row["policy"]) == (case, limit, policy)]

    def values(self, case: str, limit: int, policy: str, name: str) -> list[float]:
        """A column, one value for each seed that has one."""
        return [row[name] for row in self._rows(case, limit, policy) if row.get(name) is not None]

    def changes(self, case: str, limit: int, policy: str, name: str) -> list[float]:
        """A column as a change from the stock run with the same seed."""
        found = []
        for row in self._rows(case, limit, policy):
            stock = self._by_run[case, limit, "stock", row["seed"]]
            if row.get(name) is not None and stock.get(name):
                found.append(row[name] / stock[name] - 1)
        return found

    def change(self, case: str, limit: int, policy: str, name: str) -> float:
        """The median of these."""
        return median(self.changes(case, limit, policy, name))

    def watched_changes(self, case: str, limit: int, policy: str) -> list[float]:
        """The change in page faults between the recorded runs."""
        return self.changes(case, limit, policy, "watched_page_faults")

    def predicted(self, case: str, limit: int, policy: str, bound: str) -> list[float]:
        """The change in page faults that was predicted; those that build no page table are taken to stay."""
        found = []
        for row in self._rows(case, limit, policy):
            stock = self._by_run[case, limit, "stock", row["seed"]]
            found.append((row[f"predicted_{bound}"] - stock["table_faults"]) / stock["watched_page_faults"])
        return found

    def building(self, case: str, limit: int, policy: str, bound: str) -> list[float]:
        """The change that was predicted in faults that build page tables."""
        found = []
        for row in self._rows(case, limit, policy):
            stock = self._by_run[case, limit, "stock", row["seed"]]
            found.append(row[f"predicted_{bound}"] / stock["table_faults"] - 1)
        return found

    def within(self, case: str, limit: int, policy: str) -> bool:
        """Whether the faults that built page tables came to no less and no more than what was predicted."""
        rows = self._rows(case, limit, policy)
        return all(row["predicted_least"] <= row["table_faults"] <= row["predicted_most"] for row in rows)

    def error(self, case: str, limit: int, policy: str) -> float:
        """Points between what was predicted and what came, both as medians: of Linux no two runs are alike."""
        measured = median(self.watched_changes(case, limit, policy))
        return 100 * abs(median(self.predicted(case, limit, policy, "faults")) - measured)

    def errors(self, policy: str) -> dict[tuple[str, int], float]:
        """These for all cases and limits."""
        return {place: self.error(*place, policy) for place in self.places()}

    def of_all(self, policy: str, name: str) -> list[float]:
        """The median change of each seeded case and limit."""
        return [self.change(*place, policy, name) for place in self.places() if place[0] != "linux"]


@dataclass(frozen=True)
class Claim:
    """One claim: how it reads, what decides it, and the figures."""

    says: str
    verdict: Callable[[Figures], str]
    shows: Callable[[Figures], str]


def _percent(ratio: float) -> str:
    return f"{100 * ratio:+.0f} %".replace("-", "−").replace("+0 %", "0 %")


def _range(changes: Sequence[float]) -> str:
    return f"{_percent(min(changes))} to {_percent(max(changes))}, median {_percent(median(changes))}"


def _of(changes: Sequence[float], good: Callable[[float], bool]) -> str:
    """Confirmed when it is so everywhere, refuted when nowhere, else conditional."""
    found = [good(change) for change in changes]
    return "confirmed" if all(found) else "conditional" if any(found) else "refuted"


def _falls(change: float) -> bool:
    return change < -SAME


def _recent_share(figures: Figures) -> list[float]:
    rows = [row for row in figures.rows if row["policy"] == "stock" and row["reclaimed"]]
    return [row["recently_parented"] / max(1, row["directories"]) for row in rows if row["directories"]]


CLAIMS = (
    Claim(
        "The oldest page “can well be a directory level page holding a just added table level page”",
        lambda figures: _of(_recent_share(figures), lambda share: share > 0.1),
        lambda figures: (
            f"In stock order {100 * min(_recent_share(figures)):.0f} to {100 * max(_recent_share(figures)):.0f} %"
            f" (median {100 * median(_recent_share(figures)):.0f} %) of the directories that reclaim zapped had been"
            " given a child less than one list-length of allocations before."
        ),
    ),
    Claim(
        "With parents moved up “there is less saw-toothing”",
        lambda figures: _of(figures.of_all("parents", "in_reach_amplitude"), _falls),
        lambda figures: (
            "Of the tables that a root leads to, crest to trough changes by"
            f" {_range(figures.of_all('parents', 'in_reach_amplitude'))}. KVM's own count of mapped pages does not show"
            f" it ({_range(figures.of_all('parents', 'mapped_amplitude'))}), since it counts what orphans map."
        ),
    ),
    Claim(
        "“… and also fewer changes overall”",
        lambda figures: _of(figures.of_all("parents", "in_reach_turns"), _falls),
        lambda figures: (
            f"Changes of direction: {_range(figures.of_all('parents', 'in_reach_turns'))}; more only where a zap in"
            " stock order takes a nested guest's whole tree along, which makes few changes, and deep ones."
        ),
    ),
    Claim(
        "“… because we don't zap mappings that are still in use as often”",
        lambda figures: _of(figures.of_all("parents", "page_faults"), _falls),
        lambda figures: (
            f"Page faults: {_range(figures.of_all('parents', 'page_faults'))}; not where a guest goes through its"
            " tables in turn, since what it needs next is then what is oldest."
        ),
    ),
    Claim(
        "“the list_move and parent walk are quite expensive”",
        lambda figures: _of(figures.of_all("parents", "instructions"), lambda change: change > SAME),
        lambda figures: (
            f"All instructions: {_range(figures.of_all('parents', 'instructions'))}; time under mmu_lock:"
            f" {_range(figures.of_all('parents', 'lock_ns'))}. What is left of the faults costs"
            f" {_range(_each(figures, 'parents'))} more each."
        ),
    ),
    Claim(
        "“It should really be done every time a new guest page table is mapped”",
        lambda figures: _of(_beyond(figures, "mapped", "page_faults"), _falls),
        lambda figures: f"Page faults beyond those of `parents`: {_range(_beyond(figures, 'mapped', 'page_faults'))}.",
    ),
    Claim(
        "“This would obviously completely kill performance-wise”",
        lambda figures: _of(_beyond(figures, "mapped", "instructions"), lambda change: change > 0.1),
        lambda figures: (
            "In its practical form, at most eight times in a turn of the list: instructions beyond those of `parents`"
            f" {_range(_beyond(figures, 'mapped', 'instructions'))}."
        ),
    ),
    Claim(
        "“prefers ‘old’ PT_PAGE_TABLE_LEVEL over directories” would be another way",
        lambda figures: _of(figures.of_all("leaf-first", "page_faults"), _falls),
        lambda figures: (
            f"Page faults: {_range(figures.of_all('leaf-first', 'page_faults'))} from stock order, without a"
            f" single move; against `parents`: {_range(_beyond(figures, 'leaf-first', 'page_faults'))}."
        ),
    ),
)


def _each(figures: Figures, policy: str) -> list[float]:
    """The change in instructions for each page fault."""
    places = [place for place in figures.places() if place[0] != "linux"]
    return [
        (1 + figures.change(*place, policy, "instructions")) / (1 + figures.change(*place, policy, "page_faults")) - 1
        for place in places
    ]


def _beyond(figures: Figures, policy: str, name: str) -> list[float]:
    """The change from `parents` to another policy."""
    places = [place for place in figures.places() if place[0] != "linux"]
    return [
        (1 + figures.change(*place, policy, name)) / (1 + figures.change(*place, "parents", name)) - 1
        for place in places
    ]
