# SPDX-License-Identifier: Apache-2.0
"""KVM's own tests beside the daemon: they come to the same without it, and it has all that they do."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import pytest

from shadowwatch.capture.contents import contents
from shadowwatch.event.abi import Kind
from tests.kernel.watched import Watched, unexpected
from tests.lab import selftests
from tests.lab.cache import Cache, default_root
from tests.lab.machine import Lab, build, say
from tests.lab.snapshot import ready

#: Most of them end in a second or two of the emulated machine.
LIMIT_SECONDS = 240
#: For what the kernel has counted to be in a recording.
SETTLED_SECONDS = 30.0
#: Some compare clocks, which an emulated machine does not have to a microsecond: they fail now and then, also alone.
AGAIN = 3
#: What `timeout` exits with.
TOO_LONG = 124
AUDITS = "--audit-interval 0.1 --ring-mib 32 --difference /var/lib/shadowwatch/difference.capture"
TRACED = "/sys/kernel/tracing/events/kvmmmu"

NAMES = """
    access_tracking_perf_test amx_test cpuid_test cr4_cpuid_sync_test debug_regs demand_paging_test dirty_log_perf_test
    emulator_error_test evmcs_test fix_hypercall_test get_msr_index_features hyperv_clock hyperv_cpuid
    hyperv_features hyperv_svm_test kvm_binary_stats_test kvm_clock_test kvm_create_max_vcpus kvm_page_table_test
    kvm_pv_test max_guest_memory_test max_vcpuid_cap_test memslot_modification_stress_test mmio_warning_test
    monitor_mwait_test nested_exceptions_test nx_huge_pages_test platform_info_test pmu_event_filter_test rseq_test
    set_boot_cpu_id set_memory_region_test set_sregs_test sev_migrate_tests smm_test state_test steal_time
    svm_int_ctl_test svm_nested_shutdown_test svm_nested_soft_inject_test svm_vmcall_test sync_regs_test
    system_counter_offset_test triple_fault_event_test tsc_msrs_test tsc_scaling_sync ucna_injection_test
    userspace_io_test userspace_msr_exit_test vmx_apic_access_test vmx_close_while_nested_test vmx_dirty_log_test
    vmx_exception_with_invalid_guest_state vmx_invalid_nested_guest_state vmx_msrs_test vmx_nested_tsc_scaling_test
    vmx_pmu_caps_test vmx_preemption_timer_test vmx_set_nested_state_test vmx_tsc_adjust_test xapic_ipi_test
    xen_shinfo_test xen_vmcall_test xss_msr_test
"""
COMMANDS = (*NAMES.split(), "dirty_log_test -M dirty-log", "dirty_log_test -M clear-log")
#: On an emulated processor the first three take longer than all others together.
LEFT_OUT = {
    "hardware_disable_test": "512 times a VM with 4 vCPUs and 68 threads, killed at once",
    "memslot_perf_test": "works for 5 seconds on all memory slots that KVM has, six times, once they are made",
    "xapic_state_test": "10,220 interrupt commands, each with its exits",
    # The last page before a full ring may be one round old when it is told of, but not two. When the vCPU gets no turn
    # in a round, that collects no page, and the next one fails: "Set page 130961 value 3 incorrect (iteration=6)".
    "dirty_log_test -M dirty-ring": "fails now and then where the vCPU has little of a processor",
}


@pytest.fixture(scope="module")
def programs() -> Path:
    """All of them, built."""
    return selftests.prepare(Cache(default_root(), say), build(progress=say).kernel)


@pytest.fixture(scope="module")
def alone(programs: Path) -> Iterator[Lab]:
    """A lab without the daemon that has them."""
    with ready("bare", kvm="stock", progress=say) as lab:
        shutil.copytree(programs, lab.out / "selftests")
        yield lab


@pytest.fixture(scope="module")
def beside(programs: Path) -> Iterator[Watched]:
    """A lab with the daemon that has them, and that counts what the kernel tells its tracers."""
    with ready("selftests", kvm="stock", daemon=AUDITS, progress=say) as lab:
        shutil.copytree(programs, lab.out / "selftests")
        lab.run(f"echo hist:keys=created >{TRACED}/kvm_mmu_get_page/trigger")
        lab.run(f"echo hist:keys=common_pid >{TRACED}/kvm_mmu_prepare_zap_page/trigger")
        yield Watched(lab)


def verdict(lab: Lab, test: str) -> int:
    """The exit status of a test: 0 passed, 4 skipped, 254 failed."""
    # The daemon of an emulated machine needs more of it than one of a real machine.
    command = f"cd /tmp && nice -n 19 timeout -k 5 {LIMIT_SECONDS} /srv/out/selftests/{test}"
    done = lab.run(command, check=False, timeout=4 * LIMIT_SECONDS)
    assert done.returncode != TOO_LONG, f"{test} had not ended after {LIMIT_SECONDS} s"
    return done.returncode


def kernels(lab: Lab) -> tuple[int, int]:
    """How many pages the kernel has allocated and zapped, by its trace events, which count VMs that ended, too."""
    found = lab.run(f"cat {TRACED}/kvm_mmu_get_page/hist").stdout
    zapped = lab.run(f"cat {TRACED}/kvm_mmu_prepare_zap_page/hist").stdout
    created, hits = re.search(r"created: +1 \} hitcount: +(\d+)", found), re.search(r"Hits: (\d+)", zapped)
    return int(created[1]) if created else 0, int(hits[1]) if hits else 0


def recorded(path: Path, wanted: tuple[int, int]) -> Mapping[int, int]:
    """The events by kind of a recording that goes on, once it has so many allocations and zaps."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while True:
        # It is empty until the daemon has written for the first time.
        found = contents(str(path)).kinds if path.stat().st_size else {}
        if (found.get(Kind.ALLOC, 0), found.get(Kind.ZAP, 0)) >= wanted or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


@pytest.mark.soak
@pytest.mark.parametrize("test", COMMANDS)
def test_kvms_own_test_beside_the_daemon(alone: Lab, beside: Watched, test: str) -> None:
    """Its verdict is what it is without, each page of its VMs is told of, and no audit finds a difference.

    Some of them make one VM after another, which have one name for the daemon, so a recording counts them.
    """
    capture = f"{test.replace(' ', '')}.capture"
    recorder = beside.lab.popen(f"exec shadowwatch record /srv/out/{capture}", stderr=subprocess.STDOUT)
    assert recorder.stdout
    assert "recording to" in recorder.stdout.readline()
    since = kernels(beside.lab)
    found = verdict(beside.lab, test)
    now = kernels(beside.lab)
    wanted = now[0] - since[0], now[1] - since[1]
    told = recorded(beside.lab.out / capture, wanted)
    beside.lab.run("pkill -INT -f 'shadowwatch record'")
    recorder.communicate(timeout=60)
    say(
        f"selftests: {test} exits {found}: {wanted[0]:,} allocations, {wanted[1]:,} zaps,"
        f" {told.get(Kind.PAGE, 0):,} entries audited"
    )
    assert (told.get(Kind.ALLOC, 0), told.get(Kind.ZAP, 0)) == wanted
    assert beside.metrics().sum("events_lost_total") == 0
    assert unexpected(beside.said()) == []
    expected = verdict(alone, test)
    assert expected in chain([found], (verdict(beside.lab, test) for _ in range(AGAIN)))


@pytest.mark.soak
def test_all_of_them_are_named(programs: Path) -> None:
    """Here, or among those that are left out."""
    assert {path.name for path in programs.iterdir()} == {test.split()[0] for test in (*COMMANDS, *LEFT_OUT)}
