# SPDX-License-Identifier: Apache-2.0
"""What page faults and reclaim take: times as `shadowwatch cost` measures them, and its last figures for the daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from itertools import accumulate
from typing import Any

from shadowwatch.errors import ShadowwatchError, shown
from shadowwatch.file import contents, put

#: Four for each power of two of nanoseconds, up to 2**32, which is 4 s; bpf/cost.bpf.c fills them.
BUCKETS = 32 * 4

#: In the daemon's StateDirectory=, which outlives it; it reads this and root writes it.
STORED = "/var/lib/shadowwatch/cost.json"

LONGEST = 4096


def edge(bucket: int) -> float:
    """Where this bucket begins, in seconds, which is where the one before it ends."""
    return (4 + bucket % 4) * 2.0 ** (bucket // 4 - 2) / 1e9


@dataclass(frozen=True, slots=True)
class Times:
    """How long something took, so many times: `seconds` is the sum, `buckets` count by length (see `edge`)."""

    times: int
    seconds: float
    buckets: tuple[int, ...]

    @property
    def mean(self) -> float:
        """Seconds each, 0 of none."""
        return self.seconds / self.times if self.times else 0.0

    def quantile(self, part: float) -> float:
        """The seconds that this part of them took at most, as if a bucket spread them evenly; 0 of none."""
        wanted = part * sum(self.buckets)
        for bucket, (count, below) in enumerate(zip(self.buckets, accumulate(self.buckets), strict=True)):
            if count and below >= wanted:
                return edge(bucket) + (edge(bucket + 1) - edge(bucket)) * (1 - (below - wanted) / count)
        return 0.0

    def octaves(self) -> tuple[int, ...]:
        """The counts by powers of two: `octaves()[i]` took from 2**i to 2**(i + 1) ns."""
        return tuple(sum(self.buckets[first : first + 4]) for first in range(0, len(self.buckets), 4))


def together(times: Sequence[Times]) -> Times:
    """All of these as one."""
    buckets = tuple(map(sum, zip(*(each.buckets for each in times), strict=True)))
    return Times(sum(each.times for each in times), sum(each.seconds for each in times), buckets)


@dataclass(frozen=True, slots=True)
class VmCost:
    """What one VM's page faults took, those `building` page tables and `other` ones, without the reclaim in them.

    `reclaim` is all that was done to this VM, by whomever; `tables` is how many shadow pages the faults built.
    """

    name: str
    pid: int
    building: Times
    other: Times
    reclaim: Times
    tables: int

    def kinds(self) -> Iterator[tuple[str, Times]]:
        """The three with their names."""
        yield "building", self.building
        yield "other", self.other
        yield "reclaim", self.reclaim


@dataclass(frozen=True, slots=True)
class Cost:
    """A measurement: of `seconds`, ended `measured` seconds after the epoch; `missed` faults could not be timed.

    Whether `reclaim_known`, or reclaim could not be told from the faults that did it.
    """

    host: str
    kernel: str
    measured: float
    seconds: float
    missed: int
    vms: tuple[VmCost, ...]
    reclaim_known: bool = True


@dataclass(frozen=True, slots=True)
class Figures:
    """What the daemon needs of the host's last measurement: means of `faults` that built `tables`, without reclaim.

    `fill_seconds` is what faults took that built none, for each table that others did.
    """

    kernel: str
    measured: float
    seconds: float
    faults: int
    tables: int
    fault_seconds: float
    table_seconds: float
    fill_seconds: float


def figures(cost: Cost) -> Figures | None:
    """Those of a measurement; None when it saw no fault build a page table."""
    building = together([vm.building for vm in cost.vms])
    tables = sum(vm.tables for vm in cost.vms)
    if not building.times:
        return None
    return Figures(
        kernel=cost.kernel,
        measured=cost.measured,
        seconds=cost.seconds,
        faults=building.times,
        tables=tables,
        fault_seconds=building.mean,
        table_seconds=building.seconds / tables,
        fill_seconds=sum(vm.other.seconds for vm in cost.vms) / tables,
    )


def store(found: Figures, path: str = STORED) -> None:
    """Write the figures for the daemon; ShadowwatchError when that fails.

    The folder is the daemon's, whom root need not trust: a new file takes the place of whatever is there.
    """
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        put(path, json.dumps(asdict(found)).encode(), 0o644)
    except OSError as error:
        raise ShadowwatchError(
            f"cannot write {path}, from which the daemon takes what a fault costs: {error.strerror}; check its folder"
        ) from None


def stored(path: str = STORED) -> Figures | None:
    """The figures of the last measurement; None without one. ShadowwatchError when the file is another's."""
    if not os.path.exists(path):
        return None
    content = contents(path, LONGEST)
    try:
        found = json.loads(content)
        made = Figures(**{field.name: _KINDS[field.type](found[field.name]) for field in fields(Figures)})
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        made = None
    if made is None or not (
        all(0 < number < float("inf") for number in astuple(made)[1:-1]) and 0 <= made.fill_seconds < float("inf")
    ):
        raise ShadowwatchError(f"{shown(path)} is not what `shadowwatch cost` writes; run that again")
    return made


#: By the names of types, which is what annotations are here.
_KINDS: Mapping[Any, Callable[[Any], Any]] = {"str": str, "float": float, "int": int}
