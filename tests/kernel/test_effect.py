# SPDX-License-Identifier: Apache-2.0
"""The metric that this exists for, on the RFC's case: 64 shadow pages."""

from __future__ import annotations

from tests.kernel.watched import Watched
from tests.lab.effect import measure
from tests.lab.workload import WORKLOADS, Vmm, Workload


def test_moving_parents_up_avoids_the_zaps_that_the_metric_counts(patched: Watched) -> None:
    """Same seed, both orders, Zipf 16 × 8: many recently parented zaps against none, at least 10 % fewer faults."""
    stock = measure(patched.lab, patched.port, WORKLOADS["zipf"], "stock")
    parents = measure(patched.lab, patched.port, WORKLOADS["zipf"], "parents")
    assert stock.recently_parented_zaps > 0.5 * stock.directories_reclaimed > 1000
    assert parents.directories_reclaimed > 1000
    assert parents.recently_parented_zaps <= 0.01 * stock.recently_parented_zaps
    assert parents.page_faults <= 0.9 * stock.page_faults


def test_ages_and_positions_account_for_every_reclaim(patched: Watched) -> None:
    """Each page that reclaim zaps is in the position histogram, each parented directory in the age histograms."""
    patched.lab.policy("stock")
    vm = "histograms"
    with Vmm(patched.lab, Workload(vm, accesses=10_000)) as vmm:
        counters = vmm.finished().counters
        metrics = patched.settled(vm, counters["mmu_cache_miss"])
    assert metrics.sum("zap_list_position_ratio_count", vm=vm) == counters["mmu_recycled"]
    levels = metrics.by("level", "parenting_age_allocations_count", vm=vm)
    assert "2" in levels
    for level, ages in levels.items():
        assert ages == metrics.sum("parenting_age_seconds_count", vm=vm, level=level)
        assert ages == metrics.sum("zaps_total", vm=vm, level=level, cause="quota")
        # The list has 64 pages at most, and more than 16 here: what is younger than 16 allocations is recent.
        young = metrics.sum("parenting_age_allocations_bucket", vm=vm, level=level, le="16.0")
        assert young <= metrics.sum("recently_parented_zaps_total", vm=vm, level=level) <= ages
    not_oldest = metrics.sum("zap_list_position_ratio_bucket", vm=vm, le="0.9")
    assert not_oldest < 0.1 * counters["mmu_recycled"]
