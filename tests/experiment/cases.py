# SPDX-License-Identifier: Apache-2.0
"""What is run: each case under every policy, at every limit, with every seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tests.lab.machine import Mode
from tests.lab.workload import Workload

LIMITS = (64, 96)
SEEDS = (1, 2, 3)


@dataclass(frozen=True)
class Case:
    """One workload, or several VMs at once; `workloads` is empty for a real Linux guest, whose runs differ anyway."""

    name: str
    says: str
    workloads: tuple[Workload, ...] = ()
    mode: Mode = "shadow"
    limits: tuple[int, ...] = LIMITS
    seeds: tuple[int, ...] = SEEDS
    unlike: str = ""  # why a predicted change may be far from the measured one

    def vms(self, limit: int, seed: int, policy: str) -> list[Workload]:
        """The VMs of one run."""
        return [
            replace(workload, name=f"{self.name}-{workload.pattern}-{limit}-{seed}-{policy}", pages=limit, seed=seed)
            for workload in self.workloads
        ]


CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case("zipf", "16 directories × 8 tables, the k-th most wanted 1/k as often", (Workload("", "zipf"),)),
        Case("uniform", "16 × 8, each table as likely", (Workload("", "uniform"),)),
        Case("hotset", "16 × 8, most accesses to one directory, which moves on", (Workload("", "hotset"),)),
        Case("sequential", "16 × 8, one table after the other", (Workload("", "sequential"),)),
        Case("wide", "zipf over 40 directories × 4 tables", (Workload("", "zipf", directories=40, tables=4),)),
        Case(
            "three-vms",
            "three VMs at once: zipf, uniform, hot set",
            (Workload("", "zipf"), Workload("", "uniform"), Workload("", "hotset")),
            limits=(64,),
        ),
        Case(
            "nested",
            "zipf in a guest's guest, whose page tables are those of its nested paging",
            (Workload("", "zipf", nested=True),),
            mode="nested",
            unlike="a zap takes much of the tree along, and of what the guest did with that nothing was recorded",
        ),
        Case(
            "many-pages",
            "zipf, 16 × 8, one of 8 pages by each table: most faults map a page by a table that is there",
            (Workload("", "zipf", touched=8),),
            unlike="a table that is kept spares building it, but most faults are for a page that it does not map yet",
        ),
        Case(
            "linux",
            "a real Linux that boots and runs 40 shells",
            limits=(64,),
            seeds=(1, 2, 3, 4, 5),
            unlike="no two runs are alike",
        ),
    )
}
