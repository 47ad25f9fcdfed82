# SPDX-License-Identifier: Apache-2.0
"""One VM: how badly it is hurt, why, and what would fix it."""

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
    of_vm,
    rate,
)
from shadowwatch.view.insight import LARGE_SHARE, THRASHING_SECONDS

RECLAIMED = f"sum({rate(of_vm('shadowwatch_zaps_total', BY_RECLAIM))})"
RECENT = f"sum({rate(of_vm('shadowwatch_recently_parented_zaps_total'))})"
DIRECTORIES_RECLAIMED = f"sum({rate(of_vm('shadowwatch_zaps_total', BY_RECLAIM, DIRECTORIES))})"
LIMIT = f"sum({of_vm('shadowwatch_pages_limit')})"


def _buckets(name: str) -> Query:
    return Query("{{le}}", f"sum by (le) (increase({of_vm(f'{name}_bucket')}[$__rate_interval]))")


WRONG = Row(
    "Is something wrong?",
    (
        Panel(
            "The limit lasts",
            "How long reclaim takes to zap as many pages as the limit allows at this rate. Below"
            f" {THRASHING_SECONDS:g} seconds the VM thrashes. No value: nothing is reclaimed.",
            "stat",
            "s",
            (Query("limit", f"{LIMIT} / ({RECLAIMED} > 0)"),),
            width=4,
            colours=((0, RED), (THRASHING_SECONDS, YELLOW), (60, GREEN)),
        ),
        Panel(
            "Recently parented",
            "Of the directories that reclaim zapped, how many had been given a child less than one list-length of"
            " allocations ago.",
            "stat",
            "percentunit",
            (Query("share", f"{RECENT} / ({DIRECTORIES_RECLAIMED} > 0)"),),
            width=4,
            colours=((0, GREEN), (LARGE_SHARE, RED)),
        ),
        Panel(
            "Pages reclaimed",
            "Shadow pages per second that reclaim zaps.",
            "stat",
            "suffix:/s",
            (Query("pages", RECLAIMED),),
            width=4,
        ),
        Panel(
            "Of the limit",
            "How full the list is. KVM reclaims when it is full.",
            "stat",
            "percentunit",
            (Query("pages", f"sum({of_vm('shadowwatch_pages')}) / ({LIMIT} > 0)"),),
            width=4,
        ),
        Panel(
            "Order of reclaim",
            "Newest first is the mistake of Linux 5.9 to 5.11.1: what was just faulted in is unmapped first.",
            "stat",
            "none",
            (Query("order", f"max({of_vm('shadowwatch_reclaim_newest_first')})"),),
            width=4,
            colours=NONE_IS_GOOD,
            texts={"0": "oldest first", "1": "newest first"},
        ),
        Panel(
            "Model",
            "Whether the daemon's model equals the kernel's list; if not, pages and ages below are incomplete.",
            "stat",
            "none",
            (Query("exact", f"min({of_vm('shadowwatch_vm_exact')})"),),
            width=4,
            colours=((0, YELLOW), (1, GREEN)),
            texts={"0": "resyncing", "1": "exact"},
        ),
    ),
)

