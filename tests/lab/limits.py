# SPDX-License-Identifier: Apache-2.0
"""`make limits`: what higher limits are said to spare, and what guests are said to lose, against what they do.

Into docs/limits.md.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import median

from shadowwatch.capture.format import reading
from shadowwatch.mmu.curve import MULTIPLES
from shadowwatch.simulate.simulator import Simulator
from shadowwatch.snapshot import Estimate
from shadowwatch.view.advice import ENOUGH
from tests.experiment.runs import recording
from tests.lab.cache import Input, default_root
from tests.lab.hosts import DEFAULT
from tests.lab.kept import Kept
from tests.lab.losses import Loss, lost
from tests.lab.losses import document as losses_document
from tests.lab.machine import CHECKOUT, Lab, build, say
from tests.lab.programs import VMM
from tests.lab.scrape import PORT, settled
from tests.lab.snapshot import daemon_files, ready
from tests.lab.workload import Vmm, Workload

DOCUMENT = CHECKOUT / "docs" / "limits.md"

LIMIT = 64
ACCESSES = 20_000

GUESTS: Sequence[Workload] = (
    Workload("zipf", "zipf"),
    Workload("uniform", "uniform"),
    Workload("hotset", "hotset"),
    Workload("sequential", "sequential"),
    Workload("wide", "zipf", directories=40, tables=4),
    Workload("many-pages", "zipf", touched=8),
)
#: One that fills its page tables, of which more is lost than the tables themselves.
FULL = Workload("full-tables", "zipf", touched=64)

#: What becomes part of a measurement beside the daemon.
MADE_WITH: Sequence[Input] = [
    *(Path(__file__).with_name(f"{name}.py") for name in ("limits", "losses", "cost", "workload", "programs")),
    VMM,
]


@dataclass(frozen=True)
class Limit:
    """Of a guest's refaults under LIMIT, the share that a multiple of it spares.

    `live` and `simulated` were said of the run under LIMIT; `real` is what the kernel allocated less, by its own count.
    """

    guest: str
    seed: int
    times: float
    live: float
    simulated: float
    real: float


def measured(lab: Lab, guest: Workload, seed: int) -> Iterator[Limit]:
    """Run one guest under LIMIT, recorded, and under each multiple of it."""
    port = lab.forward(PORT)

    def run(limit: int) -> tuple[str, int]:
        """The VM's name, and the pages that KVM allocated."""
        name = f"{guest.name}-{seed}-{limit}"
        with Vmm(lab, replace(guest, name=name, seed=seed, pages=limit, accesses=ACCESSES)) as vmm:
            allocations = vmm.finished().counters["mmu_cache_miss"]
            settled(port, name, allocations)
        return name, allocations

    with tempfile.TemporaryDirectory() as folder:
        capture = Path(folder) / "capture"
        with recording(lab, capture):
            name, allocations = run(LIMIT)
            metrics = settled(port, name, allocations)
        estimates = {times: simulated(capture, times) for times in MULTIPLES}
    refaults = metrics.sum("refaults_total", vm=name)
    live = metrics.by("times", "limit_refaults_total", vm=name)
    for times, estimate in estimates.items():
        _, fewer = run(round(LIMIT * times))
        yield Limit(
            guest=guest.name,
            seed=seed,
            times=times,
            live=1 - live[f"{times:g}"] / refaults,
            simulated=1 - estimate.likely_refaults / estimate.recorded_refaults,
            real=(allocations - fewer) / refaults,
        )


def simulated(capture: Path, times: float) -> Estimate:
    """What a recording of one VM would have been under so many times its limit."""
    with reading(str(capture)) as reader:
        simulator = Simulator(reader.facts, f"stock@{times:g}x")
        for batch in reader.batches():
            simulator.feed(batch.records)
    (estimate,) = simulator.estimates().values()
    return estimate


