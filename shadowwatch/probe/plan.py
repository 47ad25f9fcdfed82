# SPDX-License-Identifier: Apache-2.0
"""Which hook serves which probe point on which host: pure, facts in, plan out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from shadowwatch.probe.host import Host


@dataclass(frozen=True, slots=True)
class Hook:
    """A way to serve a probe point.

    `kind` is kprobe or raw_tracepoint; `target` the kernel's name; `program` the function in
    bpf/mmu.bpf.c, and `on_return` the one for the target's return. A `patched` hook is for
    the KVM of patches/ alone: names do not tell, for other kernels had functions of these
    names with other arguments. `clones` are the suffixes that compilers gave this function without changing the
    registers that its arguments come in (disassembled: see the line that declares it).
    """

    kind: str
    target: str
    program: str
    patched: bool = False
    clones: tuple[str, ...] = ()
    on_return: str | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A thing to know: without a hook for it, `tells` is what stays unknown."""

    name: str
    hooks: tuple[Hook, ...]
    tells: str
    needed: bool = True


#: The probe points. A probe for a new kernel is one more hook here, the best one first.
POINTS = (
    Point(
        "alloc",
        (
            Hook("kprobe", "kvm_mmu_alloc_page", "probe_alloc_page", patched=True),
            Hook("raw_tracepoint", "kvm_mmu_get_page", "probe_get_page"),
        ),
        "allocations",
    ),
    Point(
        "zap",
        (
            Hook("kprobe", "kvm_mmu_zap_page", "probe_zap", patched=True),
            # A plain symbol with these arguments from 5.4 to 7.3.
            Hook("kprobe", "__kvm_mmu_prepare_zap_page", "probe_zap"),
        ),
        "zaps",
    ),
    Point(
        "link",
        # Since commit 2ff9039a75a8 ("KVM: x86/mmu: Decouple rmap_add() and link_shadow_page()
        # from kvm_vcpu", v6.0); link_shadow_page(vcpu, sptep, sp) before. Debian's 6.1 has
        # .constprop.0, its 6.12 .isra.0: both keep kvm, cache, sptep, sp in rdi, rsi, rdx, rcx.
        (Hook("kprobe", "__link_shadow_page", "probe_link", clones=(".constprop.0", ".isra.0")),),
        "parents and children",
    ),
    Point(
        "move",
        (Hook("kprobe", "mmu_parent_walk", "probe_move", patched=True),),
        "parent moves (patched KVM only)",
        needed=False,
    ),
    Point(
        "reclaim",
        # Plain from 5.10 to 6.12, .isra.0 in 6.18 and 7.3; the VM is in rdi in each.
        (
            Hook(
                "kprobe",
                "kvm_mmu_zap_oldest_mmu_pages",
                "probe_reclaim",
                clones=(".isra.0",),
                on_return="probe_reclaim_return",
            ),
        ),
        "which zaps are reclaim",
    ),
    Point(
        "destroy",
        (Hook("kprobe", "kvm_mmu_uninit_vm", "probe_destroy"),),
        "the end of a VM",
    ),
)


@dataclass(frozen=True, slots=True)
class Attachment:
    """One probe to attach: `symbol` is the kernel's exact name, suffix and all."""

    point: str
    kind: str
    symbol: str
    program: str
    on_return: str | None


@dataclass(frozen=True, slots=True)
class Plan:
    """What to attach, what to compile with, and the points that no hook serves."""

    attachments: tuple[Attachment, ...]
    missing: tuple[Point, ...]
    defines: Mapping[str, int]

    @property
    def lacks(self) -> tuple[Point, ...]:
        """The missing points without which it makes no sense to run."""
        return tuple(point for point in self.missing if point.needed)


def _symbol(hook: Hook, host: Host) -> str | None:
    if hook.patched and not host.patched:
        return None
    if hook.kind == "raw_tracepoint":
        return hook.target if f"__tracepoint_{hook.target}" in host.symbols else None
    for suffix in ("", *hook.clones):
        if hook.target + suffix in host.symbols:
            return hook.target + suffix
    return None


def _defines(layouts: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    page, kvm, arch = layouts["kvm_mmu_page"], layouts["kvm"], layouts["kvm_arch"]
    try:
        return {
            "SP_LINK": page["link"],
            "SP_TDP_MMU_PAGE": page["tdp_mmu_page"],
            "SP_ROLE": page["role"],
            "SP_GFN": page["gfn"],
            "SP_SPT": page["spt"],
            "KVM_USERSPACE_PID": kvm["userspace_pid"],
            "KVM_N_USED_MMU_PAGES": kvm["arch"] + arch["n_used_mmu_pages"],
            "KVM_N_MAX_MMU_PAGES": kvm["arch"] + arch["n_max_mmu_pages"],
            "KVM_ACTIVE_MMU_PAGES": kvm["arch"] + arch["active_mmu_pages"],
        }
    except KeyError:
        return {}


def make_plan(host: Host) -> Plan:
    """Choose the best hook that this host has for each probe point."""
    attachments = []
    missing = []
    for point in POINTS:
        for hook in point.hooks:
            symbol = _symbol(hook, host)
            if symbol:
                attachments.append(Attachment(point.name, hook.kind, symbol, hook.program, hook.on_return))
                break
        else:
            missing.append(point)
    return Plan(tuple(attachments), tuple(missing), _defines(host.layouts))


_CLONE = re.compile(r"\.(?:isra|constprop|part)\.\d+")


def unknown_clones(host: Host) -> tuple[str, ...]:
    """Clones of wanted functions whose registers nobody has checked, so that no probe goes there."""
    known = {hook.target + suffix for point in POINTS for hook in point.hooks for suffix in ("", *hook.clones)}
    wanted = {hook.target for point in POINTS for hook in point.hooks}
    return tuple(
        sorted(name for name in host.symbols if name not in known and _CLONE.sub("", name) in wanted and "." in name)
    )
