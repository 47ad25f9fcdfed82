# SPDX-License-Identifier: Apache-2.0
"""Hosts for tests: facts as read from distributions' kernels (hosts.json names the sources)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from shadowwatch.mmu.cause import CALLERS
from shadowwatch.probe.host import Host, function_of
from shadowwatch.probe.layouts import completed

RECORDED = json.loads((Path(__file__).parent / "hosts.json").read_text())

#: Of every function in these tests: the space up to the next symbol.
ROOM = 0x1000
_KVM_TEXT = 0xFFFF_FFFF_C0A0_0000
_KERNEL_TEXT = 0xFFFF_FFFF_8100_0000

#: Kernel -> its release, those from 5.15 on with BTF for kvm.ko. 4.4 and 4.15 had no BTF at all.
RELEASES = {
    "u4.4": "4.4.0-21-generic",
    "u4.15": "4.15.0-20-generic",
    "u5.4": "5.4.0-26-generic",
    "5.10": "5.10.0-32-amd64",
    "u5.15": "5.15.0-25-generic",
    "6.1": "6.1.0-56-amd64",
    "u6.8": "6.8.0-31-generic",
    "6.12": "6.12.107+deb13-amd64",
    "6.18": "6.18.15+deb13-amd64",
    "7.3": "7.3.4+deb13-amd64",
}

#: What the series of patches/ adds to kvm.ko, and the clone that it does away with.
PATCH = ("kvm_mmu_alloc_page", "kvm_mmu_zap_page", "mmu_parent_walk", "__link_shadow_page")


def kvm_symbols(kernel: str) -> list[str]:
    """The symbols of this kernel's kvm.ko, clones with their suffixes."""
    found = []
    for name, kernels in RECORDED["symbols"].items():
        for word in kernels.split():
            of, suffixes = word.split(":")
            if of == kernel:
                found += [name + suffix.removeprefix("Y") for suffix in suffixes.split(",")]
    tracepoints = ("kvm_mmu_get_page", "kvm_mmu_set_spte", "kvm_mmu_zap_all_fast")
    return [*found, *(f"__tracepoint_{name}" for name in tracepoints), "vm_list"]


def with_symbols(host: Host, names: Mapping[str, int]) -> Host:
    """The host with these symbols and no others, and the functions that they make."""
    functions = tuple(
        (function_of(name), address & 0xFFFF_FFFF, address + ROOM & 0xFFFF_FFFF)
        for name, address in sorted(names.items())
        if address and function_of(name) in CALLERS
    )
    return replace(host, symbols=dict(names), functions=functions)


def _host(kernel: str, patched: bool = False) -> Host:
    names = kvm_symbols(kernel)
    if patched:
        names = [name for name in names if function_of(name) != "__link_shadow_page"] + list(PATCH)
    addresses = {name: _KVM_TEXT + ROOM * number for number, name in enumerate(sorted(names))}
    if kernel != "u4.4" and kernel != "u4.15":  # since fa697140f9a2 (v4.17) system calls have names of their own
        addresses["__x64_sys_sched_rr_get_interval"] = _KERNEL_TEXT
    bare = Host(
        release=RELEASES[kernel],
        root=True,
        bcc=True,
        bpf=True,
        lockdown=False,
        kprobes=True,
        headers=True,
        btf=kernel in RECORDED["layouts"] or kernel == "u5.4",
        kvm=True,
        parameters={"kvm_amd.npt": "N", "kvm.tdp_mmu": "N"} | ({"kvm.reclaim_policy": "parents"} if patched else {}),
        symbols={},
        functions=(),
        layouts=completed(RECORDED["layouts"].get(kernel, {})),
        role={field: (bit, width) for field, (bit, width) in RECORDED["roles"].get(kernel, {}).items()},
    )
    return with_symbols(bare, addresses)


HOSTS = {kernel: _host(kernel) for kernel in RELEASES}
HOSTS |= {f"{kernel} patched": _host(kernel, patched=True) for kernel in ("6.1", "6.12", "7.3")}

#: Those that shadowwatch runs on.
WHOLE = {name: host for name, host in HOSTS.items() if name not in ("u4.4", "u4.15", "u5.4")}

STOCK, PATCHED = HOSTS["6.1"], HOSTS["6.1 patched"]
