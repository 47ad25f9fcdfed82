# SPDX-License-Identifier: Apache-2.0
"""Which hooks time KVM's page faults and its reclaim, and timing them with these for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shadowwatch.cost import BUCKETS, Times, VmCost
from shadowwatch.errors import ShadowwatchError
from shadowwatch.probe.attach import load_program
from shadowwatch.probe.host import Host
from shadowwatch.probe.plan import DEFINES, OPTIONAL, Defines, Hook, Plan, Point, make_plan

#: What handles page faults that build shadow pages: of 64-bit and of 32-bit guests, of nested guests under EPT, and of
#: all whose page tables KVM need not read. Plain names in 5.10 to 7.3.
HANDLERS = ("paging64_page_fault", "paging32_page_fault", "ept_page_fault", "direct_page_fault")

_TIMED = ("TASK_EXEC_START", "TASK_RAN")

#: The points of bpf/cost.bpf.c. Entries come last, so that no return of what they see is missed.
COST_POINTS = (
    Point(
        "built",
        (Hook("raw_tracepoint", "kvm_mmu_get_page", "table_built", needs=("SP_TDP_MMU_PAGE",)),),
        "which page faults build page tables",
        needed=True,
    ),
    Point(
        "reclaim return",
        # What is left of it in the clone does the work, in 5.10 to 7.3.
        (Hook("kretprobe", "kvm_mmu_commit_zap_page", "reclaim_ends", clones=(".part.0",)),),
        "what reclaim takes, which is among what page faults take",
    ),
    *(
        Point(f"{handler} return", (Hook("kretprobe", handler, "fault_ends"),), f"page faults in {handler}()")
        for handler in HANDLERS
    ),
    Point(
        "reclaim",
        (
            Hook(
                "kprobe",
                "kvm_mmu_zap_oldest_mmu_pages",
                "reclaim_begins",
                clones=(".isra.0",),
                needs=("KVM_USERSPACE_PID", *_TIMED),
            ),
        ),
        "what reclaim takes, which is among what page faults take",
        by="reclaim return",
    ),
    *(
        Point(
            handler,
            (Hook("kprobe", handler, "fault_begins", needs=_TIMED),),
            f"page faults in {handler}()",
            by=f"{handler} return",
        )
        for handler in HANDLERS
    ),
)

#: Its definitions.
COST_DEFINES: Defines = {
    **{
        name: DEFINES[name]
        for name in ("SP_TDP_MMU_PAGE", "KVM_USERSPACE_PID", "KVM_MM", "TASK_MM", "TASK_TGID", "MM_OWNER")
    },
    "TASK_EXEC_START": ((("task_struct", "se"), ("sched_entity", "exec_start")),),
    "TASK_RAN": ((("task_struct", "se"), ("sched_entity", "sum_exec_runtime")),),
}

#: So many VMs, and threads of theirs, are told apart: what others take is missed.
MAX_VMS, MAX_THREADS = 1024, 16_384


def make_cost_plan(host: Host) -> Plan:
    """Make the plan for this host; ShadowwatchError when its page faults can't be timed."""
    plan = make_plan(host, COST_POINTS, COST_DEFINES)
    if plan.lacks or not any(each.point in HANDLERS for each in plan.attachments):
        tells = plan.lacks[0].tells if plan.lacks else "what page faults take"
        raise ShadowwatchError(
            f"this kernel has no symbol that shows {tells} on Linux {host.release};"
            " boot one that has, such as Debian's 6.1"
        )
    return plan


def measure(plan: Plan, pid: int, wait: Callable[[], object]) -> tuple[list[VmCost], int]:
    """Time the VM of this pid, or all if it is 0, until `wait` returns; the VMs, and how many times were missed.

    Their names are their pids.
    """
    sizes = {"BUCKETS": BUCKETS, "MAX_VMS": MAX_VMS, "MAX_THREADS": MAX_THREADS, "ONLY": pid}
    unknown = {name: 0 for name in COST_DEFINES if name not in OPTIONAL}
    bpf = load_program("cost.bpf.c", plan, {**unknown, **plan.defines, **sizes})
    try:
        switch = bpf["measuring"]
        switch[0] = switch.Leaf(1)
        wait()
        switch[0] = switch.Leaf(0)
        vms = [_vm(key.value, value) for key, value in bpf["vms"].items()]
        return vms, int(bpf["unmeasured"][0].value)
    finally:
        bpf.cleanup()


def _vm(pid: int, value: Any) -> VmCost:
    building, other, reclaim = (Times(each.times, each.ns / 1e9, tuple(each.buckets)) for each in value.of)
    return VmCost(str(pid), pid, building, other, reclaim, value.tables)
