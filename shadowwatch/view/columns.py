# SPDX-License-Identifier: Apache-2.0
"""The columns of `shadowwatch top`, each one declaration: its key, its heading, what it means and how it is made.

Order and choice come from DEFAULT, or from --columns, or from the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import NamedTuple

from shadowwatch.errors import ShadowwatchError, meant
from shadowwatch.snapshot import Cause, VmSnapshot

Value = float | str

#: A pipe has no width: nothing is cut.
ENDLESS = 1000


class Units(Enum):
    """What a counter shows."""

    RATE = "per second"
    CHANGE = "since the last update"
    TOTAL = "in all"


class Tick(NamedTuple):
    """A look at a VM: when on the clock of the events, its shadow pages then, and its zaps since the look before."""

    now_ns: int
    pages: int
    zaps: int


@dataclass(frozen=True, slots=True)
class Row:
    """A VM now and at the look before, so many seconds apart; `tdp`: its host has the TDP MMU.

    `table_seconds` is what it takes there to build a page table, None if that was not measured, and `fill_seconds` what
    the faults take that then fill it.

    `before` is None when the VM was not there then; at the first look `seconds` is 0, and no change is known.
    `ticks` are the last looks at it, the newest last.
    """

    vm: VmSnapshot
    before: VmSnapshot | None
    seconds: float
    tdp: bool = False
    ticks: Sequence[Tick] = ()
    table_seconds: float | None = None
    fill_seconds: float = 0.0

    def change(self, count: Callable[[VmSnapshot], int]) -> int:
        """How much a count grew since the look before; all of it came since when the VM was not there then."""
        return count(self.vm) - (count(self.before) if self.before else 0) if self.seconds else 0

    def limited(self) -> Mapping[float, float]:
        """The refaults since the look before under multiples of its limit, by these; nothing where none is followed."""
        if not self.seconds:
            return {}
        before = {limited.times: limited.likely for limited in self.before.limited} if self.before else {}
        # They were followed from a reclaim on, and those from before it are in all of them.
        unfollowed = self.before.all_refaults if self.before else 0
        return {
            limited.times: max(0.0, limited.likely - before.get(limited.times, unfollowed))
            for limited in self.vm.limited
        }

    def loses(self) -> tuple[float, float]:
        """The part of a processor that reclaim takes under mmu_lock, and that building again what it took does.

        At least and at most: of the refaults that even the highest limit would have, it is not known whether reclaim
        is the reason, nor how much of a page table is filled again. Reclaim alone where `table_seconds` is not known.
        """
        if not self.seconds:
            return 0.0, 0.0
        refaults = self.limited()
        again = refaults.get(1.0, 0.0)
        built = (
            max(0.0, again - min(refaults.values(), default=0.0)) * (self.table_seconds or 0.0),
            again * ((self.table_seconds or 0.0) + self.fill_seconds),
        )
        before = self.before.reclaim_ns if self.before else (0, 0)
        reclaim = (max(0, now - then) / 1e9 for now, then in zip(self.vm.reclaim_ns, before, strict=True))
        least, most = (sum(each) / self.seconds for each in zip(built, reclaim, strict=True))
        return least, most

    def rate(self, count: Callable[[VmSnapshot], int]) -> float:
        """The same for each second."""
        return self.change(count) / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Column:
    """`text` is what people see, `value` what --json, --csv and sorting take."""

    key: str
    heading: str
    help: str
    value: Callable[[Row], Value]
    text: Callable[[Row, Units], str]
    left: bool = False
    alarm: bool = False  # a value above 0 is what one looks for

    def titled(self, units: Units) -> str:
        """The heading; what is not per second has no /s."""
        return self.heading if units is Units.RATE else self.heading.removesuffix("/s")


#: Counters that several columns and the insight are made from.
Count = Callable[[VmSnapshot], int]
ZAPS: Count = attrgetter("all_zaps")
RECLAIMED: Count = attrgetter("reclaimed")
DIRECTORIES: Count = attrgetter("reclaimed_directories")
RECENT: Count = attrgetter("recently_parented")
REFAULTS: Count = attrgetter("all_refaults")


def _words(key: str, heading: str, help: str, words: Callable[[Row], str]) -> Column:
    return Column(key, heading, help, words, lambda row, _: words(row), left=True)


def _number(key: str, heading: str, help: str, number: Callable[[Row], float]) -> Column:
    return Column(key, heading, help, number, lambda row, _: f"{number(row):,.0f}")


def _counter(key: str, heading: str, help: str, count: Callable[[VmSnapshot], int], alarm: bool = False) -> Column:
    def text(row: Row, units: Units) -> str:
        if units is Units.TOTAL:
            return f"{count(row.vm):,}"
        if not row.seconds:
            return "–"
        number = row.rate(count) if units is Units.RATE else row.change(count)
        return f"{number:,.1f}" if 0 < number < 10 and units is Units.RATE else f"{number:,.0f}"

    return Column(key, heading, help, lambda row: row.rate(count), text, alarm=alarm)


def _state(row: Row) -> str:
    return "TDP" if row.tdp and row.vm.state == "exact" and not row.vm.allocations else row.vm.state


def _by_cause(row: Row) -> str:
    """The causes of the zaps since the look before, the most frequent first."""
    if not row.seconds:
        return ""
    before = row.before.zaps_by_cause if row.before else {}
    counts = ((count - before.get(cause, 0), cause) for cause, count in row.vm.zaps_by_cause.items())
    grown = sorted(((count, cause) for count, cause in counts if count), reverse=True)
    return " ".join(f"{Cause(cause).name.lower()}:{count / row.seconds:,.0f}" for count, cause in grown[:3])


def _share(row: Row) -> float:
    directories = row.change(DIRECTORIES)
    return row.change(RECENT) / directories if directories else 0.0


def bar(part: float, width: int) -> str:
    """A bar of this width, full for 1."""
    full = round(min(max(part, 0.0), 1.0) * width)
    return "█" * full + "·" * (width - full)


_TICKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[int], width: int) -> str:
    """The last values, each a bar against the largest."""
    shown = values[-width:]
    most = max(shown, default=0)
    ticks = "".join(_TICKS[value * (len(_TICKS) - 1) // most] if most else _TICKS[0] for value in shown)
    return ticks.rjust(width)


def _levels(row: Row) -> str:
    return " ".join(f"{level}:{count:,}" for level, count in sorted(row.vm.pages.items()) if level > 1)


SPARK = 12

COLUMNS: Mapping[str, Column] = {
    column.key: column
    for column in (
        _words("name", "VM", "its name", lambda row: row.vm.name),
        Column("pid", "pid", "the process that runs it", lambda row: row.vm.pid, lambda row, _: str(row.vm.pid)),
        _words(
            "state", "state", "exact; resyncing: list read again, or events wait; TDP: no shadow page; ended", _state
        ),
        _number("pages", "pages", "shadow pages on active_mmu_pages", lambda row: row.vm.all_pages),
        _number("limit", "limit", "KVM reclaims above this many", lambda row: row.vm.limit),
        Column(
            "fill",
            "of limit",
            "pages of the limit",
            lambda row: row.vm.all_pages / row.vm.limit if row.vm.limit else 0.0,
            lambda row, _: bar(row.vm.all_pages / row.vm.limit if row.vm.limit else 0.0, 8),
            left=True,
        ),
        _counter("allocated", "alloc/s", "pages allocated", lambda vm: vm.all_allocations),
        _counter("zapped", "zap/s", "pages zapped, for whatever cause", ZAPS),
        _counter("reclaimed", "reclaim/s", "pages zapped by reclaim", RECLAIMED),
        _counter("directories", "dirs/s", "directories (pages above level 1) zapped by reclaim", DIRECTORIES),
        _counter(
            "recent",
            "recent/s",
            "recently parented: directories zapped by reclaim that had just been given a child",
            RECENT,
            alarm=True,
        ),
        Column(
            "share",
            "share",
            "share of recently parented ones among the directories zapped by reclaim",
            _share,
            lambda row, _: f"{_share(row):.0%}" if row.change(DIRECTORIES) else "–",
            alarm=True,
        ),
        Column(
            "loses",
            "loses",
            "part of a processor that reclaim takes, and building what it took again (if `shadowwatch cost` measured)",
            lambda row: sum(row.loses()) / 2,
            lambda row, _: f"{sum(row.loses()) / 2:.1%}" if row.seconds else "–",
        ),
        _counter("refaults", "refault/s", "pages allocated again after a zap", REFAULTS),
        _counter("moves", "moves/s", "parents moved up the list (patched KVM)", lambda vm: vm.moves),
        _words("levels", "directories", "directories by level, as level:number", _levels),
        _words("causes", "zaps/s by cause", "the most frequent causes of zaps", _by_cause),
        Column(
            "pages_trend",
            "pages",
            "shadow pages at the last updates",
            lambda row: row.vm.all_pages,
            lambda row, _: sparkline([tick.pages for tick in row.ticks], SPARK),
            left=True,
        ),
        Column(
            "zaps_trend",
            "zaps",
            "zaps between the last updates",
            lambda row: row.change(ZAPS),
            lambda row, _: sparkline([tick.zaps for tick in row.ticks], SPARK),
            left=True,
        ),
        _counter("lost", "lost", "events that never arrived", lambda vm: vm.lost, alarm=True),
        _number("orphans", "orphans", "pages that had a parent and have none", lambda row: row.vm.orphans),
        _number("mapped", "mapped", "guest pages mapped by shadow pages", lambda row: row.vm.mapped or 0),
    )
}

#: Those that are left out first on a narrow terminal come last.
DEFAULT = (
    *(
        "name",
        "loses",
        "reclaimed",
        "recent",
        "share",
        "pages",
        "limit",
        "fill",
        "state",
        "allocated",
        "refaults",
        "moves",
    ),
    *("zaps_trend", "causes", "levels", "pid"),
)


def choose(keys: Sequence[str]) -> tuple[Column, ...]:
    """The columns of these keys; ShadowwatchError names the nearest when there is none."""
    for key in keys:
        if key not in COLUMNS:
            raise ShadowwatchError(f"there is no column {key}; {meant(key, COLUMNS)}")
    if not keys:
        raise ShadowwatchError(f"no column is left; choose from {', '.join(COLUMNS)}")
    return tuple(COLUMNS[key] for key in keys)
