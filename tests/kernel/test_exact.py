# SPDX-License-Identifier: Apache-2.0
"""The model against the kernel's own list and stacks, through all that can come between them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from shadowwatch.capture.format import Reader
from shadowwatch.event.abi import RECORD, STEP_RECORDS, Event, Flags, Kind, decode
from tests.kernel.causes import TRIGGERS, Trigger
from tests.kernel.filed import filed_as_the_stack_says
from tests.kernel.watched import AUDITS, Watched, audited
from tests.lab.machine import Lab
from tests.lab.scrape import PORT, scrape_until
from tests.lab.workload import Vmm, Workload

#: What a walk can do in one hit of a probe: SHADOWWATCH_STEP_MOST in bpf/event.h.
STEP_MOST = 256

#: A VM that is busy all the time, with more pages than fit in a step of a walk.
BUSY = Workload("busy", "uniform", directories=40, tables=20, accesses=200_000, pages=600)

#: Two VMs of one process, each with a vCPU.
TWINS = """\
import fcntl, os, signal
kvm = os.open("/dev/kvm", os.O_RDWR)
twins = [fcntl.ioctl(kvm, 0xAE01, 0) for _ in range(2)]  # KVM_CREATE_VM
vcpus = [fcntl.ioctl(vm, 0xAE41, 0) for vm in twins]  # KVM_CREATE_VCPU
print(os.getpid(), flush=True)
signal.pause()
"""


@pytest.mark.parametrize("trigger", [each for each in TRIGGERS.values() if not each.nested], ids=lambda each: each.name)
def test_each_cause_is_filed_as_the_kernels_own_stack_says(stock: Watched, trigger: Trigger) -> None:
    """The daemon's zaps by cause are those of the kernel's stack traces, counted by a slow reading of each."""
    filed_as_the_stack_says(stock, trigger)


def test_recently_parented_counts_reclaim_only(stock: Watched) -> None:
    """A memory slot that goes takes directories along that had just been given children: none of them counts."""
    with Vmm(stock.lab, Workload("slots", accesses=2_000, pages=256)) as vmm:
        reading = vmm.finished()
        before = stock.settled("slots", reading.counters["mmu_cache_miss"])
        vmm.do("memslot")
        metrics = scrape_until(stock.port, lambda metrics: metrics.sum("zaps_total", vm="slots", cause="memslot") > 0)
        assert sum(metrics.by("level", "zaps_total", vm="slots", cause="memslot").values()) > 100
        recent = metrics.sum("recently_parented_zaps_total", vm="slots")
        assert recent == before.sum("recently_parented_zaps_total", vm="slots")


def test_vms_that_run_already_are_there_at_once(bare: Lab) -> None:
    """An idle VM and a busy one, whole and in order, at the first scrape; the first audits find no difference."""
    with Vmm(bare, Workload("idle", accesses=3_000)) as idle, Vmm(bare, BUSY, rounds=0):
        counters = idle.finished().counters
        bare.start_daemon(AUDITS)
        watched = Watched(bare)
        metrics = watched.metrics()
        assert metrics.sum("vm_exact", vm="idle") == 1
        assert metrics.sum("vm_exact", vm="busy") == 1
        assert metrics.sum("pages", vm="idle") == counters["mmu_cache_miss"] - counters["mmu_shadow_zapped"]
        assert metrics.sum("pages", vm="busy") > STEP_RECORDS
        audited(watched, "idle")
        audited(watched, "busy")
        assert watched.metrics().sum("events_lost_total") == 0


def test_losses_are_seen_and_repaired_within_a_second(bare: Lab, tmp_path: Path) -> None:
    """A ring of 64 KiB under a storm: when it ends the model is soon exact again, by the kernel's clock."""
    recorder = bare.popen("exec shadowwatch record /srv/out/storm.capture --ring-mib 0.0625 --audit-interval 0.2")
    assert recorder.stdout
    assert "probes on Linux" in recorder.stdout.readline()
    with Vmm(bare, Workload("storm", BUSY.pattern, 40, 20, 60_000, pages=600)) as vmm:
        vmm.finished()
        watched = Watched(bare)
        audited(watched, "storm")
        metrics = watched.metrics()
        bare.run("pkill -INT -f shadowwatch.daemon")
        recorder.communicate(timeout=60)
    shutil.copy(bare.out / "storm.capture", tmp_path)
    assert metrics.sum("vm_events_lost_total", vm="storm") > 0
    assert metrics.sum("vm_resyncs_total", vm="storm") > 0

    last_event = repaired = 0
    with (tmp_path / "storm.capture").open("rb") as file:
        for batch in Reader(file, "storm.capture").batches():
            for event in (Event(*fields) for fields in decode(batch.records)[0]):
                if event.kind < Kind.DESTROY and event.limit in (0, 600):
                    last_event, repaired = event.ns, 0
                # The first whole walk after the storm repairs, the second audits.
                elif event.kind == Kind.STEP and event.kvm and event.limit == 600 and event.flags & Flags.LAST:
                    repaired += 1
                    if repaired == 2 and not event.flags & Flags.VOID:
                        assert event.ns - last_event < 1_000_000_000
                        return
    pytest.fail("the capture has no two walks after the storm")


