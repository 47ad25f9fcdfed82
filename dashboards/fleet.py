# SPDX-License-Identifier: Apache-2.0
"""All hosts: which of them and which VMs would gain most. From the series alone that docs/fleet.md sends on."""

from __future__ import annotations

from dataclasses import replace

from dashboards import alerts
from dashboards.declarations import GREEN, NONE_IS_GOOD, RED, YELLOW, Dashboard, Panel, Query, Row, of_host, of_vm

ROWS = 20
#: What hosts and VMs are ranked by: page faults that the best policy would save of all FAULTS, where that is estimated,
#: and everywhere the zaps that it would save.
SPARED, FAULTS = "faults_spared:rate5m", "faults:rate5m"
RECENT = "recently_parented_zaps:rate5m"

OF_VM = "sum by (instance, vm)"
OF_HOST = "sum by (instance)"
RUNNING = of_host("shadowwatch_vms", 'state="running"')


def _instance(recorded: str) -> str:
    return of_host(f"instance:shadowwatch_{recorded}")


def _vms(recorded: str) -> str:
    return f"{OF_VM} ({of_vm(f'vm:shadowwatch_{recorded}')})"


def _hosts(recorded: str) -> str:
    return f"{OF_HOST} ({_instance(recorded)})"


def _most(ranked: str, rows: int = ROWS) -> str:
    return f"topk({rows}, {ranked} > 0)"


def _ranking(rank: Query, *others: Query) -> tuple[Query, ...]:
    """The columns of a table: what its rows are ranked by, and what else is known of these."""
    most = _most(rank.expr)
    return replace(rank, expr=most), *(replace(other, expr=f"{other.expr} and {most}") for other in others)


WRONG = Row(
    "Is something wrong?",
    (
        Panel(
            "Hosts up",
            "Hosts whose daemon answers.",
            "stat",
            "none",
            (Query("up", f"sum({of_host('up')})"),),
            width=3,
        ),
        Panel(
            "Hosts down",
            "Nothing is known about their VMs.",
            "stat",
            "none",
            (Query("down", f"count({of_host('up')} == 0) or vector(0)"),),
            width=3,
            colours=((0, GREEN), (1, YELLOW)),
        ),
        alerts.COUNT,
        Panel(
            "VMs",
            "Running VMs, with or without shadow pages.",
            "stat",
            "short",
            (Query("running", f"sum({RUNNING})"),),
            width=3,
        ),
        Panel(
            "VMs that thrash",
            "VMs that have more pages reclaimed within 10 seconds than their limit allows at once.",
            "stat",
            "short",
            (Query("thrash", f"sum({_instance('thrashes:sum')})"),),
            width=3,
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
                    f"sum({_instance(RECENT)}) / (sum({_instance('directory_zaps_by_reclaim:rate5m')}) > 0)",
                ),
            ),
            width=4,
            colours=((0, GREEN), (0.25, RED)),
        ),
        Panel(
            "Page faults saved",
            "Of the page faults that build page tables, how many fewer they would be with the best reclaim policy, on"
            " hosts that estimate it (`run --what-if accessed`). No value: none does. Below 0: they would be more.",
            "stat",
            "percentunit",
            (Query("share", f"sum({_instance(SPARED)}) / (sum({_instance(FAULTS)} and {_instance(SPARED)}) > 0)"),),
            width=4,
        ),
    ),
)

WHICH = Row(
    "Where would another policy help most?",
    (
        Panel(
            "Hosts that would gain most",
            f"The {ROWS} hosts on which another reclaim policy would save most page faults, all their VMs together, of"
            " those that estimate it (`run --what-if accessed`). A host without an estimate is only in the table below."
            " A name leads to the host.",
            "table",
            "suffix:/s",
            _ranking(
                Query("page faults saved", _hosts(SPARED)),
                Query("of the page faults", f"{_hosts(SPARED)} / {_hosts(FAULTS)}", "percentunit"),
                Query("recently parented zaps", _hosts(RECENT)),
                Query("VMs that thrash", _hosts("thrashes:sum"), "none"),
            ),
        ),
        Panel(
            "VMs that would gain most",
            f"The {ROWS} VMs of which another policy would save most page faults, on hosts that estimate it"
            " (`run --what-if accessed`). VMs of other hosts are only in the table below. A name leads to the VM.",
            "table",
            "suffix:/s",
            _ranking(
                Query("page faults saved", _vms(SPARED)),
                Query("of the page faults", f"{_vms(SPARED)} / {_vms(FAULTS)}", "percentunit"),
                Query("recently parented zaps", _vms(RECENT)),
                Query("pages reclaimed", _vms("zaps_by_reclaim:rate5m")),
            ),
        ),
        Panel(
            "Hosts by recently parented zaps",
            f"Of all hosts, with an estimate or without, the {ROWS} with most directories zapped by reclaim although a"
            " child had just been linked beneath them, and how many directories were faulted in again. A host without a"
            " value for page faults saved has no estimate. A name leads to the host.",
            "table",
            "suffix:/s",
            _ranking(
                Query("recently parented zaps", _hosts(RECENT)),
                Query("page faults saved", _hosts(SPARED)),
                Query("directory refaults", _hosts("directory_refaults:rate5m")),
                Query("pages reclaimed", _hosts("zaps_by_reclaim:rate5m")),
                Query("VMs that thrash", _hosts("thrashes:sum"), "none"),
            ),
        ),
        Panel(
            "VMs by recently parented zaps",
            f"Of the VMs of all hosts, with an estimate or without, the {ROWS} with most directories zapped by reclaim"
            " although a child had just been linked beneath them, and how many directories were faulted in again. A VM"
            " without a value for page faults saved has no estimate. A name leads to the VM.",
            "table",
            "suffix:/s",
            _ranking(
                Query("recently parented zaps", _vms(RECENT)),
                Query("of the directories", _vms("recently_parented_zaps:ratio_rate5m"), "percentunit"),
                Query("page faults saved", _vms(SPARED)),
                Query("directory refaults", _vms("directory_refaults:rate5m")),
                Query("pages reclaimed", _vms("zaps_by_reclaim:rate5m")),
            ),
        ),
    ),
)

WHY = Row(
    "Since when?",
    (
        Panel(
            "Page faults saved by host",
            "The ten hosts on which another policy would save most, of those that estimate it.",
            "series",
            "suffix:/s",
            (Query("{{instance}}", _most(_hosts(SPARED), 10)),),
            width=8,
        ),
        Panel(
            "Recently parented zaps by host",
            "The ten hosts with most.",
            "series",
            "suffix:/s",
            (Query("{{instance}}", _most(_hosts(RECENT), 10)),),
            width=8,
        ),
        Panel(
            "Alerts by name",
            "How many of each fire.",
            "series",
            "none",
            (Query("{{alertname}}", f"sum by (alertname) ({of_host('ALERTS', *alerts.FIRING)})"),),
            width=8,
        ),
    ),
)

CURE = Row(
    "What fixes it?",
    (
        alerts.ON_HOST,
        Panel(
            "Kernels",
            "Hosts by kernel and shadowwatch's version: where to start with another kernel.",
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
    "All hosts whose KVM reclaims shadow pages: which of them and which VMs would gain most, and what fixes it.",
    (WRONG, WHICH, WHY, CURE),
    vms="vm:shadowwatch_thrashes:bool",
    one_instance=False,
)
