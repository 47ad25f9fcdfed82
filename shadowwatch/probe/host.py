# SPDX-License-Identifier: Apache-2.0
"""What this host is, read once; facts only, the rules are in plan.py and checks.py."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from shadowwatch.mmu.cause import CALLERS, Function
from shadowwatch.probe.btf import Btf, BtfError
from shadowwatch.probe.layouts import Layouts, completed

#: Kernel and modules are in the last 2 GiB of the address space, so these bits tell a place in them.
LOWER_HALF = 0xFFFF_FFFF

#: The structs that the probes look into, and which of their members (see plan.py and cost.py), and two
#: that tell kernels apart (see layouts.py). "a.b" is what member b of struct a is.
LAYOUTS = {
    "kvm_mmu_page": ("link", "tdp_mmu_page", "unsync", "mmu_valid_gen", "role", "gfn", "spt", "parent_ptes"),
    "pte_list_desc": ("more", "spte_count", "sptes"),
    "kvm": ("arch", "mm", "mmu_lock", "stat", "userspace_pid", "vm_list"),
    "kvm.mmu_lock": ("raw_lock", "rlock", "rwbase"),
    "rwbase_rt": ("readers",),
    "kvm_arch": ("n_used_mmu_pages", "n_max_mmu_pages", "mmu_valid_gen", "active_mmu_pages", "tdp_mmu_enabled"),
    "kvm_vcpu": ("kvm", "preempt_notifier"),
    "preempt_notifier": ("link",),
    "mm_struct": ("arg_start", "arg_end", "owner"),
    "task_struct": ("mm", "preempt_notifiers", "se", "tgid"),
    "kvm_vm_stat": ("generic", "mmu_cache_miss", "mmu_recycled", "mmu_shadow_pages", "mmu_shadow_zapped", "pages"),
    "bpf_link_info.perf_event.kprobe": ("missed",),
    "sched_entity": ("exec_start", "sum_exec_runtime"),
}
ROLE = "kvm_mmu_page_role"

#: A name in BTF -> the policy of the KVM that it is from, which has no choice of them: how many pages the reclaim of
#: patches/upstream passes over.
ONLY_POLICIES = {"KVM_MMU_MAX_SPARED_PAGES": "childless"}

#: The kernel's own symbols that are worth knowing, besides those of the kvm module.
SYMBOLS = ("__x64_sys_sched_rr_get_interval",)

#: What attaching takes, which root has and the service is given: CAP_SYSLOG for the symbols' addresses, CAP_PERFMON and
#: CAP_BPF (include/uapi/linux/capability.h).
CAPABILITIES = 1 << 34 | 1 << 38 | 1 << 39

_KVM_SYMBOL = re.compile(rb"^([0-9a-f]+) [a-zA-Z] ([\w.]+)\t\[kvm\]$", re.MULTILINE)
_ANY_SYMBOL = re.compile(rb"^([0-9a-f]+) [a-zA-Z] ([\w.]+)$", re.MULTILINE)
#: What GCC and clang add to a function's name, with link time optimization, too.
_CLONE = re.compile(r"\.(?:isra|constprop|part|cold|llvm|lto_priv|__uniq|\d+)(?![a-z])")
_PARAMETERS = (
    ("kvm", "tdp_mmu"),
    ("kvm", "reclaim_policy"),
    ("kvm_amd", "npt"),
    ("kvm_amd", "nested"),
    ("kvm_intel", "ept"),
    ("kvm_intel", "nested"),
)


def function_of(symbol: str) -> str:
    """The name of the function that a symbol is a clone of, or its own."""
    return _CLONE.sub("", symbol)


@dataclass(frozen=True, slots=True)
class Host:
    """Facts; what this host lacks is empty.

    `root` is also true of a process with those of root's CAPABILITIES that it takes.
    `parameters` maps "module.parameter" to its value, `symbols` a name to its address,
    `functions` are those of CALLERS and their clones as (name, first address, address behind),
    lower halves; `layouts` maps a struct to its members' byte offsets, `role` the role's
    fields to (first bit, width). `damaged` is the file whose BTF cannot be read, and why, and
    `only_policy` how a KVM reclaims that has another order than the stock one, and no choice.
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
    parameters: Mapping[str, str]
    symbols: Mapping[str, int]
    functions: tuple[Function, ...]
    layouts: Layouts
    role: Mapping[str, tuple[int, int]]
    damaged: str = ""
    only_policy: str = ""

    @property
    def patched(self) -> bool:
        """Whether this KVM carries the patch series of patches/: only that has the parameter."""
        return "kvm.reclaim_policy" in self.parameters

    @property
    def policy(self) -> str:
        """KVM's reclaim policy, "" for a stock KVM."""
        return self.parameters.get("kvm.reclaim_policy", self.only_policy)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _symbols(root: Path) -> tuple[dict[str, int], tuple[Function, ...]]:
    try:
        text = (root / "proc/kallsyms").read_bytes()
    except OSError:
        return {}, ()
    found = _KVM_SYMBOL if b"\t[kvm]\n" in text else _ANY_SYMBOL
    symbols = {name.decode(): int(address, 16) for address, name in found.findall(text)}
    for wanted in SYMBOLS:
        own = re.search(rf"^([0-9a-f]+) . {wanted}$".encode(), text, re.MULTILINE)
        if own:
            symbols[wanted] = int(own[1], 16)
    # A function ends where the next symbol begins; addresses that are hidden are all 0.
    places = sorted({address for address in symbols.values() if address})
    zapping = sorted(symbol for symbol in symbols if symbol.partition(".")[0] in CALLERS)
    functions = tuple(
        (name, address & LOWER_HALF, places[behind] & LOWER_HALF)
        for symbol in zapping
        if (name := function_of(symbol)) in CALLERS
        and (address := symbols[symbol])
        and (behind := bisect_right(places, address)) < len(places)
    )
    return symbols, functions


