# SPDX-License-Identifier: Apache-2.0
"""What `shadowwatch cost` measures, against the kernel's own tracer in the same run, and beside a daemon."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from tests.kernel.durations import Durations, Fault
from tests.kernel.watched import Watched
from tests.lab.cost import measured
from tests.lab.hosts import HOSTS
from tests.lab.machine import Lab
from tests.lab.matrix import cells
from tests.lab.workload import Vmm, Workload

KINDS = ("building", "other", "reclaim")


def seconds_of(faults: Sequence[Fault]) -> dict[str, float]:
    """What the tracer has for each kind, as `cost` has it: reclaim apart."""
    return {
        "building": sum(fault.us - fault.reclaim_us for fault in faults if fault.tables) / 1e6,
        "other": sum(fault.us - fault.reclaim_us for fault in faults if not fault.tables) / 1e6,
        "reclaim": sum(fault.reclaim_us for fault in faults) / 1e6,
    }


def counts_of(faults: Sequence[Fault]) -> dict[str, int]:
    """How many there are of each kind, and pages that they allocated."""
    return {
        "building": sum(fault.tables > 0 for fault in faults),
        "other": sum(fault.tables == 0 for fault in faults),
        "reclaim": sum(fault.reclaims for fault in faults),
        "tables": sum(fault.tables for fault in faults),
    }


def counted(vm: Mapping[str, Any]) -> dict[str, int]:
    """The same of what `cost` says."""
    return {**{kind: vm[kind]["times"] for kind in KINDS}, "tables": vm["tables"]}


@pytest.mark.soak
def test_calls_are_those_of_the_kernels_own_tracer(bare: Lab) -> None:
    """Each fault is filed as the tracer has it, to the last one, and no time is longer than the tracer's.

    Who comes to a function last is called first at its entry and last at its return. Here that is the tracer, so each
    time of ours is within the tracer's, and that has our probes' work on top: not to be told from the fault's in an
    emulator. Reclaim is long enough for that to be within 10 %.
    """
    witness = Durations(bare)

    def run() -> None:
        with witness, Vmm(bare, Workload("timed", accesses=2_000)) as vmm:
            vmm.finished()

    (vm,) = measured(bare, run)["vms"]
    assert counted(vm) == counts_of(witness.faults)
    assert vm["building"]["times"] > 500
    assert vm["reclaim"]["times"] > 20
    theirs = seconds_of(witness.faults)
    assert vm["reclaim"]["seconds"] == pytest.approx(theirs["reclaim"], rel=0.1)
    for kind in ("building", "other"):
        assert 0 < vm[kind]["seconds"] < theirs[kind]


@pytest.mark.soak
@pytest.mark.parametrize("host", [name for name, host in HOSTS.items() if host.runs_guests])
def test_times_are_those_of_the_kernels_own_tracer(host: str) -> None:
    """Within 10 % for each kind, where the clock counts instructions: stock and patched KVM, in every mode.

    Neither is there while the other measures, and the same guest makes the same faults: so each has only its own work
    in its times, between the reading of the clock at entry and that at return.
    """
    chosen = list(cells([host]))
    apart: dict[str, float] = {}
    with Lab.boot(host=host, kvm=chosen[-1].kvm, load=False, icount=True) as lab:
        for cell in chosen:
            lab.load_kvm(cell.kvm, cell.mode)
            spread, nested = cell.mode == "tdp", cell.mode == "nested"
            workload = Workload("timed", accesses=3_000, spread=spread, nested=nested)

            def run(workload: Workload = workload) -> None:
                with Vmm(lab, workload) as vmm:
                    vmm.finished()

            witness = Durations(lab)
            with witness:
                run()
            (vm,) = measured(lab, run)["vms"]
            assert counted(vm) == counts_of(witness.faults), cell
            assert vm["building"]["times"] > 500, cell
            assert vm["reclaim"]["times"] > 20, cell
            for kind, theirs in seconds_of(witness.faults).items():
                what = f"{cell.kvm} {cell.mode} {kind}"
                apart[what] = vm[kind]["seconds"] / theirs - 1
                print(f"{what}: {vm[kind]['times']} times, {apart[what]:+.1%} of the tracer's {theirs:.6f} s")
    assert {what: part for what, part in apart.items() if abs(part) > 0.1} == {}


def test_a_daemon_is_not_disturbed_and_can_read_the_figures(stock: Watched) -> None:
    """It gives the VM its name, and still tells who reclaimed while reclaim is timed."""
    with Vmm(stock.lab, Workload("priced", accesses=2_000, pages=256)) as vmm:
        vmm.finished()

        def shrink() -> None:
            vmm.do("resize 64")
            vmm.again()

        found = measured(stock.lab, shrink, "priced")
        metrics = stock.settled("priced", vmm.counters()["mmu_cache_miss"])
    (vm,) = found["vms"]
    assert vm["vm"] == "priced"
    assert vm["building"]["times"] > 0
    assert vm["reclaim"]["times"] > 1
    for cause in ("resize", "quota"):
        assert metrics.sum("zaps_total", vm="priced", cause=cause) > 0
    done = stock.lab.run("shadowwatch cost nobody", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("shadowwatch: there is no VM nobody")
    kept = json.loads(stock.lab.run("runuser -u shadowwatch -- cat /var/lib/shadowwatch/cost.json").stdout)
    assert kept["faults"] == vm["building"]["times"]
    assert kept["kernel"] == stock.lab.release
    assert kept["fault_seconds"] == pytest.approx(vm["building"]["mean_seconds"])
