# SPDX-License-Identifier: Apache-2.0
"""Probes that the kernel passes over while other BPF is at work on their processor."""

from __future__ import annotations

import subprocess

import pytest

from tests.kernel.watched import Watched
from tests.lab.ending import Ending
from tests.lab.machine import Lab, say
from tests.lab.scrape import Metrics, scrape_until
from tests.lab.snapshot import ready
from tests.lab.workload import Vmm, Workload

pytestmark = pytest.mark.soak

VM = "blinded"


class Copies(Ending):
    """A program that copies large values into a BPF map, until the end."""

    def __init__(self, lab: Lab) -> None:
        self._process = lab.popen(["python3", "/srv/shadowwatch/tests/lab/copies.py"], stderr=subprocess.STDOUT)
        assert self._process.stdout
        assert self._process.stdout.readline() == "copies\n"

    def quit(self) -> None:
        """Have it stop."""
        self._process.communicate()


def missed(metrics: Metrics) -> float:
    """How often a probe was passed over."""
    return metrics.sum("events_lost_total", reason="probe_missed")


def differing(metrics: Metrics) -> float:
    """What audits found so far."""
    return metrics.sum("vm_audit_entries_total", vm=VM, result="differing")


def more_audits(watched: Watched, since: Metrics) -> Metrics:
    """The metrics a few audits later."""
    audits = since.sum("vm_audits_total", vm=VM)
    return scrape_until(watched.port, lambda now: now.sum("vm_audits_total", vm=VM) > audits + 5)


def test_probes_that_did_not_run_are_counted_and_the_lists_read_again() -> None:
    """A preemptible kernel runs a VM while another process is in bpf(2): the kernel counts what it passes over then."""
    with ready("missed", host="6.12", kvm="stock", daemon="--audit-interval 0.3", progress=say) as lab:
        watched = Watched(lab)
        lab.run("echo full >/sys/kernel/debug/sched/preempt")
        with Vmm(lab, Workload(VM), rounds=0, pause_ms=5):
            before = scrape_until(watched.port, lambda now: now.sum("vm_audits_total", vm=VM) > 2)
            assert missed(before) == before.sum("vm_resyncs_total", vm=VM) == 0
            assert differing(before) == 0
            with Copies(lab):
                scrape_until(watched.port, lambda now: missed(now) > 100)
            # The last ones may not be counted yet, and until then an audit may find what they left out.
            now, counted = more_audits(watched, watched.metrics()), -1.0
            while missed(now) != counted:
                now, counted = more_audits(watched, now), missed(now)
            assert now.sum("vm_exact", vm=VM) == 1
            assert now.sum("vm_resyncs_total", vm=VM) > 0
            assert now.sum("events_lost_total", reason="ring_full") == 0
            assert differing(more_audits(watched, now)) == differing(now)
        assert any("the kernel passed probes over" in line for line in watched.said())