def test_totals_are_the_kernels_after_a_loss(bare: Lab) -> None:
    """The daemon is stopped through a storm, and its ring is full; when it goes on, no page that came is missing."""
    bare.start_daemon("--ring-mib 0.25")
    watched = Watched(bare)
    with Vmm(bare, Workload("storm", BUSY.pattern, 40, 20, 20_000, pages=600)) as vmm:
        watched.settled("storm", vmm.finished().counters["mmu_cache_miss"])
        bare.run("systemctl kill --signal STOP shadowwatch")
        vmm.again()
        bare.run("systemctl kill --signal CONT shadowwatch")
        counters = vmm.counters()
        metrics = watched.settled("storm", counters["mmu_cache_miss"])
        assert metrics.sum("vm_events_lost_total", vm="storm") > 0
        assert metrics.sum("allocations_total", vm="storm", level="unknown") > 0
        assert metrics.sum("allocations_total", vm="storm") == counters["mmu_cache_miss"]
        zaps = metrics.sum("zaps_total", vm="storm") + metrics.sum("root_zaps_total", vm="storm")
        assert zaps == counters["mmu_shadow_zapped"]
        reclaimed = (metrics.sum("zaps_total", vm="storm", cause=cause) for cause in ("quota", "reclaim"))
        assert sum(reclaimed) == counters["mmu_recycled"]


#: Beneath so many sptes of the root is one directory: no step of a walk has room for all of them.
PARENTS = 400


def parents_of(watched: Watched, vm: str) -> int:
    """The most parents that a page of this VM has, as its tree shows them."""
    pages = json.loads(watched.lab.run(f"shadowwatch tree {vm} --format json").stdout)["pages"]
    return max(len(page["parents"]) for page in pages)


def test_all_parents_of_a_page_are_read(patched: Watched) -> None:
    """Of a VM at rest, and of one whose list is walked as probes come by: audits find no difference."""
    patched.lab.policy("parents")  # which keeps the directory while others are reclaimed
    for rounds in (1, 0):
        vm = f"shared-{rounds}"
        # The moves are four times as many events: pauses leave the emulated machine time for the daemon.
        with Vmm(patched.lab, Workload(vm, "uniform", accesses=300), rounds=rounds, pause_ms=500) as vmm:
            if rounds:
                vmm.finished()
            vmm.do(f"share {PARENTS}")
            for _ in range(2):
                audited(patched, vm)
            assert parents_of(patched, vm) == PARENTS + 1
    patched.lab.policy("stock")


@pytest.mark.soak
def test_a_walk_is_bounded_in_each_hit(bare: Lab, tmp_path: Path) -> None:
    """No step has more records than the bound, also when it is made under mmu_lock in a busy VM."""
    with Vmm(bare, BUSY, rounds=0):
        bare.run("shadowwatch record /srv/out/walks.capture --audit-interval 0.1 --seconds 6")
    shutil.copy(bare.out / "walks.capture", tmp_path)
    steps, longest = 0, 0
    with (tmp_path / "walks.capture").open("rb") as file:
        for batch in Reader(file, "walks.capture").batches():
            assert len(batch.records) % RECORD.size == 0
            for event in (Event(*fields) for fields in decode(batch.records)[0]):
                if event.kind == Kind.STEP and event.kvm:
                    steps += 1
                    longest = max(longest, event.used)
    assert steps > 10
    assert STEP_RECORDS <= longest <= STEP_MOST


