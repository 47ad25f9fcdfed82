# SPDX-License-Identifier: Apache-2.0
"""Real size: a VM with tens of thousands of pages, a guest with a thousand processes, a host with a thousand VMs.

How long audits take is said in seconds of the emulated machine, which has other things to do meanwhile.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence

import pytest

from tests.kernel.watched import Watched
from tests.lab.emulator import Hardware
from tests.lab.guest import RealGuest
from tests.lab.machine import Lab, say
from tests.lab.scrape import Metrics, scrape_until
from tests.lab.snapshot import ready
from tests.lab.workload import Vmm, Workload

#: Whole audits of each VM while it runs, and of one at rest.
LOADED, RESTED = 3, 2
#: Which leaves little of the emulated machine to the guests.
AUDITED = "[run]\naudit-interval = 0.3\n"
LIMIT_SECONDS = 400.0

LARGE = Workload("large", "uniform", directories=60, tables=500, accesses=60_000, pages=24_000, vcpus=2, yields=True)
PROCESSES, PROCESSES_PAGES = 1_000, 24_000
VMS = 1_000
#: Each has its 64 pages after its first round, and goes on with a few of them from time to time.
SMALL = Workload("small", "uniform", accesses=100, pages=64, yields=True)
SMALL_PAUSE_MS = 600_000


@pytest.fixture
def large() -> Iterator[Watched]:
    """A lab with the memory for it, in which there are no audits yet."""
    daemon = "--ring-mib 32 --difference /var/lib/shadowwatch/difference.capture"
    with ready("large", kvm="stock", daemon=daemon, hardware=Hardware(memory="6G"), progress=say) as lab:
        yield Watched(lab)


@pytest.fixture
def roomy() -> Iterator[Lab]:
    """The same without the daemon."""
    with ready("roomy", kvm="stock", hardware=Hardware(memory="6G"), progress=say) as lab:
        yield lab


def uptime(lab: Lab) -> float:
    """The emulated machine's clock, in seconds."""
    return float(lab.run("cat /proc/uptime").stdout.split()[0])


def configure(lab: Lab, text: str) -> None:
    """Give the daemon this file of settings."""
    lab.run("cat >/etc/shadowwatch.toml && systemctl reload shadowwatch", stdin=text)


def audits(watched: Watched, vms: Sequence[str], number: int, what: str) -> Metrics:
    """Have each VM audited so often, from whose list none differs, and say how long they took."""
    configure(watched.lab, AUDITED)
    begun, since = watched.metrics().by("vm", "vm_audits_total"), uptime(watched.lab)

    def enough(metrics: Metrics) -> bool:
        done = metrics.by("vm", "vm_audits_total")
        return all(done.get(vm, 0) >= begun.get(vm, 0) + number for vm in vms)

    metrics = scrape_until(watched.port, enough, LIMIT_SECONDS)
    took = uptime(watched.lab) - since
    configure(watched.lab, "")
    pages = metrics.by("vm", "pages")
    results = metrics.by("result", "vm_audit_entries_total")
    done = metrics.by("vm", "vm_audits_total")
    many = sum(done[vm] - begun.get(vm, 0) for vm in vms)
    say(
        f"real size: {what}: {many:,.0f} audits of {len(vms):,} VMs in {took:.1f} s of the emulated machine;"
        f" {sum(pages[vm] for vm in vms):,.0f} pages, {results['same']:,.0f} entries the same so far,"
        f" {results['differing']:,.0f} differing, {metrics.sum('events_received_total'):,.0f} events"
    )
    assert results["differing"] == 0
    assert metrics.sum("events_lost_total") == 0
    return metrics


def counted(watched: Watched, vm: str, counters: Mapping[str, int]) -> None:
    """A VM that rests, alone on its host, is counted as the kernel counts it, and audits of it come to their end."""
    watched.settled(vm, counters["mmu_cache_miss"])
    metrics = audits(watched, [vm], RESTED, "the same at rest")
    zaps = metrics.sum("zaps_total") + metrics.sum("root_zaps_total")
    assert (metrics.sum("allocations_total"), zaps) == (counters["mmu_cache_miss"], counters["mmu_shadow_zapped"])


@pytest.mark.soak
def test_a_vm_with_tens_of_thousands_of_pages(large: Watched) -> None:
    """Reclaim is at work at its limit, and audits of it come to their end all the same; then its counts are right."""
    with Vmm(large.lab, LARGE) as vmm:
        vmm.finished()
        metrics = audits(large, [LARGE.name], LOADED, "one VM, whose second vCPU runs")
        assert metrics.sum("pages", vm=LARGE.name) > 0.99 * LARGE.pages
        counters = vmm.do("rest").counters
        assert counters["mmu_recycled"] > 0
        counted(large, LARGE.name, counters)


@pytest.mark.soak
def test_a_guest_with_a_thousand_processes(large: Watched) -> None:
    """Each has page tables of its own, and others come and go beside them."""
    guest = RealGuest(
        large.lab, name="busy", pages=PROCESSES_PAGES, sleepers=PROCESSES, processes=10, memory=768, endless=True
    )
    with guest:
        guest.wait()
        metrics = audits(large, [guest.name], LOADED, f"{PROCESSES:,} processes, and more that come and go")
        assert metrics.sum("pages", vm=guest.name) > 5 * PROCESSES
        guest.stop()
        counted(large, guest.name, guest.counters())


@pytest.mark.soak
def test_a_thousand_vms(roomy: Lab) -> None:
    """They thrash at their limit, one after another, while `shadowwatch audit` reads and compares the lists of all."""
    command = shlex.join(SMALL.argv(rounds=0, pause_ms=SMALL_PAUSE_MS)).replace(SMALL.name, f'"{SMALL.name}-$1"')
    # They read commands from what they could write to themselves, so that there is no end of it.
    roomy.run(
        "mkfifo /tmp/commands && exec 3<>/tmp/commands\n"
        f"run() {{ {command} <&3 >/dev/null 2>&1 & }}\n"
        f"for number in $(seq {VMS}); do run $number; done"
    )
    deadline = time.monotonic() + LIMIT_SECONDS
    while (there := int(roomy.run("ls /sys/kernel/debug/kvm | grep -c -- - || true").stdout)) < VMS:
        assert time.monotonic() < deadline, f"there are {there} VMs"
        time.sleep(1)
    since = uptime(roomy)
    shown = roomy.run(f"nice -n -5 shadowwatch audit --rounds {RESTED} --ring-mib 32", timeout=LIMIT_SECONDS).stdout
    took = uptime(roomy) - since
    rows = [line.replace(",", "").split() for line in shown.splitlines() if line.startswith(f"{SMALL.name}-")]
    pages, audits, compared, differing, _, lost = (sum(int(row[column]) for row in rows) for column in range(1, 7))
    say(
        f"real size: {VMS:,} VMs: {audits:,} audits in {took:.1f} s of the emulated machine, the start among them;"
        f" {pages:,} pages, {compared:,} entries, {differing:,} differing, {lost:,} events lost"
    )
    assert len(rows) == VMS
    assert all(int(row[2]) >= RESTED for row in rows)
    assert pages > 0.5 * VMS * SMALL.pages
    assert (differing, lost) == (0, 0)
