# SPDX-License-Identifier: Apache-2.0
"""One KVM host: is something wrong, with which VM, why, and what fixes it."""

from __future__ import annotations

from dashboards import alerts, estimates
from dashboards.declarations import (
    BY_RECLAIM,
    DIRECTORIES,
    GREEN,
    NONE_IS_GOOD,
    RED,
    YELLOW,
    Dashboard,
    Panel,
    Query,
    Row,
    of_host,
    of_vm,
    rate,
)
from shadowwatch.view.insight import LARGE_SHARE, THRASHING_SECONDS

RECLAIMED = f"sum by (instance, vm) ({rate(of_vm('shadowwatch_zaps_total', BY_RECLAIM))})"
RECENT = f"sum by (instance, vm) ({rate(of_vm('shadowwatch_recently_parented_zaps_total'))})"
RECLAIMED_DIRECTORIES = f"sum by (instance, vm) ({rate(of_vm('shadowwatch_zaps_total', BY_RECLAIM, DIRECTORIES))})"
SHARE = f"{RECENT} / ({RECLAIMED_DIRECTORIES} > 0)"
LIMIT = f"sum by (instance, vm) ({of_vm('shadowwatch_pages_limit')})"
SPARED = estimates.spared("sum by (instance, vm)")

WRONG = Row(
    "Is something wrong?",
    (
        Panel(
            "Daemon",
            "Whether shadowwatch answers. If not, everything below is out of date.",
            "stat",
            "none",
            (Query("up", f"min({of_host('up')})"),),
            width=4,
            colours=((0, RED), (1, GREEN)),
            texts={"0": "down", "1": "up"},
        ),
        alerts.COUNT,
        Panel(
            "VMs that thrash",
            f"VMs that have more pages reclaimed within {THRASHING_SECONDS:g} seconds than their limit allows at once.",
            "stat",
            "none",
            (Query("VMs", f"count({RECLAIMED} * {THRASHING_SECONDS:g} > {LIMIT}) or vector(0)"),),
            width=4,
            colours=NONE_IS_GOOD,
        ),
        Panel(
            "Order of reclaim",
            "Newest first is the mistake of Linux 5.9 to 5.11.1: what was just faulted in is unmapped first.",
            "stat",
            "none",
            (Query("order", f"max({of_host('shadowwatch_reclaim_newest_first')})"),),
            width=4,
            colours=NONE_IS_GOOD,
            texts={"0": "oldest first", "1": "newest first"},
        ),
        Panel(
            "VMs resyncing",
            "VMs whose list has not been read yet after a start or a loss; their pages and ages are incomplete.",
            "stat",
            "none",
            (Query("VMs", f"count({of_host('shadowwatch_vm_exact')} == 0) or vector(0)"),),
            width=4,
            colours=((0, GREEN), (1, YELLOW)),
        ),
        Panel(
            "Events lost",
            "Events in the time shown that the ring had no room for; counters do not include them.",
            "stat",
            "short",
            (Query("lost", f"sum(increase({of_host('shadowwatch_events_lost_total')}[$__range]))"),),
            width=4,
            colours=((0, GREEN), (1, YELLOW)),
        ),
    ),
)

WHICH = Row(
    "Which VM?",
    (
        Panel(
            "VMs",
            "The worst first: directories zapped by reclaim although a child had just been linked beneath them, and how"
            " many page faults another reclaim policy would save, if the daemon estimates it. A name leads to the VM.",
            "table",
            "short",
            (
                Query("recently parented zaps/s", RECENT),
                Query("of the directories", SHARE, "percentunit"),
                Query("page faults saved/s", SPARED),
                Query("pages reclaimed/s", RECLAIMED),
                Query("pages", f"sum by (instance, vm) ({of_vm('shadowwatch_pages')})"),
                Query("limit", LIMIT),
                Query(
                    "directory refaults/s",
                    f"sum by (instance, vm) ({rate(of_vm('shadowwatch_refaults_total', DIRECTORIES))})",
                ),
            ),
            width=24,
        ),
        Panel(
            "Recently parented zaps",
            "Directories per second that reclaim zapped although a child had been linked beneath them less than one"
            " list-length of allocations ago: the ten VMs with most.",
            "series",
            "suffix:/s",
            (Query("{{vm}}", f"topk(10, {RECENT})"),),
        ),
        Panel(
            "Pages reclaimed",
            "Shadow pages per second that reclaim zapped, directories or not: the ten VMs with most.",
            "series",
            "suffix:/s",
            (Query("{{vm}}", f"topk(10, {RECLAIMED})"),),
        ),
    ),
)

