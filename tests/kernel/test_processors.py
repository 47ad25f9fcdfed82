# SPDX-License-Identifier: Apache-2.0
"""Several processors: what one of them does to a list while another walks over it, links, zaps or forgets it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.kernel.watched import Watched, audited, unexpected
from tests.lab.emulator import Hardware
from tests.lab.machine import say
from tests.lab.scrape import Metrics, scrape_until
from tests.lab.snapshot import ready
from tests.lab.workload import Vmm, Workload

#: Audits as often as the daemon has turns for.
OFTEN = "--audit-interval 0.1 --ring-mib 16 --difference /var/lib/shadowwatch/difference.capture"
#: Of each VM of a storm, before that is over; the emulated machine has had enough then.
MANY_AUDITS, STORM_SECONDS = 30, 400.0

#: Between two rounds of some 500 events. With 2 ms, two such VMs make more events than the daemon takes on an emulated
#: machine, so that it never has their lists.
IDLE_MS = 100

#: Of a processor, what all VMs together have on four: the emulator's one thread is each of these in turn, and VMs that
#: are always at work on all of them make twice the events that the daemon takes in its quarter.
SHARE = "100%"
#: Who has started all that is run in the lab.
STARTER = "ssh.service"

#: What the kernel tells its tracers of each flush.
FLUSHED = "/sys/kernel/tracing/events/kvmmmu/kvm_mmu_zap_all_fast"

#: A tree that is larger than its limit, and than a step of a walk; all its vCPUs go through it.
TREE = Workload("tree", "uniform", directories=40, tables=20, accesses=20_000, pages=600, vcpus=4, yields=True)
#: The same, while slots come and go, and the limit goes up and down.
RESTLESS = replace(TREE, name="restless", unrest=True)


@pytest.fixture(
    scope="module",
    params=[2, pytest.param(4, marks=pytest.mark.soak)],
    ids=lambda number: f"{number}-processors",
)
def several(request: pytest.FixtureRequest) -> Iterator[tuple[Watched, int]]:
    """A lab with so many processors."""
    number: int = request.param
    with ready(f"of-{number}", kvm="stock", daemon=OFTEN, hardware=Hardware(processors=number), progress=say) as lab:
        if number > 2:
            lab.run(f"systemctl set-property --runtime {STARTER} CPUQuota={SHARE}")
        yield Watched(lab), number


def storm(watched: Watched, workloads: list[Workload], audits: int, pause_ms: int = 0) -> dict[str, float]:
    """Let these VMs run until each has been audited so often, and return the entries that were the same or differed."""

    def enough(metrics: Metrics) -> bool:
        return all(metrics.sum("vm_audits_total", vm=each.name) >= audits for each in workloads)

    with ExitStack() as running:
        for each in workloads:
            running.enter_context(Vmm(watched.lab, each, rounds=0, pause_ms=pause_ms))
        metrics = scrape_until(watched.port, enough, STORM_SECONDS)
    total = dict.fromkeys(("same", "differing"), 0.0)
    for each in workloads:
        entries = metrics.by("result", "vm_audit_entries_total", vm=each.name)
        say(f"processors: {each.name}: {entries['same']:,.0f} entries the same, {entries['differing']:,.0f} differing")
        assert entries["same"] > 0
        total = {result: total[result] + entries[result] for result in total}
    return total


def edges(watched: Watched, workloads: list[Workload]) -> Iterator[tuple[set[str], set[str]]]:
    """The sptes that point to a page by the model, and by the kernel, where they differed in nothing else.

    The service names the first difference of its time.
    """
    for line in watched.said():
        if any(f"VM {each.name}, position" in line for each in workloads):
            found = re.search(r"model has (.*) parents (.*), kernel has (.*) parents (.*)", line)
            assert found, line
            assert found[1] == found[3], line
            model, kernel = (set(found[side].split(", ")) - {"none"} for side in (2, 4))
            yield model, kernel


def counted(watched: Watched, vmm: Vmm) -> None:
    """The daemon's counts of a VM at rest are the kernel's, and it has lost nothing."""
    counters, vm = vmm.counters(), vmm.workload.name
    metrics = watched.settled(vm, counters["mmu_cache_miss"])
    zaps = metrics.sum("zaps_total", vm=vm) + metrics.sum("root_zaps_total", vm=vm)
    assert metrics.sum("vm_events_lost_total", vm=vm) == 0
    assert (metrics.sum("allocations_total", vm=vm), zaps) == (
        counters["mmu_cache_miss"],
        counters["mmu_shadow_zapped"],
    )
    audited(watched, vm)


@pytest.mark.soak
def test_vms_on_processors_of_their_own(several: tuple[Watched, int]) -> None:
    """Each is counted as the kernel counts it, and the list is the kernel's."""
    watched, number = several
    with ExitStack() as running:
        apart = [Workload(f"apart-{each}", accesses=5_000, seed=each, processor=each) for each in range(number)]
        vmms = [running.enter_context(Vmm(watched.lab, each)) for each in apart]
        for vmm in vmms:
            vmm.finished()
        for vmm in vmms:
            counted(watched, vmm)


