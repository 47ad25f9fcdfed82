# SPDX-License-Identifier: Apache-2.0
"""No KVM of the project's harms the kernel, whatever its VMs do at once.

The kernel looks after its lists here: Debian's has CONFIG_DEBUG_LIST, and CONFIG_BUG_ON_DATA_CORRUPTION, which makes a
damaged one a BUG. As to locks the audits have to do: a list that is changed without mmu_lock does not stay what the
events say. Debian builds no kernel with lockdep; patches/README.md has how to run this with one.
"""

from __future__ import annotations

import re
import subprocess
from contextlib import ExitStack
from dataclasses import replace
from typing import get_args

import pytest

from tests.kernel.watched import AUDITS, Watched, audited
from tests.lab.guest import RealGuest
from tests.lab.hosts import HOSTS, Kvm
from tests.lab.machine import Policy, say
from tests.lab.own import SLOWNESS
from tests.lab.scrape import Metrics, scrape_until
from tests.lab.snapshot import ready
from tests.lab.workload import Vmm, Workload

#: For the daemon: an audit of each VM as soon as the one before has ended, and room for bursts.
RESTLESS = f"{AUDITS.replace('0.3', '0.1')} --ring-mib 32"

#: An emulated processor is slow: what the daemon needs of it, it gets.
BEFORE_THE_VMS = "renice -n -10 -p $(ls /proc/$(systemctl show -P MainPID shadowwatch)/task)"

#: What the kernel says of itself when something is wrong with it.
TROUBLE = re.compile(r"WARNING:|BUG:|kernel BUG|Oops|corruption|Call Trace|general protection", re.IGNORECASE)


#: All policies in turn, again and again, with a shrinker at work.
SWITCHING = f"""\
set -e
for turn in $(seq 8); do
    for policy in {" ".join(get_args(Policy))}; do
        echo $policy >/sys/module/kvm/parameters/reclaim_policy
        [ $(cat /sys/module/kvm/parameters/reclaim_policy) = $policy ]
        echo 2 >/proc/sys/vm/drop_caches
        sleep 0.1
    done
done
"""

#: The same of a KVM that has no choice.
SHRINKING = "for turn in $(seq 56); do echo 2 >/proc/sys/vm/drop_caches; sleep 0.1; done"

KVMS = [(host.name, kvm) for host in HOSTS.values() if host.sources for kvm in host.sources.folders]


@pytest.mark.soak
@pytest.mark.parametrize(("host", "kvm"), KVMS)
def test_no_policy_harms_the_kernel(host: str, kvm: Kvm) -> None:
    """All of them in turn, while slots and limits change, the shrinker runs and VMs are killed: all is well."""
    with ready(kvm, host=host, kvm=kvm, daemon=AUDITS, progress=say) as lab:
        lab.start_daemon(RESTLESS)
        lab.run(BEFORE_THE_VMS)
        metrics = is_well_under_load(Watched(lab), SWITCHING if kvm == "patched" else SHRINKING)
    assert (metrics.sum("parent_moves_total", vm="restless") > 0) == (kvm == "patched")


def is_well_under_load(on: Watched, meanwhile: str) -> Metrics:
    """The metrics at the end of it, while this script ran."""
    lab = on.lab
    assert lab.run("grep -m 1 __list_add_valid /proc/kallsyms").stdout  # what CONFIG_DEBUG_LIST adds
    restless = Workload("restless", accesses=2_000, touched=16, vcpus=2, unrest=True)
    large = Workload("large", "uniform", 40, 20, 10_000, pages=600)
    killed = [replace(restless, name=f"killed-{number}") for number in range(2)]
    with ExitStack() as open_now:
        for workload in (restless, large):
            open_now.enter_context(Vmm(lab, workload, rounds=0))
        open_now.enter_context(RealGuest(lab, name="linux", endless=True))
        running = lab.popen(meanwhile, stderr=subprocess.STDOUT)
        for workload in killed:
            with Vmm(lab, workload, rounds=0) as vmm:
                lab.run(["kill", "-KILL", str(vmm.do("stats").pid)])
        said, _ = running.communicate(timeout=120 * SLOWNESS)
        assert running.returncode == 0, said
        for vm in ("restless", "large", "linux"):
            audited(on, vm)
    named = {"restless", "large", "linux", *(workload.name for workload in killed)}

    def all_ended(metrics: Metrics) -> bool:
        return named <= metrics.by("vm", "vm_info", state="ended").keys()

    metrics = scrape_until(on.port, all_ended)
    for name in ("events_lost_total", "events_undecodable_total", "vm_events_lost_total", "vm_unknown_pages_total"):
        assert metrics.sum(name) == 0, name
    assert metrics.sum("vm_audit_entries_total", result="differing") == 0
    # What was meant to happen did. A slot's end may have left the restless ones nothing to tear down, and Linux 6.13
    # has taken the shrinker away (fe140e611d34).
    shrinker = {"shrinker"} if " mmu_shrink_scan" in lab.run("cat /proc/kallsyms").stdout else set()
    for vm, causes in (
        ("restless", {"quota", "resize", "memslot", *shrinker}),
        ("large", {"quota", "teardown", *shrinker}),
        ("linux", {"guest_write", "teardown"}),
    ):
        assert causes <= {cause for cause, zaps in metrics.by("cause", "zaps_total", vm=vm).items() if zaps}
    troubles = [line for line in lab.run("dmesg").stdout.splitlines() if TROUBLE.search(line)]
    assert not troubles
    locks = lab.run("grep -h debug_locks /proc/lockdep_stats", check=False).stdout.split()
    assert locks in ([], ["debug_locks:", "1"])  # without lockdep, or with it still on
    return metrics
