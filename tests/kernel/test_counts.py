# SPDX-License-Identifier: Apache-2.0
"""The daemon's counts against the kernel's own, to the page, on a real KVM."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.kernel.watched import Watched
from tests.lab.guest import RealGuest
from tests.lab.machine import Policy
from tests.lab.scrape import Metrics
from tests.lab.workload import WORKLOADS, Vmm, Workload

#: (fixture, reclaim policy): Debian's KVM, and the patched one in both orders.
KVMS: list[tuple[str, Policy | None]] = [("stock", None), ("patched", "stock"), ("patched", "parents")]


def watched_with(request: pytest.FixtureRequest, kvm: str, policy: Policy | None) -> Watched:
    """The lab with this KVM, switched to this policy."""
    watched: Watched = request.getfixturevalue(kvm)
    if policy:
        watched.lab.policy(policy)
    return watched


def agrees(metrics: Metrics, vm: str, counters: Mapping[str, int], policy: Policy | None) -> None:
    """Assert that the daemon and the kernel counted the same, and that nothing was lost or odd."""
    zaps = metrics.sum("zaps_total", vm=vm) + metrics.sum("root_zaps_total", vm=vm)
    allocations = metrics.sum("allocations_total", vm=vm)
    assert (allocations, zaps) == (counters["mmu_cache_miss"], counters["mmu_shadow_zapped"])
    reclaimed = sum(metrics.sum("zaps_total", vm=vm, cause=cause) for cause in ("quota", "resize", "shrinker"))
    assert reclaimed == counters["mmu_recycled"]
    assert metrics.sum("vm_audit_entries_total", vm=vm, result="differing") == 0
    assert metrics.sum("vm_events_lost_total", vm=vm) == 0
    assert metrics.sum("events_lost_total") == 0
    assert metrics.sum("events_undecodable_total") == 0
    assert metrics.sum("vm_unknown_pages_total", vm=vm) == 0
    assert metrics.sum("vm_exact", vm=vm) == 1
    if policy == "parents":
        assert metrics.sum("parent_moves_total", vm=vm) > 0
    else:
        assert metrics.sum("parent_moves_total", vm=vm) == 0
    assert counters["mmu_recycled"] > 0


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize(("kvm", "policy"), KVMS)
def test_a_seeded_workload(request: pytest.FixtureRequest, kvm: str, policy: Policy | None, name: str) -> None:
    """Allocations = mmu_cache_miss, zaps = mmu_shadow_zapped, reclaim = mmu_recycled, for each pattern and order."""
    watched = watched_with(request, kvm, policy)
    vm = f"{name}-{policy}"
    with Vmm(watched.lab, Workload(vm, WORKLOADS[name].pattern, accesses=10_000)) as vmm:
        counters = vmm.finished().counters
        metrics = watched.settled(vm, counters["mmu_cache_miss"])
        agrees(metrics, vm, counters, policy)
        assert metrics.sum("pages_limit", vm=vm) == 64
        on_list = counters["mmu_cache_miss"] - counters["mmu_shadow_zapped"]
        assert metrics.sum("pages", vm=vm) == on_list


@pytest.mark.parametrize(("kvm", "policy"), KVMS)
def test_a_real_linux_guest(request: pytest.FixtureRequest, kvm: str, policy: Policy | None) -> None:
    """A Linux that forks forty processes: page-table writes, unsync pages and roots that come and go."""
    watched = watched_with(request, kvm, policy)
    vm = f"linux-{policy}"
    with RealGuest(watched.lab, name=vm) as guest:
        guest.wait()
        guest.stop()
        counters = guest.counters()
        metrics = watched.settled(vm, counters["mmu_cache_miss"])
        agrees(metrics, vm, counters, policy)
        assert metrics.sum("zaps_total", vm=vm, cause="guest_write") > 0
        assert metrics.sum("zaps_total", vm=vm, cause="other") == 0


def test_the_policy_can_change_while_a_guest_runs(patched: Watched) -> None:
    """Moves begin and end with the policy, and the model stays exact through it."""
    patched.lab.policy("stock")
    moves = []
    with Vmm(patched.lab, Workload("switched", accesses=5_000)) as vmm:
        reading = vmm.finished()
        for policy in ("parents", "stock"):
            patched.lab.policy(policy)
            reading = vmm.again()
            metrics = patched.settled("switched", reading.counters["mmu_cache_miss"])
            moves.append(metrics.sum("parent_moves_total", vm="switched"))
        assert 0 < moves[0] == moves[1]
        agrees(metrics, "switched", reading.counters, "parents")


def test_two_vms_at_once_are_told_apart(patched: Watched) -> None:
    """Their events alternate in one ring; each VM's counts are its own."""
    patched.lab.policy("parents")
    first, second = Workload("twin", accesses=5_000, seed=3), Workload("twin", accesses=8_000, seed=4)
    with Vmm(patched.lab, first) as one, Vmm(patched.lab, second) as two:
        readings = [one.finished(), two.finished()]
        names = set()
        for reading in readings:
            metrics = patched.metrics()
            (vm,) = (
                name
                for name in ("twin", f"twin-{reading.pid}")
                if metrics.sum("vm_info", vm=name, pid=str(reading.pid))
            )
            agrees(patched.settled(vm, reading.counters["mmu_cache_miss"]), vm, reading.counters, "parents")
            names.add(vm)
        assert len(names) == 2
