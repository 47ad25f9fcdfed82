# SPDX-License-Identifier: Apache-2.0
"""The daemon's causes of zaps against the kernel's own stacks."""

from __future__ import annotations

from collections import Counter

from tests.kernel.causes import Trigger
from tests.kernel.watched import Watched, audited
from tests.kernel.witness import ZapStacks, by_cause, recursive
from tests.lab.scrape import Metrics, scrape_until
from tests.lab.workload import Vmm


def zaps(metrics: Metrics) -> Counter[str]:
    """All VMs' zaps by cause, second zaps of roots with those that free a root."""
    causes = Counter({cause: int(count) for cause, count in metrics.by("cause", "zaps_total").items()})
    causes["root_free"] += int(metrics.sum("root_zaps_total"))
    return +causes


def filed_as_the_stack_says(watched: Watched, trigger: Trigger) -> None:
    """Pull a trigger, and compare the daemon's zaps by cause with the kernel's stack traces; then audit."""
    vm = trigger.workload().name
    with Vmm(watched.lab, trigger.workload()) as vmm:
        watched.settled(vm, vmm.finished().counters["mmu_cache_miss"])
        audited(watched, vm)
        with ZapStacks(watched.lab) as stacks:
            before = watched.metrics()
            trigger.pull(watched.lab, vmm)
            counts = stacks.counts()
        witness = by_cause(counts)
        metrics = scrape_until(
            watched.port, lambda metrics: (zaps(metrics) - zaps(before)).total() >= witness.total(), seconds=60
        )
        filed = zaps(metrics) - zaps(before)
        assert filed == +witness, f"filed {dict(filed)}, zapped {dict(witness)}"
        name = "recursive_zaps_total"
        assert metrics.sum(name) - before.sum(name) == recursive(counts)
        if trigger.cause:
            assert witness[trigger.cause] > 0
            assert any(trigger.leads_to(stack) for stack in counts)
        if trigger.name != "teardown":
            audited(watched, vm)