def _types(root: Path) -> tuple[bool, Mapping[str, Mapping[str, tuple[int, int]]], str, str]:
    """Whether vmlinux has BTF, the members of each struct, the only policy, and which file is damaged."""
    members: dict[str, Mapping[str, tuple[int, int]]] = {name: {} for name in (*LAYOUTS, ROLE)}
    files: list[Btf] = []
    only = ""
    for name in ("vmlinux", "kvm"):
        path = root / "sys/kernel/btf" / name
        try:
            types = Btf.load(path, *files)
            # A module's are those of vmlinux and its own.
            members = {struct: types.members(*struct.split(".")) for struct in members}
            only = next((policy for name, policy in ONLY_POLICIES.items() if types.names(name)), "")
        except OSError:
            break
        except BtfError as error:
            return bool(files), members, only, f"/{path.relative_to(root)}: {error}"
        files.append(types)
    return bool(files), members, only, ""


def _as_root(root: Path) -> bool:
    found = re.search("^CapEff:\t([0-9a-f]+)$", _read(root / "proc/self/status") or "", re.MULTILINE)
    return found is not None and int(found[1], 16) & CAPABILITIES == CAPABILITIES


def reclaim_policy(root: Path = Path("/")) -> str:
    """The patched KVM's reclaim policy now, "" when this KVM has no choice."""
    return _read(root / "sys/module/kvm/parameters/reclaim_policy") or ""


def kvm_is_loaded(root: Path = Path("/")) -> bool:
    """Whether the kvm module is there; cheap enough to ask each second."""
    return (root / "sys/module/kvm").exists()


def gather(root: Path = Path("/")) -> Host:
    """Read this host's facts; nothing is changed, and nothing that is missing is an error."""
    symbols, functions = _symbols(root)
    release = _read(root / "proc/sys/kernel/osrelease") or os.uname().release
    btf, members, only_policy, damaged = _types(root)
    parameters = {
        f"{module}.{name}": value
        for module, name in _PARAMETERS
        if (value := _read(root / "sys/module" / module / "parameters" / name)) is not None
    }
    return Host(
        release=release,
        root=_as_root(root),
        bcc=find_spec("bcc") is not None,
        bpf=(root / "proc/sys/kernel/unprivileged_bpf_disabled").exists(),
        lockdown="[confidentiality]" in (_read(root / "sys/kernel/security/lockdown") or ""),
        kprobes=(root / "sys/bus/event_source/devices/kprobe").exists(),
        headers=(root / "lib/modules" / release / "build/include").is_dir()
        or (root / "sys/kernel/kheaders.tar.xz").exists(),
        btf=btf,
        kvm=kvm_is_loaded(root),
        parameters=parameters,
        symbols=symbols,
        functions=functions,
        layouts=completed(
            {
                name: {member: members[name][member][0] // 8 for member in wanted if member in members[name]}
                for name, wanted in LAYOUTS.items()
            }
        ),
        role={field: place for field, place in members[ROLE].items() if place[1]},
        damaged=damaged,
        only_policy=only_policy,
    )
