# SPDX-License-Identifier: Apache-2.0
"""All hosts: which of them and which VMs would gain most. From the series alone that docs/fleet.md sends on."""

from __future__ import annotations

from dashboards import alerts
from dashboards.declarations import GREEN, NONE_IS_GOOD, RED, YELLOW, Dashboard, Panel, Query, Row, of_host, of_vm

ROWS = 20
#: What hosts and VMs are ranked by: zaps that moving parents up the list would spare.
RANK = "shadowwatch_recently_parented_zaps:rate5m"

OF_VM = "sum by (instance, vm)"
OF_HOST = "sum by (instance)"
WORST_VMS = f"topk({ROWS}, {OF_VM} ({of_vm(f'vm:{RANK}')}) > 0)"
RUNNING = of_host("shadowwatch_vms", 'state="running"')
WORST_HOSTS = f"topk({ROWS}, {OF_HOST} ({of_host(f'instance:{RANK}')}) > 0)"


def _vms(name: str, recorded: str) -> Query:
    return Query(name, f"{OF_VM} ({of_vm(f'vm:shadowwatch_{recorded}')}) and {WORST_VMS}")


def _hosts(name: str, series: str, *matchers: str) -> Query:
    return Query(name, f"{OF_HOST} ({of_host(series, *matchers)}) and {WORST_HOSTS}")


WRONG = Row(
    "Is something wrong?",
    (
        Panel(
            "Hosts up",
            "Hosts whose daemon answers.",
            "stat",
            "none",
            (Query("up", f"sum({of_host('up')})"),),
            width=4,
        ),
        Panel(
            "Hosts down",
            "Nothing is known of their VMs.",
            "stat",
            "none",
            (Query("down", f"count({of_host('up')} == 0) or vector(0)"),),
            width=4,
            colours=((0, GREEN), (1, YELLOW)),
        ),
        alerts.COUNT,
        Panel(
            "VMs",
            "VMs that run, with shadow pages or without.",
            "stat",
            "short",
            (Query("running", f"sum({RUNNING})"),),
            width=4,
        ),
        Panel(
            "VMs that thrash",
            "VMs of which reclaim takes more pages than their limit within 10 seconds.",
            "stat",
            "short",
            (Query("thrash", f"sum({of_host('instance:shadowwatch_thrashes:sum')})"),),
            width=4,
            colours=NONE_IS_GOOD,
        ),
        Panel(
            "Recently parented",
            "Of all directories that reclaim zapped, how many had just been given a child.",
            "stat",
            "percentunit",
            (
                Query(
                    "share",
                    f"sum({of_host(f'instance:{RANK}')})"
                    f" / (sum({of_host('instance:shadowwatch_directory_zaps_by_reclaim:rate5m')}) > 0)",
                ),
            ),
            width=4,
            colours=((0, GREEN), (0.25, RED)),
        ),
    ),
)

WHICH = Row(
    "Where would moving parents up help most?",
    (
        Panel(
            "Worst hosts",
            f"The {ROWS} hosts with most directories zapped by reclaim although a child had just been linked beneath"
            " them, and how many directories were faulted in again. A name leads to the host.",
            "table",
            "suffix:/s",
            (
                Query("recently parented zaps", WORST_HOSTS),
                _hosts("directory refaults", "instance:shadowwatch_directory_refaults:rate5m"),
                _hosts("pages reclaimed", "instance:shadowwatch_zaps_by_reclaim:rate5m"),
                Query(
                    "VMs that thrash",
                    f"{OF_HOST} ({of_host('instance:shadowwatch_thrashes:sum')}) and {WORST_HOSTS}",
                    "none",
                ),
            ),
        ),
        Panel(
            "Worst VMs",
            f"The {ROWS} VMs with most directories zapped by reclaim although a child had just been linked beneath"
            " them, and how many directories were faulted in again. A name leads to the VM.",
            "table",
            "suffix:/s",
            (
                Query("recently parented zaps", WORST_VMS),
                Query(
                    "of the directories",
                    f"{OF_VM} ({of_vm('vm:shadowwatch_recently_parented_zaps:ratio_rate5m')}) and {WORST_VMS}",
                    "percentunit",
                ),
                _vms("directory refaults", "directory_refaults:rate5m"),
                _vms("pages reclaimed", "zaps_by_reclaim:rate5m"),
            ),
        ),
    ),
)

WHY = Row(
    "Since when?",
    (
        Panel(
            "Recently parented zaps by host",
            "The ten hosts with most.",
            "series",
            "suffix:/s",
            (Query("{{instance}}", f"topk(10, {OF_HOST} ({of_host(f'instance:{RANK}')}))"),),
        ),
        Panel(
            "Alerts by name",
            "How many of each fire.",
            "series",
            "none",
            (Query("{{alertname}}", f"sum by (alertname) ({of_host('ALERTS', *alerts.FIRING)})"),),
        ),
    ),
)

CURE = Row(
    "What cures it?",
    (
        alerts.ON_HOST,
        Panel(
            "Kernels",
            "Hosts by kernel and shadowwatch's version: where to begin with another kernel.",
            "table",
            "none",
            (Query("hosts", f"count by (kernel, version) ({of_host('shadowwatch_build_info')})"),),
        ),
        Panel(
            "MMUs",
            "Hosts by the MMU that their guests use. With the TDP MMU there is nothing to reclaim.",
            "table",
            "none",
            (Query("hosts", f"count by (mmu, meaning) ({of_host('shadowwatch_paging_info')})"),),
        ),
    ),
)

FLEET = Dashboard(
    "fleet",
    "shadowwatch: fleet",
    "All hosts whose KVM reclaims shadow pages: which of them and which VMs would gain most, and what cures it.",
    (WRONG, WHICH, WHY, CURE),
    vms="vm:shadowwatch_thrashes:bool",
    one_instance=False,
)
