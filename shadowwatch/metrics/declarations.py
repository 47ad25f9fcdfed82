# SPDX-License-Identifier: Apache-2.0
"""Every metric, each one declaration: name, help, labels, and where its values come from.

Names and units follow Prometheus' conventions. No label is unbounded: levels, causes and
kinds are few, and a VM's series go when it has been gone for five minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from shadowwatch import __version__
from shadowwatch.event.abi import Kind
from shadowwatch.event.facts import PAGING
from shadowwatch.metrics.metric import LABELS, DaemonMetric, Samples, Value, VmMetric
from shadowwatch.mmu.tree import LEVELS
from shadowwatch.snapshot import CAUSES, UNKNOWN_LEVEL, Cause, Estimate, VmSnapshot


def _one(value: Value) -> Samples:
    return (((), value),)


def _by_cause(vm: VmSnapshot) -> Samples:
    """A sample for every level and cause of zaps; of reclaim for want of room also one that is 0."""
    levels = (*vm.allocations, *[level for level, _ in vm.zaps])
    zaps = {**{(level, _QUOTA): 0 for level in levels if level != UNKNOWN_LEVEL}, **vm.zaps}
    return [(_LEVELS_AND_CAUSES[each], zaps[each]) for each in sorted(zaps)]


def _directories(vm: VmSnapshot, values: Mapping[int, Value]) -> Samples:
    """A sample for every level of directories that the VM has had: a counter that is 0 is there, too."""
    return [(LABELS[level], values.get(level, 0)) for level in vm.allocations if level > 1]


#: Enumerations are slow, and this is asked of every VM.
_QUOTA = int(Cause.QUOTA)
_LEVELS_AND_CAUSES = {
    (level, int(cause)): (*LABELS[level], cause.name.lower()) for level in range(LEVELS) for cause in CAUSES
}


@cache
def _times(times: float) -> tuple[str, ...]:
    return (f"{times:g}",)


#: What KVM itself did, beside what policies would have done.
AS_RECORDED = "as_recorded"


def _what_if(vm: VmSnapshot, recorded: Callable[[Estimate], int], estimated: Callable[[Estimate], float]) -> Samples:
    """What KVM did, and what each simulated policy would have done."""
    if not vm.what_if:
        return ()
    return [
        ((AS_RECORDED,), recorded(next(iter(vm.what_if.values())))),
        *(((policy,), estimated(of)) for policy, of in vm.what_if.items()),
    ]


VM_METRICS = (
    VmMetric(
        "vm_info",
        "info",
        "The VM: its process, and whether it is running or has ended.",
        lambda vm: (((str(vm.pid), "ended" if vm.ended else "running"), 1),),
        ("pid", "state"),
    ),
    VmMetric(
        "recently_parented_zaps",
        "counter",
        "Directories (shadow pages above level 1) that reclaim zapped soon after a child was linked beneath them: less"
        " than one list-length of allocations later, or less than the configured time.",
        lambda vm: _directories(vm, vm.recently_parented_zaps),
        ("level",),
    ),
    VmMetric(
        "parenting_age_allocations",
        "histogram",
        "Pages allocated from the last time a child was linked beneath a directory to its zap by reclaim.",
        "parenting_age",
        ("level",),
    ),
    VmMetric(
        "parenting_age_seconds",
        "histogram",
        "Time from the last linking of a child beneath a directory to its zap by reclaim.",
        "parenting_age_seconds",
        ("level",),
    ),
    VmMetric(
        "zap_list_position_ratio",
        "histogram",
        "Position on active_mmu_pages of the pages that reclaim chose: 0 is the newest, 1 the oldest.",
        "zap_position",
        ("level",),
    ),
    VmMetric(
        "pages",
        "gauge",
        "Shadow pages on active_mmu_pages, the kernel's list of them.",
        "pages",
        ("level",),
    ),
    VmMetric(
        "pages_limit",
        "gauge",
        "Number of shadow pages above which KVM reclaims (n_max_mmu_pages).",
        "limit",
    ),
    VmMetric(
        "mapped_pages",
        "gauge",
        "Guest memory that shadow pages map, in 4 KiB pages (pages_4k, pages_2m, pages_1g), if the kernel counts it.",
        "mapped",
    ),
    VmMetric(
        "orphaned_pages",
        "gauge",
        "Shadow pages that had a parent and have none now; they stay on the list until reuse or reclaim.",
        "orphans",
    ),
    VmMetric(
        "allocations",
        "counter",
        "Shadow pages allocated (the kernel's mmu_cache_miss); of level unknown are those in events that were lost.",
        "allocations",
        ("level",),
    ),
    VmMetric(
        "zaps",
        "counter",
        "Shadow pages zapped, by cause, each page once. quota, resize and shrinker are reclaim (the kernel's"
        " mmu_recycled); zaps and root_zaps together are the kernel's mmu_shadow_zapped. Of events that were lost the"
        " level is unknown, and the cause reclaim or unknown.",
        _by_cause,
        ("level", "cause"),
    ),
    VmMetric(
        "root_zaps",
        "counter",
        "Roots zapped a second time, after a zap while they were in use.",
        "root_zaps",
    ),
    VmMetric(
        "recursive_zaps",
        "counter",
        "Zaps of pages that went along with their parent; zaps_total counts them too, with the parent's cause.",
        "recursive_zaps",
        ("level",),
    ),
    VmMetric(
        "reclaims",
        "counter",
        "Times that KVM started to reclaim pages.",
        "reclaims",
    ),
    VmMetric(
        "reclaim_least_seconds",
        "counter",
        "Time for which reclaim held mmu_lock, at least: from its beginning to its last zap.",
        "reclaim_least_seconds",
    ),
    VmMetric(
        "reclaim_most_seconds",
        "counter",
        "The same at most: from its beginning to what the fault did next that it made room for.",
        "reclaim_most_seconds",
    ),
    VmMetric(
        "reclaim_newest_first",
        "gauge",
        "1 when reclaim takes the newest pages, as Linux 5.9 to 5.11.1 did by mistake.",
        "newest_first",
    ),
    VmMetric(
        "guest_page_writes",
        "counter",
        "Guest writes to memory that KVM emulated; each may take a parent away from a page.",
        "writes",
    ),
    VmMetric(
        "links",
        "counter",
        "Times that an spte was made to point to a shadow page.",
        "links",
    ),
    VmMetric(
        "parent_moves",
        "counter",
        "Pages moved to the head of active_mmu_pages by mmu_parent_walk (patched KVM).",
        "moves",
    ),
    VmMetric(
        "refaults",
        "counter",
        "Allocations for a gfn and role that had been zapped before.",
        "refaults",
        ("level",),
    ),
    VmMetric(
        "refault_distance_allocations",
        "histogram",
        "Pages allocated from a zap to the next allocation for the same gfn and role.",
        "refault_distance",
    ),
    VmMetric(
        "limit_refaults",
        "counter",
        "Refaults that there would have been under so many times the VM's limit, estimated, since KVM first reclaimed."
        " Once the limit: those that there were, also of pages that were zapped too long ago for refaults.",
        lambda vm: [(_times(limited.times), limited.likely) for limited in vm.limited],
        ("times",),
        needs="limited",
    ),
    VmMetric(
        "vm_exact",
        "gauge",
        "1 while the model equals the kernel's list; 0 after a start or a loss, until the list has been read, and while"
        " events are more than a second behind.",
        "exact",
    ),
    VmMetric(
        "vm_events_lost",
        "counter",
        "Events of this VM that never arrived, counted by their sequence numbers.",
        "lost",
    ),
    VmMetric(
        "vm_resyncs",
        "counter",
        "Times that the model became exact again after a loss, or was corrected by an audit.",
        "resyncs",
    ),
    VmMetric(
        "vm_audits",
        "counter",
        "Times that the model was compared with the kernel's own list.",
        "audits",
    ),
    VmMetric(
        "vm_audit_entries",
        "counter",
        "Positions on the list that audits compared: page, gfn, role and parents.",
        lambda vm: ((("same",), vm.audited - vm.differing), (("differing",), vm.differing)),
        ("result",),
    ),
    VmMetric(
        "vm_unknown_pages",
        "counter",
        "Events about a page that is not in the model although the model is exact.",
        lambda vm: (((Kind(kind).name.lower(),), count) for kind, count in sorted(vm.unknown_pages.items())),
        ("kind",),
        needs="unknown_pages",
    ),
    VmMetric(
        "what_if_faults",
        "counter",
        "Page faults that build page tables, estimated for a reclaim policy (`run --what-if`).",
        lambda vm: _what_if(vm, lambda of: of.recorded_faults, lambda of: of.likely_faults),
        ("policy",),
        needs="what_if",
    ),
    VmMetric(
        "what_if_faults_least",
        "counter",
        "Lower bound of that: assumes that no page zapped earlier than in reality was used again in between.",
        lambda vm: _what_if(vm, lambda of: of.recorded_faults, lambda of: of.faults),
        ("policy",),
        needs="what_if",
    ),
    VmMetric(
        "what_if_faults_most",
        "counter",
        "Upper bound of that: assumes that every page zapped earlier than in reality was used once more in between.",
        lambda vm: _what_if(vm, lambda of: of.recorded_faults, lambda of: of.most_faults),
        ("policy",),
        needs="what_if",
    ),
    VmMetric(
        "what_if_zaps",
        "counter",
        "Pages zapped by reclaim, estimated for a reclaim policy.",
        lambda vm: _what_if(vm, lambda of: of.recorded_zaps, lambda of: of.likely_zaps),
        ("policy",),
        needs="what_if",
    ),
    VmMetric(
        "what_if_refaults",
        "counter",
        "Pages allocated again after such a zap, estimated for a reclaim policy.",
        lambda vm: _what_if(vm, lambda of: of.recorded_refaults, lambda of: of.likely_refaults),
        ("policy",),
        needs="what_if",
    ),
)

DAEMON_METRICS = (
    DaemonMetric(
        "build_info",
        "info",
        "The version of shadowwatch, and the kernel that it watches.",
        lambda _, facts: (((__version__, facts.kernel), 1),),
        ("version", "kernel"),
    ),
    DaemonMetric(
        "paging_info",
        "info",
        "Which MMU the host's guests use; with the TDP MMU there is nothing to watch.",
        lambda _, facts: (((facts.paging, PAGING[facts.paging]), 1),),
        ("mmu", "meaning"),
    ),
    DaemonMetric(
        "table_build_seconds",
        "gauge",
        "What a page fault takes for each page table that it builds, as `shadowwatch cost` measured it last on this"
        " kernel.",
        lambda _, facts: () if facts.table_seconds is None else _one(facts.table_seconds),
    ),
    DaemonMetric(
        "table_fill_seconds",
        "gauge",
        "What faults that build no page table took then, for each that others built: at most what filling it takes.",
        lambda _, facts: () if facts.table_seconds is None else _one(facts.fill_seconds),
    ),
    DaemonMetric(
        "probe_attached",
        "gauge",
        "1 for each probe point that has a probe, with the kernel symbol or tracepoint that it is attached to.",
        lambda _, facts: ((point_and_hook, 1) for point_and_hook in sorted(facts.probes.items())),
        ("point", "hook"),
    ),
    DaemonMetric(
        "vms",
        "gauge",
        "VMs, with or without shadow pages; oversize ones among the running are only counted, since this host has more"
        " shadow pages than are kept.",
        lambda now, _: (
            (("running",), sum(not vm.ended for vm in now.vms)),
            (("oversize",), sum(vm.oversize and not vm.ended for vm in now.vms)),
            (("ended",), sum(vm.ended for vm in now.vms)),
        ),
        ("state",),
    ),
    DaemonMetric(
        "events_received",
        "counter",
        "Events read from the ring.",
        lambda now, _: _one(now.received),
    ),
    DaemonMetric(
        "events_lost",
        "counter",
        "Events that the kernel did not hand over, by reason.",
        lambda now, _: (
            (("ring_full",), now.lost),
            (("too_many_vms",), now.untracked),
            (("probe_missed",), now.missed),
        ),
        ("reason",),
    ),
    DaemonMetric(
        "events_undecodable",
        "counter",
        "Records that this version cannot decode.",
        lambda now, _: _one(now.undecodable),
    ),
    DaemonMetric(
        "events_behind_seconds",
        "gauge",
        "How long the oldest event of the last batch had waited in the ring.",
        lambda now, _: _one(now.behind_ns / 1e9),
    ),
)