WHY = Row(
    "Why?",
    (
        Panel(
            "Share of the directories",
            "Of the directories that reclaim zapped, how many had just been given a child. From"
            f" {LARGE_SHARE:.0%} on, the order of reclaim is to blame; below, the limit.",
            "series",
            "percentunit",
            (Query("{{vm}}", SHARE),),
            width=8,
            colours=((0, GREEN), (LARGE_SHARE, RED)),
        ),
        Panel(
            "Pages of the limit",
            "How full each VM's list is. KVM reclaims when it is full.",
            "series",
            "percentunit",
            (
                Query(
                    "{{vm}}",
                    f"sum by (instance, vm) ({of_vm('shadowwatch_pages')}) / ({LIMIT} > 0)",
                ),
            ),
            width=8,
        ),
        Panel(
            "Zaps by cause",
            "Why shadow pages were zapped, all VMs together; quota, resize and shrinker are reclaim.",
            "series",
            "suffix:/s",
            (Query("{{cause}}", f"sum by (cause) ({rate(of_vm('shadowwatch_zaps_total'))})"),),
            width=8,
        ),
    ),
)

CURE = Row(
    "What fixes it?",
    (
        alerts.ON_HOST,
        estimates.FAULTS,
        Panel(
            "Host",
            "The MMU that guests use, and the kernel. Shadow paging where the processor could do better is a cure by"
            " itself: see ept, npt and tdp_mmu of KVM's modules.",
            "table",
            "short",
            (
                Query(
                    "",
                    f"{of_host('shadowwatch_paging_info')} * on (job, instance) group_left (kernel, version)"
                    f" {of_host('shadowwatch_build_info')}",
                ),
            ),
        ),
        Panel(
            "Pages moved up",
            "Pages per second moved to the head of a list because they were used: 0 says that KVM is not patched, or"
            " that its reclaim_policy moves none.",
            "series",
            "suffix:/s",
            (Query("{{vm}}", f"sum by (instance, vm) ({rate(of_vm('shadowwatch_parent_moves_total'))})"),),
        ),
    ),
)

TRUST = Row(
    "Can these figures be trusted?",
    (
        Panel(
            "Events",
            "Events per second that were read, and that were lost, by reason.",
            "series",
            "suffix:/s",
            (
                Query("read", f"sum({rate(of_host('shadowwatch_events_received_total'))})"),
                Query("{{reason}}", f"sum by (reason) ({rate(of_host('shadowwatch_events_lost_total'))})"),
            ),
            width=8,
        ),
        Panel(
            "Behind",
            "How long the oldest event of the last batch had waited in the ring.",
            "series",
            "s",
            (Query("behind", f"max({of_host('shadowwatch_events_behind_seconds')})"),),
            width=8,
        ),
        Panel(
            "Daemon's processor time",
            "Of one core.",
            "series",
            "percentunit",
            (Query("of a core", f"sum({rate(of_host('process_cpu_seconds_total'))})"),),
            width=8,
        ),
    ),
)

HOST = Dashboard(
    "host",
    "shadowwatch: host",
    "A KVM host that reclaims shadow pages: is something wrong, with which VM, why, and what fixes it.",
    (WRONG, WHICH, WHY, CURE, TRUST),
)
