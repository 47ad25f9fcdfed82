# SPDX-License-Identifier: Apache-2.0
"""What this host is, read once; facts only, the rules are in plan.py and checks.py."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shadowwatch.probe.btf import Btf, BtfError

#: The structs that the probes look into, and which of their members (see bpf/mmu.bpf.c).
LAYOUTS = {
    "kvm_mmu_page": ("link", "tdp_mmu_page", "role", "gfn", "spt"),
    "kvm": ("arch", "userspace_pid"),
    "kvm_arch": ("n_used_mmu_pages", "n_max_mmu_pages", "active_mmu_pages"),
}
ROLE = "kvm_mmu_page_role"

_SYMBOL = re.compile(
    rb"^[0-9a-f]+ [a-zA-Z] (\w*(?:kvm_mmu|shadow_page|mmu_parent_walk)[\w.]*)(?:\t\[kvm\])?$", re.MULTILINE
)
_PARAMETERS = (
    ("kvm", "tdp_mmu"),
    ("kvm", "reclaim_policy"),
    ("kvm_amd", "npt"),
    ("kvm_intel", "ept"),
)


@dataclass(frozen=True, slots=True)
class Host:
    """Facts; what this host lacks is empty.

    `parameters` maps "module.parameter" to its value, `layouts` a struct to its members'
    byte offsets, `role` the role's fields to (first bit, width).
    """

    release: str
    root: bool
    bcc: bool
    bpf: bool
    lockdown: bool
    kprobes: bool
    headers: bool
    btf: bool
    kvm: bool
    kvm_btf: bool
    parameters: Mapping[str, str]
    symbols: frozenset[str]
    layouts: Mapping[str, Mapping[str, int]]
    role: Mapping[str, tuple[int, int]]

    @property
    def patched(self) -> bool:
        """Whether this KVM carries the patch series of patches/: only that has the parameter."""
        return "kvm.reclaim_policy" in self.parameters


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _symbols(root: Path) -> frozenset[str]:
    try:
        text = (root / "proc/kallsyms").read_bytes()
    except OSError:
        return frozenset()
    return frozenset(name.decode() for name in _SYMBOL.findall(text))


def _layouts(root: Path) -> tuple[Btf | None, Btf | None]:
    folder = root / "sys/kernel/btf"
    try:
        vmlinux = Btf.load(folder / "vmlinux")
    except (OSError, BtfError):
        return None, None
    try:
        return vmlinux, Btf.load(folder / "kvm", vmlinux)
    except (OSError, BtfError):
        return vmlinux, None


def gather(root: Path = Path("/")) -> Host:
    """Read this host's facts; nothing is changed, and nothing that is missing is an error."""
    release = _read(root / "proc/sys/kernel/osrelease") or os.uname().release
    vmlinux, kvm = _layouts(root)
    types = kvm or vmlinux
    members = {name: types.members(name) if types else {} for name in (*LAYOUTS, ROLE)}
    parameters = {
        f"{module}.{name}": value
        for module, name in _PARAMETERS
        if (value := _read(root / "sys/module" / module / "parameters" / name)) is not None
    }
    return Host(
        release=release,
        root=os.geteuid() == 0,
        bcc=find_spec("bcc") is not None,
        bpf=(root / "proc/sys/kernel/unprivileged_bpf_disabled").exists(),
        lockdown="[confidentiality]" in (_read(root / "sys/kernel/security/lockdown") or ""),
        kprobes=(root / "sys/bus/event_source/devices/kprobe").exists(),
        headers=(root / "lib/modules" / release / "build/include").is_dir()
        or (root / "sys/kernel/kheaders.tar.xz").exists(),
        btf=vmlinux is not None,
        kvm=(root / "sys/module/kvm").exists(),
        kvm_btf=kvm is not None,
        parameters=parameters,
        symbols=_symbols(root),
        layouts={
            name: {member: members[name][member][0] // 8 for member in wanted if member in members[name]}
            for name, wanted in LAYOUTS.items()
        },
        role={field: place for field, place in members[ROLE].items() if place[1]},
    )
