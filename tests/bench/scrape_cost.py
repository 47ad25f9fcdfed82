# SPDX-License-Identifier: Apache-2.0
"""What a scrape costs the daemon, how long it keeps the loop from the ring, and what the daemon costs at rest.

The daemon is the real one, in a process of its own on a ring that is filled here.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from urllib.request import Request, urlopen

from prometheus_client import CollectorRegistry, generate_latest

from shadowwatch.daemon.loop import PERIOD_SECONDS
from shadowwatch.event.abi import Batch
from shadowwatch.metrics.exporter import SHARE
from shadowwatch.watch import Watch
from tests.bench.figure import Figure
from tests.unit.kernelless import Kernelless
from tests.unit.lively import Guest
from tests.unit.story import FACTS
from tests.unit.test_text import Declared, declared

VMS, TURNS, REPETITIONS = 1000, 20, 11
REST_SECONDS, REST_REPETITIONS = 5.0, 5
PERIOD_NS = int(PERIOD_SECONDS * 1e9)


@dataclass(frozen=True)
class Scrapes:
    """Some scrapes before each of which so many VMs had events.

    Milliseconds: of processor time, in all threads, and by which the latest look was late during a scrape and, on the
    same machine with the same neighbours, just before it.
    """

    changed: int
    lines: int
    spent_ms: Sequence[float]
    late_ms: Sequence[float]
    late_before_ms: Sequence[float]


def scrape_cost() -> list[Figure]:
    """Measure it all."""
    guests = [Guest(number + 1) for number in range(VMS)]
    watch = Watch(FACTS, str)
    with Kernelless() as daemon:
        idle = shares(daemon, REST_SECONDS, REST_REPETITIONS)
        for _ in range(TURNS):
            records = events(guests)
            daemon.put(records)
            watch.take(Batch(time.monotonic_ns(), 0, 0, records))
        resting = shares(daemon, REST_SECONDS, REST_REPETITIONS)
    by_objects_ms = _by_objects_ms(watch)
    figures = []
    for scrapes in measured(VMS, TURNS, (VMS, VMS // 10, 0), REPETITIONS):
        what = f"scrape of {VMS:,} VMs, {scrapes.lines:,} lines, {scrapes.changed:,} VMs changed"
        ratio = median(scrapes.spent_ms) / by_objects_ms
        figures += [
            Figure.of(f"{what}: processor time", scrapes.spent_ms, "ms", ratio, "its text by prometheus_client"),
            Figure.of(f"{what}: latest look", scrapes.late_ms, "ms"),
            Figure.of(f"{what}: latest look just before", scrapes.late_before_ms, "ms"),
        ]
    return [
        *figures,
        Figure.of(f"the daemon at rest, {VMS:,} VMs", resting, "% of a core"),
        Figure.of("the daemon at rest, no VM", idle, "% of a core"),
    ]


def measured(vms: int, turns: int, changed: Sequence[int], repetitions: int) -> list[Scrapes]:
    """Scrape `vms` VMs that have had so many turns, as Prometheus does; so often for each number that had another."""
    guests = [Guest(number + 1) for number in range(vms)]
    scraped = []
    with Kernelless() as daemon:
        for _ in range(turns):
            daemon.put(events(guests))
        request = Request(f"http://{daemon.address}/metrics", headers={"Accept-Encoding": "gzip"})
        for number in changed:
            spent: list[float] = []
            befores, spans, lines = [], [], 0
            for _ in range(repetitions):
                daemon.put(events(guests[:number]))
                # By then it is not the last text that is served.
                time.sleep(2 * max(spent, default=50) / 1e3 / SHARE)
                befores.append((time.monotonic_ns() - PERIOD_NS, time.monotonic_ns()))
                time.sleep(2 * PERIOD_SECONDS)
                before, begun = daemon.cpu_ns(), time.monotonic_ns()
                with urlopen(request, timeout=60) as answer:
                    lines = gzip.decompress(answer.read()).count(b"\n")
                spans.append((begun, time.monotonic_ns()))
                # The look that it delayed, and what the server tidies up.
                time.sleep(2 * PERIOD_SECONDS)
                spent.append((daemon.cpu_ns() - before) / 1e6)
            scraped.append((number, lines, spent, spans, befores))
        looks = daemon.end()
    return [
        Scrapes(number, lines, spent, late(looks, spans), late(looks, befores))
        for number, lines, spent, spans, befores in scraped
    ]


def events(guests: Sequence[Guest]) -> bytes:
    """Each reclaims some pages and gets others, a directory with seven tables among them."""
    records = []
    for guest in guests:
        guest.story.ns = time.monotonic_ns()
        guest.turn()
        records.append(guest.take())
    return b"".join(records)


def late(looks: Sequence[int], spans: Sequence[tuple[int, int]]) -> list[float]:
    """For each span, by how many milliseconds a gap between two looks in it was longer than the loop's period."""
    gaps = list(pairwise(looks))
    return [
        max((after - before) / 1e6 for before, after in gaps if after >= begun and before <= ended)
        - PERIOD_SECONDS * 1e3
        for begun, ended in spans
    ]


def shares(daemon: Kernelless, seconds: float, repetitions: int) -> list[float]:
    """Percents of a core that it has for so long, with nothing to do."""
    shares = []
    for _ in range(repetitions):
        before, begun = daemon.cpu_ns(), time.monotonic_ns()
        time.sleep(seconds)
        shares.append((daemon.cpu_ns() - before) / (time.monotonic_ns() - begun) * 100)
    return shares


def _by_objects_ms(watch: Watch) -> float:
    """What the text takes by way of prometheus_client's families and samples, the median of three."""
    spent = []
    for _ in range(3):
        begun = time.process_time_ns()
        registry = CollectorRegistry()
        for family in declared(watch):
            registry.register(Declared(family))
        generate_latest(registry)
        spent.append((time.process_time_ns() - begun) / 1e6)
    return median(spent)
