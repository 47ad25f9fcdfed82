# SPDX-License-Identifier: Apache-2.0
"""Work measured in processes of their own, so that two flavours of the model alternate: a word in, a figure out.

What takes time is told in seconds of processor time, memory in bytes for a page.
"""

from __future__ import annotations

import gc
import json
import sys
import time
import tracemalloc
from collections.abc import Callable, Sequence

from shadowwatch.capture.format import Reader
from shadowwatch.daemon.loop import GC_THRESHOLDS
from shadowwatch.event.abi import Batch
from shadowwatch.metrics.exporter import _Text
from shadowwatch.metrics.text import Exposition
from shadowwatch.mmu.model import Model
from shadowwatch.watch import Watch
from tests.captures import CAPTURES
from tests.unit.big import big
from tests.unit.lively import Guest
from tests.unit.story import FACTS, FUNCTIONS, ROLES

PAGES = 24_000
VMS, TURNS = 1000, 20


class Work:
    """All of it; each is done once before it is measured."""

    def __init__(self) -> None:
        with CAPTURES["stock"].open("rb") as file:
            self._reader = Reader(file, "stock")
            self._records = b"".join(batch.records for batch in self._reader.batches())
        self._guests: list[Guest] = []
        self._watch = Watch(FACTS, str)
        self._exposition = Exposition(self._watch)

    def _take(self, what_if: Sequence[str] = ()) -> float:
        watch = Watch(self._reader.facts, self._reader.name_of, what_if)
        return _spent(lambda: watch.take(Batch(0, 0, 0, self._records)))

    def model(self) -> float:
        """The model, stock order."""
        return self._take()

    def simulation(self) -> float:
        """And one policy beside it."""
        return self._take(["parents"])

    def scrape(self) -> float:
        """Of many VMs that all have changed: figures, text and gzip."""
        if not self._guests:
            self._guests = [Guest(number + 1) for number in range(VMS)]
            for _ in range(TURNS):
                self._turn()
        self._turn()
        return _spent(lambda: _Text(self._exposition.pieces()).compressed)

    def _turn(self) -> None:
        for guest in self._guests:
            guest.story.ns += 10**6
            guest.turn()
        self._watch.take(Batch(0, 0, 0, b"".join(guest.take() for guest in self._guests)))

    def memory(self) -> float:
        """Of the model, for a page."""
        story = big(PAGES)
        records, pages = story.records(), story.used
        del story
        model = Model(ROLES, FUNCTIONS)
        gc.collect()
        tracemalloc.start()
        model.feed(records)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size / pages


def _spent(work: Callable[[], object]) -> float:
    gc.collect()
    begun = time.process_time_ns()
    work()
    return (time.process_time_ns() - begun) / 1e9


def main() -> None:
    """Until nobody asks."""
    gc.set_threshold(*GC_THRESHOLDS)
    work = Work()
    for line in sys.stdin:
        measured: float = getattr(work, line.strip())()
        print(json.dumps(measured), flush=True)


if __name__ == "__main__":
    main()
