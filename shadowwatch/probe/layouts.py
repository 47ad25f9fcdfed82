# SPDX-License-Identifier: Apache-2.0
"""Struct layouts that a kernel does not tell: its BTF has no kvm_mmu_page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: struct -> member -> byte offset.
Layouts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Shipped:
    """Layouts for kernels with (`has`) and without (`lacks`) these members, which BTF of vmlinux tells."""

    kernels: str
    has: tuple[tuple[str, str], ...]
    lacks: tuple[tuple[str, str], ...]
    layouts: Layouts

    def fits(self, layouts: Layouts) -> bool:
        """Whether this is a kernel of that kind."""
        return all(member in layouts.get(struct, {}) for struct, member in self.has) and not any(
            member in layouts.get(struct, {}) for struct, member in self.lacks
        )


#: Debian's 5.10 builds modules without BTF (CONFIG_DEBUG_INFO_BTF_MODULES came with 5f9ae91f7c0d,
#: v5.11). Offsets from arch/x86/kvm/mmu/mmu_internal.h and mmu.c of 5.10.223, root_count checked
#: against its disassembly. Before fe5db27d3601 (v5.10) there was no kvm_arch.tdp_mmu_enabled; since
#: 0193cc908b5a (v5.14) struct kvm_vm_stat begins with `generic`.
SHIPPED = (
    Shipped(
        kernels="5.10",
        has=(("kvm_arch", "tdp_mmu_enabled"), ("kvm_vm_stat", "mmu_shadow_zapped")),
        lacks=(("kvm_vm_stat", "generic"),),
        layouts={
            "kvm_mmu_page": {
                "link": 0,
                "unsync": 48,
                "mmu_valid_gen": 49,
                "role": 52,
                "gfn": 56,
                "spt": 64,
                "parent_ptes": 88,
                "tdp_mmu_page": 164,
            },
            "pte_list_desc": {"sptes": 0, "more": 24},
        },
    ),
)


def completed(layouts: Layouts) -> Layouts:
    """The layouts with what is known of such a kernel, when it does not tell itself."""
    if not layouts.get("kvm_mmu_page"):
        for shipped in SHIPPED:
            if shipped.fits(layouts):
                return {**layouts, **shipped.layouts}
    return layouts