@pytest.mark.soak
def test_four_vcpus_of_a_vm(several: tuple[Watched, int]) -> None:
    """They fault in one tree at once, and what they come to is counted and listed as the kernel does it."""
    watched, _ = several
    with Vmm(watched.lab, replace(TREE, accesses=5_000)) as vmm:
        vmm.finished()
        vmm.do("rest")
        counted(watched, vmm)


@pytest.mark.soak
def test_writers_against_walks(several: tuple[Watched, int]) -> None:
    """VMs that thrash on processors of their own, audited all the time."""
    watched, number = several
    vms = [replace(TREE, name=f"storm-{each}", vcpus=1, seed=each, processor=each) for each in range(number)]
    assert storm(watched, vms, MANY_AUDITS)["differing"] == 0


@pytest.mark.soak
def test_walks_without_the_lock_against_writers(several: tuple[Watched, int]) -> None:
    """VMs that are idle most of the time: the lock is mostly free, and is taken while the list is walked."""
    watched, number = several
    vms = [
        Workload(f"now-and-then-{each}", "uniform", accesses=150, pages=64, seed=each, processor=each, yields=True)
        for each in range(number)
    ]
    assert storm(watched, vms, 2 * MANY_AUDITS, pause_ms=IDLE_MS)["differing"] == 0


@pytest.mark.soak
def test_flushes_against_links_and_walks(several: tuple[Watched, int]) -> None:
    """Four vCPUs link pages while slots move and most of the list is obsolete already."""
    watched, _ = several
    assert storm(watched, [RESTLESS], MANY_AUDITS)["differing"] == 0


@pytest.mark.soak
def test_guest_writes_against_flushes(several: tuple[Watched, int]) -> None:
    """Directories are written to while slots move: some of them are obsolete, but still on the list.

    As in README's limits: a flush between a write's event and its lock leaves out one edge, so each flush one at most.
    """
    watched, number = several
    vms = [
        replace(RESTLESS, name=f"rewrites-{each}", rewrites=True, vcpus=1, seed=each, processor=each)
        for each in range(number)
    ]
    watched.lab.run(f"echo hist:keys=common_pid >{FLUSHED}/trigger")
    differing = storm(watched, vms, MANY_AUDITS)["differing"]
    found = re.search(r"Hits: (\d+)", watched.lab.run(f"cat {FLUSHED}/hist").stdout)
    assert found
    say(f"processors: {int(found[1]):,} flushes")
    assert differing <= int(found[1])
    for model, kernel in edges(watched, vms):
        assert model < kernel
        assert len(kernel - model) == 1


@pytest.mark.soak
def test_vms_that_end_while_they_are_asked_for(several: tuple[Watched, int]) -> None:
    """They come and go beside one that thrashes; what is left is right, and the daemon has nothing to say of it."""
    watched, number = several
    with Vmm(watched.lab, replace(TREE, name="stays", processor=0), rounds=0):
        for round_ in range(40):
            with ExitStack() as running:
                for each in range(1, number):
                    short = Workload(f"short-{round_}-{each}", accesses=500, processor=each)
                    running.enter_context(Vmm(watched.lab, short)).finished()
        metrics = audited(watched, "stays")
        assert metrics.sum("events_undecodable_total") == 0
    metrics = scrape_until(watched.port, lambda metrics: metrics.sum("vm_info", state="running") == 0)
    differing = metrics.by("vm", "vm_audit_entries_total", result="differing")
    assert not any(differing.values()), differing
    assert unexpected(watched.said()) == []


@pytest.mark.soak
def test_guest_writes_against_other_vcpus(several: tuple[Watched, int]) -> None:
    """As in README's limits: a link or a flush between a write's event and its lock leaves one edge wrong."""
    watched, _ = several
    small = replace(RESTLESS, name="written", directories=8, tables=12, accesses=2_000, pages=64, rewrites=True)
    entries = storm(watched, [small], MANY_AUDITS)
    assert entries["differing"] < 0.01 * entries["same"]
    for model, kernel in edges(watched, [small]):
        assert len(model ^ kernel) <= 2