WHY = Row(
    "Why?",
    (
        Panel(
            "Recently parented zaps",
            "Directories per second, by level, that reclaim zapped although a child had just been linked beneath"
            " them. Each unmaps a subtree that is in use.",
            "series",
            "suffix:/s",
            (Query("level {{level}}", f"sum by (level) ({rate(of_vm('shadowwatch_recently_parented_zaps_total'))})"),),
            width=8,
        ),
        Panel(
            "Zaps by cause",
            "Why shadow pages were zapped; quota, resize and shrinker are reclaim.",
            "series",
            "suffix:/s",
            (Query("{{cause}}", f"sum by (cause) ({rate(of_vm('shadowwatch_zaps_total'))})"),),
            width=8,
        ),
        Panel(
            "Allocations and refaults",
            "Pages allocated per second, and those among them for a gfn and role that had been zapped before: work"
            " that a longer or better ordered list would have saved.",
            "series",
            "suffix:/s",
            (
                Query("allocations", f"sum({rate(of_vm('shadowwatch_allocations_total'))})"),
                Query("refaults", f"sum({rate(of_vm('shadowwatch_refaults_total'))})"),
                Query("refaults of directories", f"sum({rate(of_vm('shadowwatch_refaults_total', DIRECTORIES))})"),
            ),
            width=8,
        ),
        Panel(
            "Pages by level",
            "What is on active_mmu_pages, its limit, and how many pages nothing points to any more.",
            "series",
            "none",
            (
                Query("level {{level}}", f"sum by (level) ({of_vm('shadowwatch_pages')})"),
                Query("orphaned", f"sum({of_vm('shadowwatch_orphaned_pages')})"),
                Query("limit", LIMIT),
            ),
            width=8,
        ),
        Panel(
            "Age of parents",
            "Pages allocated between the last child of a directory and its zap by reclaim. Below the limit, a list"
            " in the RFC's order would have kept it.",
            "heatmap",
            "none",
            (_buckets("shadowwatch_parenting_age_allocations"),),
            width=8,
        ),
        Panel(
            "Place on the list",
            "Where on the list the pages were that reclaim chose: 1 is the oldest, where it should look, 0 the newest.",
            "heatmap",
            "none",
            (_buckets("shadowwatch_zap_list_position_ratio"),),
            width=8,
        ),
        Panel(
            "Mapped guest pages",
            "Guest pages of 4 KiB that shadow pages map, where the kernel counts them: deep notches are subtrees that"
            " were unmapped at once.",
            "series",
            "none",
            (Query("mapped", f"sum({of_vm('shadowwatch_mapped_pages')})"),),
            width=12,
        ),
        Panel(
            "Time that reclaim takes",
            "Part of a processor for which reclaim holds the VM's mmu_lock. `shadowwatch cost` measures what the faults"
            " take that build again what it took.",
            "series",
            "percentunit",
            (
                Query("at least", f"sum({rate(of_vm('shadowwatch_reclaim_least_seconds_total'))})"),
                Query("at most", f"sum({rate(of_vm('shadowwatch_reclaim_most_seconds_total'))})"),
            ),
            width=12,
        ),
    ),
)

CURE = Row(
    "What fixes it?",
    (
        estimates.FAULTS,
        Panel(
            "What a higher limit would leave",
            "Refaults per second as they are, and as there would be under so many times today's limit in stock order,"
            " estimated.",
            "series",
            "suffix:/s",
            (Query("× {{times}}", f"sum by (times) ({rate(of_vm('shadowwatch_limit_refaults_total'))})"),),
        ),
        Panel(
            "Pages moved up",
            "Pages per second moved to the head of the list because they were used, beside the links that could be the"
            " reason: 0 moves say that KVM is not patched, or that its reclaim_policy moves none.",
            "series",
            "suffix:/s",
            (
                Query("moves", f"sum({rate(of_vm('shadowwatch_parent_moves_total'))})"),
                Query("links", f"sum({rate(of_vm('shadowwatch_links_total'))})"),
            ),
        ),
        alerts.ON_VM,
    ),
)

TRUST = Row(
    "Can these figures be trusted?",
    (
        Panel(
            "Events lost",
            "Events of this VM per second that never arrived, and how often its list was read again.",
            "series",
            "suffix:/s",
            (
                Query("lost", f"sum({rate(of_vm('shadowwatch_vm_events_lost_total'))})"),
                Query("read again", f"sum({rate(of_vm('shadowwatch_vm_resyncs_total'))})"),
            ),
        ),
        Panel(
            "Audits",
            "List positions per second that audits compared with the kernel's own; those that differ are corrected.",
            "series",
            "suffix:/s",
            (Query("{{result}}", f"sum by (result) ({rate(of_vm('shadowwatch_vm_audit_entries_total'))})"),),
        ),
    ),
)

VM = Dashboard(
    "vm",
    "shadowwatch: VM",
    "One VM whose shadow pages KVM reclaims: how badly it is hurt, why, and what would fix it.",
    (WRONG, WHY, CURE, TRUST),
    one_vm=True,
)
