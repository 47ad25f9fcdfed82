# SPDX-License-Identifier: Apache-2.0
"""The second half of `make limits`: the time that guests are said to lose, and what they save without reclaim.

Time is in instructions: the lab's clock counts them (-icount), one for each nanosecond.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from statistics import median
from textwrap import wrap

from shadowwatch.control.client import connect
from shadowwatch.view.columns import Row
from tests.lab.cost import measured
from tests.lab.errors import LabError
from tests.lab.machine import Lab
from tests.lab.scrape import PORT, settled
from tests.lab.workload import Vmm, Workload

LIMIT = 64
#: No guest has as many page tables, so KVM reclaims nothing.
ENOUGH = 1024
WIDTH = 120


@dataclass(frozen=True)
class Loss:
    """Milliseconds of a processor that a guest lost under LIMIT: as said, between two bounds, and as it was.

    `saved` is what its process took less under ENOUGH, both times with the daemon's probes, and `bare` without them.
    """

    guest: str
    seed: int
    took: float
    least: float
    most: float
    saved: float
    bare: float

    @property
    def said(self) -> float:
        """The middle, which is what `top` says."""
        return (self.least + self.most) / 2

    def apart(self, saved: float) -> float:
        """How far what was said is from what was saved, as a part of that."""
        return self.said / saved - 1

    def line(self) -> str:
        """A row of the table."""
        cells = (
            *(self.guest, self.seed, f"{self.took:.0f}", f"{self.said:.0f} ({self.least:.0f}–{self.most:.0f})"),
            *(
                f"{self.bare:.0f}",
                f"{self.apart(self.bare):+.0%}",
                f"{self.saved:.0f}",
                f"{self.apart(self.saved):+.0%}",
            ),
        )
        return f"| {' | '.join(map(str, cells))} |"


def lost(lab: Lab, guest: Workload, seeds: Iterable[int], accesses: int) -> list[Loss]:
    """Run a guest without a daemon, while `shadowwatch cost` measures, and with a daemon that knows what that found."""

    def run(seed: int, limit: int) -> tuple[float, int]:
        """The milliseconds of its process, and the pages that KVM allocated."""
        with Vmm(lab, replace(guest, name=name(seed, limit), seed=seed, pages=limit, accesses=accesses)) as vmm:
            found = vmm.finished()
        if limit == ENOUGH and found.counters["mmu_recycled"]:
            raise LabError(f"KVM reclaimed pages of {guest.name} under a limit of {limit}")
        return found.cpu_us / 1000, found.counters["mmu_cache_miss"]

    def name(seed: int, limit: int) -> str:
        return f"{guest.name}-{seed}-{limit}"

    def saved(seed: int) -> float:
        return run(seed, LIMIT)[0] - run(seed, ENOUGH)[0]

    seeds = list(seeds)
    bare = [saved(seed) for seed in seeds]
    measured(lab, lambda: [run(seed, LIMIT) for seed in seeds])
    lab.start_daemon()
    port, control = lab.forward(PORT), lab.control()
    losses = []
    for seed, without in zip(seeds, bare, strict=True):
        took, allocations = run(seed, LIMIT)
        settled(port, name(seed, LIMIT), allocations)
        with closing(connect(control)) as live:
            (vm,) = (vm for vm in live.snapshot().vms if vm.name == name(seed, LIMIT))
            facts = live.status().facts
        row = Row(vm, None, 1.0, table_seconds=facts.table_seconds, fill_seconds=facts.fill_seconds)
        least, most = row.loses()
        enough, _ = run(seed, ENOUGH)
        losses.append(Loss(guest.name, seed, took, least * 1000, most * 1000, took - enough, without))
    return losses


def document(losses: Sequence[Loss], accesses: int) -> str:
    """The second half of the page."""
    lines = [
        "## The time that is lost",
        "",
        *wrap(
            f"Here the lab's clock counts instructions, one for each nanosecond. Each guest makes {accesses:,} accesses"
            f" under a limit of {LIMIT} and, with the same seed, of {ENOUGH:,}, where KVM reclaims nothing: first"
            " without a daemon, then, after `shadowwatch cost` has measured it, beside one. *Loses* is what the"
            f" daemon's figures say of the run under {LIMIT}: the middle, which `top` says, and both bounds. *Saved* is"
            f" what the guest's process took less under {ENOUGH:,}. All in milliseconds of a processor.",
            WIDTH,
        ),
        "",
        "| guest | seed | took | loses | saved, no daemon | apart | saved, beside a daemon | apart |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
        *(loss.line() for loss in losses),
        "",
        "How far what was said was from what was saved, as a part of that:",
        "",
        "| | median | worst | within the bounds |",
        "| --- | --: | --: | --: |",
    ]
    for words, saved in (("no daemon", "bare"), ("beside a daemon", "saved")):
        truths = [getattr(loss, saved) for loss in losses]
        parts = [abs(loss.apart(truth)) for loss, truth in zip(losses, truths, strict=True)]
        within = sum(loss.least <= truth <= loss.most for loss, truth in zip(losses, truths, strict=True))
        lines.append(f"| {words} | {median(parts):.0%} | {max(parts):.0%} | {within} of {len(losses)} |")
    lines += [
        "",
        *wrap(
            "Beside a daemon a guest saves more than that: each page that is built or zapped costs a probe's time, too,"
            " and what the faults take is measured without the daemon's probes.",
            WIDTH,
        ),
    ]
    return "\n".join([*lines, ""])
