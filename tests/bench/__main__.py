# SPDX-License-Identifier: Apache-2.0
"""`make bench`: how fast events become metrics, what a shadow page costs, and what a guest pays for being watched."""

from __future__ import annotations

import argparse
import gc
import json
import time
import tracemalloc
from collections.abc import Callable
from statistics import median

from shadowwatch.capture.format import Reader
from shadowwatch.daemon.loop import GC_THRESHOLDS
from shadowwatch.event.abi import RECORD, Batch, decode
from shadowwatch.event.facts import Facts
from shadowwatch.metrics.text import exposition
from shadowwatch.simulate.simulator import Simulator
from shadowwatch.watch import Watch
from tests.bench.figure import Figure, show
from tests.bench.flavours import flavours
from tests.bench.following_cost import following_cost
from tests.bench.scrape_cost import scrape_cost
from tests.bench.top_cost import top_cost
from tests.captures import CAPTURES
from tests.compiled import compiled
from tests.unit.big import big
from tests.unit.story import FACTS

REPETITIONS = 15
PAGES = 24_000

#: Reader of the ring -> the events and the seconds of each round.
Readers = dict[str, list[tuple[int, float]]]


def _rates(work: Callable[[], int]) -> list[float]:
    """Events a second, once for each repetition."""
    rates = []
    for _ in range(REPETITIONS):
        gc.collect()
        begun = time.perf_counter()
        events = work()
        rates.append(events / (time.perf_counter() - begun))
    return rates


def _recorded(name: str) -> tuple[Reader, bytes]:
    with CAPTURES[name].open("rb") as file:
        reader = Reader(file, name)
        return reader, b"".join(batch.records for batch in reader.batches())


def throughput(name: str) -> list[Figure]:
    """Decoding alone, and decoding, model and metrics together, on what the lab recorded."""
    reader, records = _recorded(name)
    events = len(records) // RECORD.size
    times = 1 + 300_000 // events

    def decoding() -> int:
        for _ in range(times):
            for _ in decode(records)[0]:
                pass
        return times * events

    def everything() -> int:
        for _ in range(times):
            watch = Watch(reader.facts, reader.name_of)
            watch.take(Batch(0, 0, 0, records))
        exposition(watch)
        return times * events

    decoded, all_of_it = _rates(decoding), _rates(everything)
    return [
        Figure.of(f"decode, {name}", decoded, "events/s"),
        Figure.of(
            f"decode, model and metrics, {name}",
            all_of_it,
            "events/s",
            median(all_of_it) / median(decoded),
            "decoding alone",
        ),
    ]


def simulation(name: str) -> Figure:
    """One policy simulated on what the lab recorded."""
    reader, records = _recorded(name)
    events = len(records) // RECORD.size
    times = 1 + 100_000 // events

    def simulating() -> int:
        for _ in range(times):
            Simulator(reader.facts, "parents").feed(records)
        return times * events

    return Figure.of(f"decode and simulation of parents, {name}", _rates(simulating), "events/s")


def _followed() -> tuple[Facts, bytes]:
    reader, records = _recorded("stock")
    return reader.facts, records


def memory() -> Figure:
    """Bytes for a page of a simulation."""
    story = big(PAGES)
    pages = story.used
    records = story.records()
    del story
    simulator = Simulator(FACTS, "parents")
    gc.collect()
    tracemalloc.start()
    simulator.feed(records)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return Figure.of("memory of a simulation of parents", [size / pages], "bytes/page")


def readers() -> list[Figure]:
    """The same model fed by our reader of the ring, and by bcc's callback, on a real ring in the lab; also compiled."""
    from tests.lab.machine import Lab, say
    from tests.lab.workload import Workload

    command = json.dumps(Workload("bench", accesses=15_000).argv())
    measured: dict[str, Readers] = {}
    with Lab.boot(kvm="patched", progress=say) as lab:
        compiled(lab.out / "compiled")
        for flavour, tree in (("from sources", "/srv/shadowwatch"), ("compiled", "/srv/out/compiled")):
            run = ["env", f"PYTHONPATH={tree}", "python3", "-m", "tests.bench.ring_readers", command]
            measured[flavour] = json.loads(lab.run(run).stdout.splitlines()[-1])
    alone = _compared(measured["from sources"], " alone", "no model")
    return [
        *alone,
        *(figure for each in measured for figure in _compared(measured[each], "", f"then the model {each}")),
    ]


def _compared(measured: Readers, suffix: str, what: str) -> list[Figure]:
    assert all(events > 10_000 for rounds in measured.values() for events, _ in rounds)
    look, callback = (
        [events / seconds for events, seconds in measured[reader + suffix]] for reader in ("look", "callback")
    )
    ratio = median(look) / median(callback)
    return [
        Figure.of(f"bcc's callback for each event, {what}, in the lab", callback, "events/s"),
        Figure.of(f"look at the ring, {what}, in the lab", look, "events/s", ratio, "bcc's callback"),
    ]


def guest() -> list[Figure]:
    """What a guest pays for being watched, in instructions: by shadowwatch, and by what else there is."""
    from tests.lab.machine import Lab, say

    with Lab.boot(kvm="stock", icount=True, progress=say) as lab:
        measured = json.loads(lab.run("cd /srv/shadowwatch && python3 -m tests.lab.guest_cost").stdout.splitlines()[-1])
    alone = median(measured.pop("nobody"))
    return [
        Figure.of(
            f"a guest watched by {watcher}, in the lab", times, "instructions", median(times) / alone, "unwatched"
        )
        for watcher, times in measured.items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--no-lab", action="store_true", help="leave out what needs the lab")
    options = parser.parse_args()
    gc.set_threshold(*GC_THRESHOLDS)
    figures = [
        *throughput("stock"),
        *throughput("parents"),
        simulation("debian"),
        simulation("parents"),
        memory(),
        *flavours(),
        *following_cost(*_followed()),
        *top_cost(),
        *scrape_cost(),
    ]
    if not options.no_lab:
        figures += [*readers(), *guest()]
    show(figures)


if __name__ == "__main__":
    main()