def test_a_vm_at_the_address_of_another_is_another(stock: Watched) -> None:
    """One after the other, so that the kernel gives the same memory again: each has its own figures."""
    for number in range(4):
        name = f"reborn-{number}"
        with Vmm(stock.lab, Workload(name, accesses=1_000, seed=number)) as vmm:
            counters = vmm.finished().counters
            metrics = stock.settled(name, counters["mmu_cache_miss"])
            assert metrics.sum("allocations_total", vm=name) == counters["mmu_cache_miss"]
            assert metrics.sum("vm_exact", vm=name) == 1
            assert metrics.sum("vm_events_lost_total", vm=name) == 0
        scrape_until(stock.port, lambda metrics, name=name: metrics.sum("vm_info", vm=name, state="ended") == 1)  # type: ignore[misc]


@pytest.mark.soak
def test_two_vms_of_one_process_are_two(bare: Lab) -> None:
    """They have one pid, and a name each."""
    process = bare.popen(["python3", "-c", TWINS])
    assert process.stdout
    pid = process.stdout.readline().strip()
    bare.start_daemon(AUDITS)
    port = bare.forward(PORT)
    metrics = scrape_until(port, lambda metrics: metrics.sum("vm_info", pid=pid, state="running") == 2)
    assert set(metrics.by("vm", "vm_info", pid=pid)) == {pid, f"{pid}-{pid}"}
    bare.run(["kill", pid])
    process.communicate(timeout=30)


@pytest.mark.soak
def test_it_waits_for_kvm_and_restarts_when_kvm_goes(patched: Watched) -> None:
    """Started before the module is loaded, and again after it was taken away."""
    lab = patched.lab
    lab.run("systemctl stop shadowwatch")
    lab.unload_kvm()
    lab.start_daemon(AUDITS)
    assert "waiting for the kvm module" in lab.run("journalctl -o cat -u shadowwatch -n 3").stdout
    for number in range(2):
        lab.load_kvm("patched")
        scrape_until(patched.port, lambda metrics: metrics.sum("probe_attached") > 0, seconds=120)
        with Vmm(lab, Workload(f"late-{number}", accesses=2_000)) as vmm:
            patched.settled(f"late-{number}", vmm.finished().counters["mmu_cache_miss"])
            audited(patched, f"late-{number}")
        if not number:
            lab.unload_kvm()
    assert "the kvm module was unloaded" in lab.run("journalctl -o cat -u shadowwatch -n 30").stdout


def test_the_newest_first_bug_is_named(patched: Watched) -> None:
    """Reclaim as in 5.9 to 5.11.1: the list position tells at once, and so does the journal."""
    patched.lab.policy("newest")
    with Vmm(patched.lab, Workload("newest", accesses=3_000)) as vmm:
        metrics = patched.settled("newest", vmm.finished().counters["mmu_cache_miss"])
        assert metrics.sum("reclaim_newest_first", vm="newest") == 1
        total = metrics.sum("zap_list_position_ratio_sum", vm="newest")
        assert total / metrics.sum("zap_list_position_ratio_count", vm="newest") < 0.2
        audited(patched, "newest")
    patched.lab.policy("stock")
    with Vmm(patched.lab, Workload("oldest", accesses=3_000)) as vmm:
        metrics = patched.settled("oldest", vmm.finished().counters["mmu_cache_miss"])
        assert metrics.sum("reclaim_newest_first", vm="oldest") == 0
    said = patched.lab.run("journalctl -o cat -u shadowwatch").stdout
    assert "VM newest: reclaim takes the newest pages instead of the oldest" in said
    assert "VM oldest" not in said


@pytest.mark.soak
def test_audit_on_the_command_line(bare: Lab) -> None:
    """A table with a line for each VM, and exit status 0 when there is no difference."""
    with Vmm(bare, Workload("looked-at", accesses=3_000)) as vmm:
        counters = vmm.finished().counters
        done = bare.run("shadowwatch audit --rounds 2 --audit-interval 0.2")
    pages = counters["mmu_cache_miss"] - counters["mmu_shadow_zapped"]
    (line,) = (line.split() for line in done.stdout.splitlines() if line.startswith("looked-at"))
    assert line == ["looked-at", str(pages), "2", str(2 * pages), "0", "0", "0"]
