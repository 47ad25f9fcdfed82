# SPDX-License-Identifier: Apache-2.0
"""What is run: each case under every policy, at every limit, with every seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tests.lab.machine import Mode
from tests.lab.workload import Workload

LIMITS = (64, 96)
SEEDS = (1, 2, 3, 4, 5)

#: The place and the seed that are drawn over time.
SHOWN = (("zipf", 64), 1)


@dataclass(frozen=True)
class Linux:
    """What a real guest does, as RealGuest has it."""

    processes: int = 40
    crowd: int = 0
    turns: int = 0
    sources: int = 0
    memory: int = 96  # MiB
    nested: bool = False


@dataclass(frozen=True)
class Case:
    """One workload, or several VMs at once, or a real Linux, of which no two runs are alike."""

    name: str
    says: str
    workloads: tuple[Workload, ...] = ()
    linux: Linux | None = None
    mode: Mode = "shadow"
    limits: tuple[int, ...] = LIMITS
    seeds: tuple[int, ...] = SEEDS  # of a Linux, the numbers of its runs
    recorded: tuple[int, ...] = SEEDS[:3]  # those of which shadowwatch records a run as well
    unlike: str = ""  # why a predicted change may be far from the measured one

    @property
    def in_turn(self) -> bool:
        """Whether the guest has guests one after another, none of which comes again."""
        return any(workload.inner > 1 for workload in self.workloads)

    def vms(self, limit: int, seed: int, policy: str) -> list[Workload]:
        """The VMs of one run; none of a Linux."""
        return [
            replace(workload, name=f"{self.name}-{workload.pattern}-{limit}-{seed}-{policy}", pages=limit, seed=seed)
            for workload in self.workloads
        ]


def _large(limit: int, directories: int, tables: int, accesses: int) -> Case:
    """A guest with half as many tables again as KVM may keep pages."""
    return Case(
        f"zipf-{limit}",
        f"zipf over {directories} directories × {tables} tables, {accesses:,} accesses",
        (Workload("", "zipf", directories=directories, tables=tables, accesses=accesses),),
        limits=(limit,),
        recorded=SEEDS[:1],
    )


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case("zipf", "16 directories × 8 tables, the k-th most wanted 1/k as often", (Workload("", "zipf"),)),
        Case(
            "direct",
            "zipf, but with nested paging and `tdp_mmu=N`: direct pages, as in the mail",
            (Workload("", "zipf", spread=True),),
            mode="tdp",
        ),
        Case(
            "linux",
            "a real Linux that boots and runs 40 shells one after another",
            linux=Linux(processes=40),
            limits=(64,),
            recorded=SEEDS,
            unlike="no two runs are alike",
        ),
        Case("sequential", "16 × 8, one table after the other", (Workload("", "sequential"),)),
        Case(
            "nested",
            "zipf in a guest's guest, whose page tables are those of its nested paging",
            (Workload("", "zipf", nested=True),),
            mode="nested",
            unlike="a zap takes much of the tree along, and of what the guest did with that nothing was recorded",
        ),
        Case(
            "nested-linux",
            "a real Linux in a real Linux that is a guest: it boots, builds 48 sources and ends",
            linux=Linux(processes=0, sources=48, memory=512, nested=True),
            mode="nested",
            limits=(64,),
            # A recording is made by the clock, and its timer leaves a guest's guest nothing of an emulated processor.
            recorded=(),
            unlike="no two runs are alike",
        ),
        Case(
            "nested-ended",
            "nine nested guests one after another, 500 accesses each, of a hypervisor that clears nothing at their end",
            (Workload("", "zipf", nested=True, inner=9, accesses=9 * 500),),
            mode="nested",
            limits=(128, 256, 1024),
            recorded=SEEDS[:1],
        ),
        _large(1024, 48, 32, 60_000),
        Case(
            "many-pages",
            "zipf, 16 × 8, one of 8 pages by each table: most faults map a page by a table that is there",
            (Workload("", "zipf", touched=8),),
            unlike="a table that is kept spares building it, but most faults are for a page that it does not map yet",
        ),
        Case(
            "crowd",
            "a real Linux with 200 shells that all live on, each woken in its turn, three times over",
            linux=Linux(processes=0, crowd=200, turns=3, memory=256),
            limits=(256,),
            recorded=SEEDS[:1],
            unlike="no two runs are alike",
        ),
        _large(4096, 96, 64, 200_000),
        Case("uniform", "16 × 8, each table as likely", (Workload("", "uniform"),)),
        Case("wide", "zipf over 40 directories × 4 tables", (Workload("", "zipf", directories=40, tables=4),)),
        Case("hotset", "16 × 8, most accesses to one directory, which moves on", (Workload("", "hotset"),)),
        _large(256, 24, 16, 30_000),
        Case(
            "three-vms",
            "three VMs at once: zipf, uniform, hot set",
            (Workload("", "zipf"), Workload("", "uniform"), Workload("", "hotset")),
            limits=(64,),
        ),
    )
}