def advised(limits: Sequence[Limit]) -> list[Limit]:
    """Of each run the limit that would be advised for ENOUGH of its refaults."""
    runs: dict[tuple[str, int], list[Limit]] = {}
    for limit in limits:
        runs.setdefault((limit.guest, limit.seed), []).append(limit)
    return [next((limit for limit in run if limit.live >= ENOUGH), run[-1]) for run in runs.values()]


def apart(limits: Sequence[Limit], said: str) -> tuple[float, float]:
    """How far what was said is from what was, in points: in the median, and at the worst."""
    points = [100 * abs(getattr(limit, said) - limit.real) for limit in limits]
    return median(points), max(points)


def document(limits: Sequence[Limit], kernel: str) -> str:
    """The page of it."""
    chosen = advised(limits)
    lines = [
        "# What a higher limit spares",
        "",
        f"Made by `make limits` on Linux {kernel} in the lab. Each guest makes {ACCESSES:,} accesses in stock order",
        f"under a limit of {LIMIT} shadow pages, is recorded, and then runs with the same seed under each multiple of",
        "that limit. *Live* is what `limit_refaults_total` said at the end of the first run, *simulated* what",
        "`simulate --limit` made of its recording. *Real* is how many pages fewer KVM allocated in the later run, by",
        "its own counter. All are shares of the refaults of the first run. In bold: the limit that `top` advises.",
        "",
        "| guest | seed | limit | live | simulated | real |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for limit in limits:
        mark = "**" if limit in chosen else ""
        shares = " | ".join(f"{share:.0%}" for share in (limit.live, limit.simulated, limit.real))
        lines.append(f"| {limit.guest} | {limit.seed} | {mark}{LIMIT * limit.times:.0f}{mark} | {shares} |")
    lines += ["", "Points between what was said and what was:", "", "| | median | worst |", "| --- | --: | --: |"]
    for words, (middle, worst) in (
        ("advised limits, live", apart(chosen, "live")),
        ("all limits, live", apart(limits, "live")),
        ("all limits, simulated", apart(limits, "simulated")),
    ):
        lines.append(f"| {words} | {middle:.1f} | {worst:.1f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure all guests, or those that are named; go on where it was stopped."""
    parser = argparse.ArgumentParser(prog="make limits", description=main.__doc__)
    parser.add_argument("guests", nargs="*", help="only these: " + ", ".join(guest.name for guest in (*GUESTS, FULL)))
    parser.add_argument("--seeds", type=int, default=3, help="so many of each (default 3)")
    asked = parser.parse_args()
    release = build(DEFAULT, "stock", say).kernel.release
    kept = Kept(default_root().parent / "limits.jsonl", [release, *daemon_files(), *MADE_WITH])
    guests = [guest for guest in (*GUESTS, FULL) if not asked.guests or guest.name in asked.guests]
    seeds = range(1, asked.seeds + 1)
    limits: list[Limit] = []
    losses: list[Loss] = []
    with ExitStack() as running:

        @cache
        def watched() -> Lab:
            return running.enter_context(ready("limits", kvm="stock", daemon="", progress=say))

        def spared(guest: Workload, seed: int) -> Iterator[Limit]:
            return measured(watched(), guest, seed)

        for guest in (guest for guest in guests if guest is not FULL):
            for seed in seeds:
                limits += kept.or_done(f"limits of {guest}, seed {seed}", Limit, partial(spared, guest, seed))
                say(f"limits: {guest.name} {seed}")
    for guest in guests:
        losses += kept.or_done(f"losses of {guest}, {seeds}", Loss, partial(counted, guest, seeds))
        say(f"losses: {guest.name}")
    text = "\n".join([*([document(limits, release)] if limits else []), losses_document(losses, ACCESSES)])
    if asked.guests:
        print(text)
    else:
        DOCUMENT.write_text(text)


def counted(guest: Workload, seeds: Sequence[int]) -> list[Loss]:
    """What a guest loses, in a lab of its own whose clock counts instructions."""
    with Lab.boot(kvm="stock", icount=True, progress=say) as lab:
        return lost(lab, guest, seeds, ACCESSES)


if __name__ == "__main__":
    main()
