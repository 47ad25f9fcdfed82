# SPDX-License-Identifier: Apache-2.0
"""What `shadowwatch cost` measures, against the kernel's own tracer in the same run, and beside a daemon."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.kernel.durations import Durations
from tests.kernel.watched import Watched
from tests.lab.lines import line_within
from tests.lab.machine import Lab
from tests.lab.workload import Vmm, Workload

#: To compile and attach.
START_SECONDS = 120.0


def measured(lab: Lab, meanwhile: Callable[[], object], *words: str) -> dict[str, Any]:
    """What it says of the time in which this was done."""
    process = lab.popen(f"exec shadowwatch cost --json --seconds 600 {' '.join(words)}", stderr=subprocess.PIPE)
    said = line_within(START_SECONDS, process, process.stderr)
    assert "measuring for 600 s" in said, said + process.communicate(timeout=START_SECONDS)[1]
    meanwhile()
    lab.run("pkill -INT -f 'shadowwatch cost'")
    out, errors = process.communicate(timeout=START_SECONDS)
    assert (process.returncode, errors) == (0, "")
    found: dict[str, Any] = json.loads(out)
    assert found["missed"] == 0
    return found


def test_times_are_those_of_the_kernels_own_tracer(bare: Lab) -> None:
    """Each fault is counted as one that builds tables or not, as the tracer has it, and times agree within 10 %.

    Both follow the same calls. KVM's function is entered through ftrace, which runs the probe first and the tracer
    then; it returns to the tracer first and then to the probe. So each time of ours contains the tracer's, and the
    tracer's work at both ends: ours is longer, never shorter. What the probes inside a fault take is in both.
    """
    witness = Durations(bare)

    def run() -> None:
        with witness, Vmm(bare, Workload("timed", accesses=3_000)) as vmm:
            vmm.finished()

    (vm,) = measured(bare, run)["vms"]
    building = [fault for fault in witness.faults if fault.tables]
    other = [fault for fault in witness.faults if not fault.tables]
    assert (vm["building"]["times"], vm["other"]["times"]) == (len(building), len(other))
    assert vm["tables"] == sum(fault.tables for fault in building)
    assert vm["reclaim"]["times"] == sum(fault.reclaims for fault in witness.faults)
    theirs = {
        "building": sum(fault.us - fault.reclaim_us for fault in building) / 1e6,
        "other": sum(fault.us - fault.reclaim_us for fault in other) / 1e6,
        "reclaim": sum(fault.reclaim_us for fault in witness.faults) / 1e6,
    }
    for kind, seconds in theirs.items():
        print(f"{kind}: {vm[kind]['times']} times, {vm[kind]['seconds']:.6f} s, by the tracer {seconds:.6f} s")
    assert len(building) > 1000
    assert vm["reclaim"]["times"] > 50
    assert vm["building"]["seconds"] == pytest.approx(theirs["building"], rel=0.1)
    assert vm["reclaim"]["seconds"] == pytest.approx(theirs["reclaim"], rel=0.1)
    assert sum(vm[kind]["seconds"] for kind in theirs) == pytest.approx(sum(theirs.values()), rel=0.1)


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
    zaps = metrics.by("cause", "zaps_total", vm="priced")
    assert zaps["resize"] > 0
    assert zaps["quota"] > 0
    kept = json.loads(stock.lab.run("runuser -u shadowwatch -- cat /var/lib/shadowwatch/cost.json").stdout)
    assert kept["faults"] == vm["building"]["times"]
    assert kept["kernel"] == stock.lab.release
    assert kept["fault_seconds"] == pytest.approx(vm["building"]["mean_seconds"])
