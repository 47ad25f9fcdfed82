# SPDX-License-Identifier: Apache-2.0
"""Which process' a VM is and what it is called, however soon that process or a thread of it has ended."""

from __future__ import annotations

import pytest

from tests.kernel.watched import AUDITS, Watched
from tests.lab.machine import Lab
from tests.lab.scrape import PORT, scrape_until
from tests.lab.workload import Vmm, Workload

#: A VM without a vCPU, made by a thread that has ended.
ORPHAN = """\
import fcntl, os, signal, threading
kvm = os.open("/dev/kvm", os.O_RDWR)
maker = threading.Thread(target=fcntl.ioctl, args=(kvm, 0xAE01, 0))  # KVM_CREATE_VM
maker.start()
maker.join()
print(os.getpid(), flush=True)
signal.pause()
"""


def stopped(watched: Watched, then: str) -> None:
    """Do this while the daemon gets no processor time."""
    signal = "systemctl kill --kill-who=main -s"
    watched.lab.run(f"{signal} STOP shadowwatch; {then}; {signal} CONT shadowwatch")


def test_a_vm_that_ended_before_the_daemon_looked_has_its_name(stock: Watched) -> None:
    """Its process is in /proc no more: the name is from the command line that the kernel kept."""
    names = {f"short-{number}" for number in range(8)}
    vmms = (" ".join(Workload(name, directories=1, tables=4, accesses=64).argv()) for name in sorted(names))
    stopped(stock, "; ".join(f"{vmm} </dev/null >/dev/null" for vmm in vmms))
    scrape_until(stock.port, lambda metrics: names <= metrics.by("vm", "vm_info", state="ended").keys())


def test_of_a_long_command_line_the_beginning_counts(stock: Watched) -> None:
    """Four thousand bytes of options behind the name do not hide it, and a name that is cut is none."""
    vmm = " ".join(Workload("x", directories=1, tables=4, accesses=64).argv()[3:])
    long = " ".join(["--seed 1"] * 500)
    cut = "c" * 2000
    stopped(
        stock,
        f"/srv/lab/vmm --name long {vmm} {long} </dev/null >/dev/null;"
        f" /srv/lab/vmm --name {cut} {vmm} </dev/null >/srv/out/cut.json",
    )
    pid = stock.lab.run("grep -o '\"pid\": [0-9]*' /srv/out/cut.json").stdout.split()[-1]
    scrape_until(stock.port, lambda metrics: {"long", pid} <= metrics.by("vm", "vm_info", state="ended").keys())


def test_a_vm_made_by_a_thread_that_ended_is_its_process(stock: Watched) -> None:
    """KVM remembers the thread, which is in /proc no more; pid and name are those of the process."""
    with Vmm(stock.lab, Workload("threaded", accesses=1_000, thread=True)) as vmm:
        reading = vmm.finished()
        metrics = stock.settled("threaded", reading.counters["mmu_cache_miss"])
        assert set(metrics.by("pid", "vm_info", vm="threaded")) == {str(reading.pid)}


@pytest.mark.soak
def test_an_idle_vm_made_by_a_thread_that_ended_is_its_process(bare: Lab) -> None:
    """Also where no probe has ever run in it: it is on the kernel's list of VMs."""
    process = bare.popen(["python3", "-c", ORPHAN])
    assert process.stdout
    pid = process.stdout.readline().strip()
    bare.start_daemon(AUDITS)
    metrics = scrape_until(bare.forward(PORT), lambda metrics: metrics.sum("vm_info", state="running") == 1)
    assert set(metrics.by("pid", "vm_info", state="running")) == {pid}
    bare.run(["kill", pid])
    process.communicate(timeout=30)
