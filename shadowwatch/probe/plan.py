# SPDX-License-Identifier: Apache-2.0
"""Which hook serves which probe point on which host: pure, facts in, plan out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shadowwatch.probe.host import LOWER_HALF, Host, function_of


@dataclass(frozen=True, slots=True)
class Hook:
    """A way to serve a probe point.

    `kind` is kprobe, kretprobe, raw_tracepoint, or symbol or member, which are only read; `target`
    the kernel's name; `program` the function in bpf/ that is attached, if any; it makes use
    of the definitions in `needs` besides those that all use. A
    `patched` hook is for the KVM of patches/ alone: names do not tell, for other kernels had
    functions of these names with other arguments. `clones` are the suffixes that compilers
    gave this function without changing the registers that its arguments come in
    (disassembled: see the line that declares it).
    """

    kind: str
    target: str
    program: str
    patched: bool = False
    clones: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """A thing to know: without a hook for it, `tells` is what stays unknown.

    Without a `needed` one nothing makes sense; `patched` ones are for a patched KVM alone, and
    one that is `by` another is of no use without that.
    """

    name: str
    hooks: tuple[Hook, ...]
    tells: str
    needed: bool = False
    patched: bool = False
    by: str = ""


#: What a hit of a hook costs KVM before its program begins, in instructions, counted on Linux 6.1 with programs that
#: return at once. fentry would be nearer to the second, but to name a module's function to the kernel takes
#: CAP_SYS_ADMIN, which the service is not given.
HIT_INSTRUCTIONS = {"kprobe": 300, "raw_tracepoint": 50}

_WALK = ("KVM_VM_LIST", "SP_PARENT_PTES", "DESC_MORE", "DESC_SPTES")

#: The probe points; `shadowwatch cost` has its own in cost.py. A probe for a new kernel is one more hook here, the best
#: one first. Why kprobes where fentry would be cheaper: see above, the verifier looks up the name that BTF has,
#: which a clone's symbol has not, and Debian 5.10's kvm.ko has no BTF.
POINTS = (
    Point(
        "alloc",
        (
            Hook("kprobe", "kvm_mmu_alloc_page", "probe_alloc_page", patched=True),
            # (sp, created) in 5.10 to 7.3; attaching to a tracepoint of a module pins that module.
            Hook("raw_tracepoint", "kvm_mmu_get_page", "probe_get_page"),
        ),
        "allocations",
        needed=True,
    ),
    Point(
        "zap",
        (
            Hook("kprobe", "kvm_mmu_zap_page", "probe_zap_page", patched=True),
            # A plain symbol with these arguments since 83cdb56864bc (v5.1), up to 7.3.
            Hook("kprobe", "__kvm_mmu_prepare_zap_page", "probe_prepare_zap_page"),
        ),
        "zaps",
        needed=True,
    ),
    Point(
        "caller",
        (Hook("kprobe", "__kvm_mmu_prepare_zap_page", "probe_caller", patched=True),),
        "causes of zaps",
        patched=True,
    ),
    Point(
        "link",
        (
            # (sp, sptep, kvm), of patches/upstream.
            Hook("raw_tracepoint", "kvm_mmu_link_page", "probe_link_page"),
            # Since 2ff9039a75a8 (v6.0). Debian's 6.1 has .constprop.0, its 6.12 .isra.0, both
            # with kvm, cache, sptep, sp in rdi, rsi, rdx, rcx; 6.8, 6.18 and 7.3 the plain name.
            Hook("kprobe", "__link_shadow_page", "probe_link", clones=(".constprop.0", ".isra.0")),
            # (vcpu, sptep, sp) before, a plain symbol in 5.4 to 5.15.
            Hook("kprobe", "link_shadow_page", "probe_link_vcpu", needs=("VCPU_KVM",)),
        ),
        "parents and children, and with them recently parented zaps",
    ),
    Point(
        "move",
        (Hook("kprobe", "mmu_parent_walk", "probe_move", patched=True),),
        "parent moves",
        patched=True,
    ),
    Point(
        "reclaim",
        # Since ebdb292dac79 (v5.9), which zaps in batches. Plain from 5.10 to 6.12, .isra.0 in 6.18 and 7.3; the
        # VM is in rdi in each.
        (Hook("kprobe", "kvm_mmu_zap_oldest_mmu_pages", "probe_reclaim", clones=(".isra.0",)),),
        "whether reclaim was by quota, by resize or by the shrinker",
    ),
    Point(
        "flush",
        # (kvm), in 5.10 to 7.3, just before mmu_valid_gen changes.
        (Hook("raw_tracepoint", "kvm_mmu_zap_all_fast", "probe_flush"),),
        "parents that a guest's writes leave alone while all pages are being zapped",
    ),
    Point(
        "flusher",
        (
            Hook("kprobe", "kvm_mmu_zap_all_fast", "probe_flusher"),
            # Its first half since b27622c4eeb1 (v7.3), which inlined the rest.
            Hook("kprobe", "__kvm_mmu_zap_all_fast_front_half", "probe_flusher"),
        ),
        "whether all pages were zapped for a memory slot",
        by="flush",
    ),
    Point(
        "write",
        (
            # Called directly since 932844462ae3 (v6.6), by a notifier before; (vcpu, gpa, …) in both.
            Hook("kprobe", "kvm_mmu_track_write", "probe_write", needs=("VCPU_KVM",)),
            Hook("kprobe", "kvm_mmu_pte_write", "probe_write", needs=("VCPU_KVM",)),
        ),
        "parents that a guest's own page table writes take away",
    ),
    Point(
        "set",
        (
            # (level, gfn, sptep) in 5.10 to 7.3; one of the two is hit for every page that is mapped.
            Hook(
                "raw_tracepoint",
                "kvm_mmu_set_spte",
                "probe_set",
                needs=("TASK_PREEMPT_NOTIFIERS", "VCPU_PREEMPT_NOTIFIER", "VCPU_KVM", "KVM_MMU_LOCK"),
            ),
            # With the memory slot as second argument since 5.16: the program looks at both. Plain in all, 5.4 to 7.3.
            Hook("kprobe", "mmu_set_spte", "probe_set_spte", needs=("VCPU_KVM",)),
        ),
        "parents that huge pages take away",
    ),
    Point(
        "destroy",
        (Hook("kprobe", "kvm_mmu_uninit_vm", "probe_destroy"),),
        "the end of a VM",
    ),
    Point(
        "walk",
        (Hook("kprobe", "__x64_sys_sched_rr_get_interval", "probe_ask", needs=("KVM_MMU_LOCK", *_WALK)),),
        "pages from before the start or a loss, until they are gone; audits",
    ),
    Point(
        "vms",
        (Hook("symbol", "vm_list", ""),),
        "VMs that have been idle since before the start",
        by="walk",
    ),
    Point(
        "mapped",
        (Hook("member", "kvm_vm_stat.pages", "", needs=("KVM_PAGES",)),),
        "how many guest pages are mapped",
    ),
    Point(
        "counts",
        (
            Hook(
                "member",
                "kvm_vm_stat.mmu_cache_miss",
                "",
                needs=("KVM_MMU_CACHE_MISS", "KVM_MMU_SHADOW_ZAPPED", "KVM_MMU_RECYCLED"),
            ),
        ),
        "how many pages were allocated and zapped in events that were lost",
        by="walk",
    ),
    Point(
        "causes",
        # Any function's place tells that the kernel does not hide them (kernel.kptr_restrict).
        (Hook("symbol", "__kvm_mmu_prepare_zap_page", ""),),
        "why pages were zapped, and with it recently parented zaps",
    ),
)

#: name in bpf/ -> where it comes from, as struct members whose offsets add up; of more ways the first that this kernel
#: has.
Defines = Mapping[str, tuple[tuple[tuple[str, str], ...], ...]]

#: Those of bpf/mmu.bpf.c.
DEFINES: Defines = {
    "SP_LINK": ((("kvm_mmu_page", "link"),),),
    "SP_TDP_MMU_PAGE": ((("kvm_mmu_page", "tdp_mmu_page"),),),
    "SP_ROLE": ((("kvm_mmu_page", "role"),),),
    "SP_GFN": ((("kvm_mmu_page", "gfn"),),),
    "SP_SPT": ((("kvm_mmu_page", "spt"),),),
    "SP_PARENT_PTES": ((("kvm_mmu_page", "parent_ptes"),),),
    "DESC_MORE": ((("pte_list_desc", "more"),),),
    "DESC_SPTES": ((("pte_list_desc", "sptes"),),),
    # Since 13236e25ebab (v5.15); before, the first slot that is 0 is the end.
    "DESC_COUNT": ((("pte_list_desc", "spte_count"),),),
    "SP_UNSYNC": ((("kvm_mmu_page", "unsync"),),),
    "SP_MMU_VALID_GEN": ((("kvm_mmu_page", "mmu_valid_gen"),),),
    "KVM_MMU_VALID_GEN": ((("kvm", "arch"), ("kvm_arch", "mmu_valid_gen")),),
    # A struct qrwlock; struct qspinlock before 531810caa9f4 (v5.12); on PREEMPT_RT struct rwbase_rt.
    "KVM_MMU_LOCK": (
        (("kvm", "mmu_lock"), ("kvm.mmu_lock", "raw_lock")),
        (("kvm", "mmu_lock"), ("kvm.mmu_lock", "rlock")),
        (("kvm", "mmu_lock"), ("kvm.mmu_lock", "rwbase"), ("rwbase_rt", "readers")),
    ),
    "KVM_MMU_LOCK_READERS": ((("kvm.mmu_lock", "rwbase"), ("rwbase_rt", "readers")),),
    "KVM_USERSPACE_PID": ((("kvm", "userspace_pid"),),),
    "KVM_VM_LIST": ((("kvm", "vm_list"),),),
    "KVM_MM": ((("kvm", "mm"),),),
    "TASK_MM": ((("task_struct", "mm"),),),
    "TASK_TGID": ((("task_struct", "tgid"),),),
    # Its first is the link of a struct preempt_notifier.
    "TASK_PREEMPT_NOTIFIERS": ((("task_struct", "preempt_notifiers"),),),
    "VCPU_PREEMPT_NOTIFIER": ((("kvm_vcpu", "preempt_notifier"), ("preempt_notifier", "link")),),
    # With CONFIG_MEMCG.
    "MM_OWNER": ((("mm_struct", "owner"),),),
    "MM_ARG_START": ((("mm_struct", "arg_start"),),),
    "MM_ARG_END": ((("mm_struct", "arg_end"),),),
    "KVM_N_USED_MMU_PAGES": (
        (("kvm", "arch"), ("kvm_arch", "n_used_mmu_pages")),
        # A statistic since 02953418a137 (v7.2).
        (("kvm", "stat"), ("kvm_vm_stat", "mmu_shadow_pages")),
    ),
    # Since 71f51d2c3253 (v5.15).
    "KVM_PAGES": ((("kvm", "stat"), ("kvm_vm_stat", "pages")),),
    # Words of 64 bits in all, from 5.4 to 7.3.
    "KVM_MMU_CACHE_MISS": ((("kvm", "stat"), ("kvm_vm_stat", "mmu_cache_miss")),),
    "KVM_MMU_SHADOW_ZAPPED": ((("kvm", "stat"), ("kvm_vm_stat", "mmu_shadow_zapped")),),
    "KVM_MMU_RECYCLED": ((("kvm", "stat"), ("kvm_vm_stat", "mmu_recycled")),),
    "KVM_N_MAX_MMU_PAGES": ((("kvm", "arch"), ("kvm_arch", "n_max_mmu_pages")),),
    "KVM_ACTIVE_MMU_PAGES": ((("kvm", "arch"), ("kvm_arch", "active_mmu_pages")),),
    "VCPU_KVM": ((("kvm_vcpu", "kvm"),),),
}

#: Those whose absence is a way of its own in bpf/mmu.bpf.c.
OPTIONAL = (
    "DESC_COUNT",
    "KVM_PAGES",
    "SP_UNSYNC",
    "SP_MMU_VALID_GEN",
    "KVM_MMU_VALID_GEN",
    "KVM_MMU_LOCK_READERS",
    "KVM_MMU_CACHE_MISS",
    "KVM_MMU_SHADOW_ZAPPED",
    "KVM_MMU_RECYCLED",
    "KVM_MM",
    "TASK_MM",
    "TASK_TGID",
    "MM_OWNER",
    "MM_ARG_START",
    "MM_ARG_END",
)

#: What no probe can do without.
NEEDED = (
    "SP_LINK",
    "SP_TDP_MMU_PAGE",
    "SP_ROLE",
    "SP_GFN",
    "SP_SPT",
    "KVM_USERSPACE_PID",
    "KVM_N_USED_MMU_PAGES",
    "KVM_N_MAX_MMU_PAGES",
    "KVM_ACTIVE_MMU_PAGES",
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """One probe to attach: `symbol` is the kernel's exact name, suffix and all."""

    point: str
    kind: str
    symbol: str
    program: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to attach and to compile with, and the points that no hook serves; of `hidden` ones the place is hidden."""

    attachments: tuple[Attachment, ...]
    missing: tuple[Point, ...]
    defines: Mapping[str, int]
    hidden: frozenset[str] = frozenset()

    @property
    def lacks(self) -> tuple[Point, ...]:
        """The missing points without which it makes no sense to run."""
        return tuple(point for point in self.missing if point.needed)

    @property
    def usable(self) -> bool:
        """Whether all is known that every probe looks at."""
        return all(name in self.defines for name in NEEDED)


def _symbol(hook: Hook, host: Host, defines: Mapping[str, int]) -> str | None:
    if (hook.patched and not host.patched) or any(name not in defines for name in hook.needs):
        return None
    if hook.kind == "member":
        return hook.target
    if hook.kind == "raw_tracepoint":
        return hook.target if f"__tracepoint_{hook.target}" in host.symbols else None
    for suffix in ("", *hook.clones):
        # A symbol to read must have an address, which the kernel may hide.
        address = host.symbols.get(hook.target + suffix)
        if address or (address is not None and hook.kind in ("kprobe", "kretprobe")):
            return hook.target + suffix
    return None


def _defines(host: Host, ways_to: Defines) -> dict[str, int]:
    defines = {}
    for name, ways in ways_to.items():
        for way in ways:
            offsets = [host.layouts.get(struct, {}).get(member) for struct, member in way]
            if None not in offsets:
                defines[name] = sum(offset for offset in offsets if offset)
                break
    if "DESC_COUNT" not in defines and defines.get("DESC_MORE", 0) < defines.get("DESC_SPTES", 0):
        del defines["DESC_SPTES"]  # how many there are is said nowhere, unless they end at `more`
    place = host.symbols.get("mmu_page_zap_pte", 0) & LOWER_HALF
    for name, start, end in host.functions:
        if name == "mmu_page_zap_pte" and start == place:
            defines["MMU_PAGE_ZAP_PTE"], defines["MMU_PAGE_ZAP_PTE_END"] = start, end
    if host.functions:
        # Those who zap are close together; a tracer's places, which may be in their stead, are not among them.
        defines["KVM_CALLERS"] = min(start for _, start, _ in host.functions)
        defines["KVM_CALLERS_END"] = max(end for _, _, end in host.functions)
    return defines


def make_plan(host: Host, points: tuple[Point, ...] = POINTS, ways: Defines = DEFINES) -> Plan:
    """Choose the best hook that this host has for each probe point."""
    defines = _defines(host, ways)
    attachments = []
    missing = []
    served: set[str] = set()
    for point in points:
        for hook in point.hooks:
            symbol = _symbol(hook, host, defines)
            if symbol and (not point.by or point.by in served):
                served.add(point.name)
                attachments.append(Attachment(point.name, hook.kind, symbol, hook.program))
                break
        else:
            if host.patched or not point.patched:
                missing.append(point)
    if "vms" in served:
        defines["VM_LIST"] = host.symbols["vm_list"]
    return Plan(tuple(attachments), tuple(missing), defines, frozenset(p.name for p in missing if _is_hidden(p, host)))


def _is_hidden(point: Point, host: Host) -> bool:
    """Whether a symbol would serve it if the kernel told where that is."""
    return any(hook.kind == "symbol" and host.symbols.get(hook.target) == 0 for hook in point.hooks)


def unknown_clones(host: Host) -> tuple[str, ...]:
    """Clones of wanted functions whose registers nobody has checked, so that no probe goes there."""
    known = {hook.target + suffix for point in POINTS for hook in point.hooks for suffix in ("", *hook.clones)}
    wanted = {hook.target for point in POINTS for hook in point.hooks}
    return tuple(
        sorted(
            name
            for name in host.symbols
            if "." in name and name not in known and "cold" not in name.split(".") and function_of(name) in wanted
        )
    )
