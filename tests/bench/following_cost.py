# SPDX-License-Identifier: Apache-2.0
"""What it costs to follow higher limits and the time of reclaim: the same events with and without that, in turn."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from unittest.mock import patch

from shadowwatch.event.abi import RECORD, Batch
from shadowwatch.event.facts import Facts
from shadowwatch.metrics.text import exposition
from shadowwatch.mmu.vm import Vm
from shadowwatch.watch import Watch
from tests.bench.figure import Figure
from tests.unit.faulting import Faulting
from tests.unit.story import FACTS

#: Events a second, as many at a time as the daemon's loop finds, and a scrape for so many.
RATE = 50_000
LOOK, SCRAPE = RATE // 20, RATE * 15
REPETITIONS = 25
#: A VM of 256 MiB, whose guest uses so many page tables.
LIMIT, TABLES, ACCESSES = 1310, 5000, 60_000


def following_cost(facts: Facts, small: bytes) -> list[Figure]:
    """Percents of the processor time without: of a VM of 64 shadow pages that was recorded, and of a larger one."""
    return [
        _cost("a VM of 64 shadow pages", facts, small),
        _cost(f"a VM of {LIMIT:,} shadow pages", FACTS, _larger()),
    ]


def _cost(what: str, facts: Facts, records: bytes) -> Figure:
    events = len(records) // RECORD.size
    repeated = 1 + 50_000 // events
    more = []
    core = []
    for _ in range(REPETITIONS):
        with_it = _seconds(facts, records, repeated)
        with _nothing_followed():
            without = _seconds(facts, records, repeated)
        more.append((with_it / without - 1) * 100)
        core.append((with_it - without) / (repeated * events) * RATE * 100)
    return Figure.of(f"to follow {what}, {median(core):.1f} % of a core at {RATE:,} events/s", more, "% more")


def _seconds(facts: Facts, records: bytes, repeated: int) -> float:
    """Of the processor, for all that comes of the events."""
    size = LOOK * RECORD.size
    gc.collect()
    begun = time.process_time()
    for _ in range(repeated):
        watch = Watch(facts, str)
        for number, at in enumerate(range(0, len(records), size)):
            watch.take(Batch(number, 0, 0, records[at : at + size]))
            if not number % (SCRAPE // LOOK):
                exposition(watch)
    return time.process_time() - begun


class _Nothing:
    """A reclaim that takes no time."""

    last_ns = least_ns = most_ns = 0

    def begin(self, ns: int) -> None:
        """Nothing."""

    def over(self, ns: int) -> None:
        """Nothing."""


@contextmanager
def _nothing_followed() -> Iterator[None]:
    made = Vm.__init__

    def without(vm: Vm, *arguments: object) -> None:
        made(vm, *arguments)  # type: ignore[arg-type]
        vm.curve_due = 1 << 62
        vm.reclaim_time = _Nothing()  # type: ignore[assignment]

    with patch.object(Vm, "__init__", without):
        yield


def _larger() -> bytes:
    """Its events, the first of them without reclaim; some tables are wanted often, many now and then."""
    vm = Faulting("stock", LIMIT)
    chance = random.Random(1)  # noqa: S311
    tables = list(range(TABLES))
    chance.shuffle(tables)
    for table in chance.choices(tables, [1 / (rank + 1) ** 0.8 for rank in range(TABLES)], k=ACCESSES):
        vm.access((table // 100, table % 100))
    return vm.ring.take()
