# SPDX-License-Identifier: Apache-2.0
"""`make effect`: the same seeded workloads in stock order and with parents moved up, side by side."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from tests.bench.figure import Figure, show
from tests.lab.machine import Lab, Policy, say
from tests.lab.scrape import PORT, settled
from tests.lab.workload import WORKLOADS, Vmm, Workload


@dataclass(frozen=True)
class Effect:
    """What one workload led to: the kernel's counts, and the daemon's of directories."""

    page_faults: int
    pages_zapped: int
    directories_reclaimed: int
    recently_parented_zaps: int


def measure(lab: Lab, port: int, workload: Workload, policy: Policy) -> Effect:
    """Run one workload under one policy, with the daemon's metrics on this port."""
    lab.policy(policy)
    vm = f"{workload.name}-{workload.seed}-{policy}"
    with Vmm(lab, replace(workload, name=vm)) as vmm:
        counters = vmm.finished().counters
        metrics = settled(port, vm, counters["mmu_cache_miss"])
    reclaimed = metrics.by("level", "zaps_total", vm=vm, cause="quota")
    return Effect(
        page_faults=counters["pf_taken"],
        pages_zapped=counters["mmu_shadow_zapped"],
        directories_reclaimed=int(sum(zaps for level, zaps in reclaimed.items() if level != "1")),
        recently_parented_zaps=int(metrics.sum("recently_parented_zaps_total", vm=vm)),
    )


def figures(workload: Workload, stock: Effect, parents: Effect) -> list[Figure]:
    """Each count under `parents`, as a ratio to that in stock order."""
    made = []
    for name, before in asdict(stock).items():
        after = getattr(parents, name)
        words = name.replace("_", " ")
        title = f"{workload.pattern} {workload.directories} × {workload.tables}: {words}"
        made.append(Figure.of(f"{title}, stock", [before], "count"))
        made.append(Figure.of(f"{title}, parents", [after], "count", after / before if before else None, "stock order"))
    return made


def main() -> None:
    """Measure all patterns."""
    made = []
    with Lab.boot(kvm="patched", progress=say) as lab:
        lab.start_daemon()
        port = lab.forward(PORT)
        for workload in WORKLOADS.values():
            stock, parents = (measure(lab, port, workload, policy) for policy in ("stock", "parents"))
            made += figures(workload, stock, parents)
    show(made)


if __name__ == "__main__":
    main()
