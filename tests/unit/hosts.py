# SPDX-License-Identifier: Apache-2.0
"""Hosts for tests: facts as read from Debian's Linux 6.1 (BTF and symbols of 6.1.176-1)."""

from __future__ import annotations

from dataclasses import replace

from shadowwatch.probe.host import Host
from tests.unit.story import ROLE

STOCK = Host(
    release="6.1.0-56-amd64",
    root=True,
    bcc=True,
    bpf=True,
    lockdown=False,
    kprobes=True,
    headers=True,
    btf=True,
    kvm=True,
    kvm_btf=True,
    parameters={"kvm_amd.npt": "N", "kvm.tdp_mmu": "N"},
    symbols=frozenset(
        {
            "__tracepoint_kvm_mmu_get_page",
            "__kvm_mmu_get_shadow_page",
            "__kvm_mmu_prepare_zap_page",
            "__link_shadow_page.constprop.0",
            "kvm_mmu_commit_zap_page.part.0",
            "kvm_mmu_get_child_sp",
            "kvm_mmu_uninit_vm",
            "kvm_mmu_zap_oldest_mmu_pages",
        }
    ),
    layouts={
        "kvm_mmu_page": {"link": 0, "tdp_mmu_page": 32, "role": 36, "gfn": 40, "spt": 48},
        "kvm": {"arch": 4760, "userspace_pid": 40408},
        "kvm_arch": {"n_used_mmu_pages": 0, "n_max_mmu_pages": 16, "active_mmu_pages": 32800},
    },
    role=ROLE,
)

PATCHED = replace(
    STOCK,
    parameters={**STOCK.parameters, "kvm.reclaim_policy": "parents"},
    symbols=(STOCK.symbols - {"__link_shadow_page.constprop.0"})
    | {"kvm_mmu_alloc_page", "kvm_mmu_zap_page", "mmu_parent_walk", "__link_shadow_page"},
)
