# SPDX-License-Identifier: Apache-2.0
"""Whoever fills the ring loses first: a storm while nobody reads costs no other VM anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from shadowwatch.event.abi import RECORD
from tests.kernel.watched import Watched
from tests.lab.machine import Lab
from tests.lab.scrape import scrape_until
from tests.lab.workload import Reading, Vmm, Workload

RING_MIB = 0.5
#: What the ring holds.
ROOM = int(RING_MIB * (1 << 20)) // RECORD.size

STORM = Workload("storm", "uniform", directories=40, tables=20, accesses=10_000, pages=600)

#: So many VMs are there before, and as many come meanwhile.
QUIET = 10


def quiet(name: str) -> Workload:
    """A VM with a handful of pages."""
    return Workload(name, directories=1, tables=4, accesses=64)


def events(reading: Reading) -> int:
    """Those that its allocations and zaps have made at least."""
    return reading.counters["mmu_cache_miss"] + reading.counters["mmu_shadow_zapped"]


@contextmanager
def stopped(lab: Lab) -> Iterator[None]:
    """The daemon does not run, so nobody reads the ring."""
    lab.run("systemctl kill -s STOP shadowwatch")
    try:
        yield
    finally:
        lab.run("systemctl kill -s CONT shadowwatch")


@pytest.mark.soak
def test_a_storm_while_nobody_reads_costs_nobody_else(bare: Lab) -> None:
    """Twenty VMs that allocate meanwhile, half of them new, lose nothing, stay exact and are not even read again."""
    bare.start_daemon(f"--ring-mib {RING_MIB}")
    watched = Watched(bare)
    with ExitStack() as stack:
        storm = stack.enter_context(Vmm(bare, STORM))
        vmms = {f"old-{number}": stack.enter_context(Vmm(bare, quiet(f"old-{number}"))) for number in range(QUIET)}
        before = storm.finished()
        for name, vmm in vmms.items():
            watched.settled(name, vmm.finished().counters["mmu_cache_miss"])
        watched.settled("storm", before.counters["mmu_cache_miss"])
        assert watched.metrics().sum("events_lost_total") == 0
        with stopped(bare):
            assert events(storm.again()) - events(before) > ROOM
            for vmm in vmms.values():
                vmm.do("memslot")
                vmm.again()
            storm.again()
            for number in range(QUIET):
                name = f"new-{number}"
                vmms[name] = stack.enter_context(Vmm(bare, quiet(name)))
                vmms[name].finished()
            storm.again()
            wanted = {name: vmm.counters()["mmu_cache_miss"] for name, vmm in vmms.items()}
        metrics = scrape_until(
            watched.port,
            lambda metrics: (
                metrics.sum("vm_events_lost_total", vm="storm") > ROOM
                and metrics.sum("vm_exact", vm="storm") == 1
                and wanted.items() <= metrics.by("vm", "allocations_total").items()
            ),
        )
    lost = metrics.by("vm", "vm_events_lost_total")
    lost.pop("storm")
    assert lost == dict.fromkeys(vmms, 0)
    exact = metrics.by("vm", "vm_exact")
    assert exact == dict.fromkeys(["storm", *vmms], 1)
    # A walk over a list would be a resync, or an audit where the model was exact.
    for name in ("vm_resyncs_total", "vm_audits_total"):
        counts = metrics.by("vm", name)
        counts.pop("storm")
        assert counts == dict.fromkeys(vmms, 0)
