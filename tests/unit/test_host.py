# SPDX-License-Identifier: Apache-2.0
"""Host facts, from a tree of files laid out as /proc and /sys are."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from shadowwatch.probe.host import function_of, gather
from tests.unit.hosts import HOSTS, ROOM

KALLSYMS = """\
ffffffff81000000 T _text
ffffffff81234560 t kvm_mmu_not_in_module_but_named
ffffffff81345670 T __x64_sys_sched_rr_get_interval
ffffffff81345700 T __ia32_sys_sched_rr_get_interval
ffffffffc0a00f00 t __link_shadow_page.constprop.0.cold\t[kvm]
ffffffffc0a00f40 t something_else.cold\t[kvm]
ffffffffc0a01000 t __link_shadow_page.constprop.0\t[kvm]
ffffffffc0a02000 t __kvm_mmu_prepare_zap_page\t[kvm]
ffffffffc0a02000 t an_alias_of_it\t[kvm]
ffffffffc0a02800 t __ksym_of_nobody\t[kvm]
ffffffffc0a03000 d __tracepoint_kvm_mmu_get_page\t[kvm]
ffffffffc0a05000 t kvm_mmu_zap_all\t[kvm]
ffffffffc0a04000 t svm_vcpu_run\t[kvm_amd]
"""

#: What KVM's BTF is made of, as far as the probes ask.
STRUCTS = """
typedef unsigned long long u64;
struct list_head { struct list_head *next, *prev; };
union kvm_mmu_page_role { unsigned word; struct { unsigned level:4; unsigned :7; unsigned invalid:1; }; };
struct kvm_mmu_page { struct list_head link, hash; _Bool tdp_mmu_page, unsync; union kvm_mmu_page_role role;
                      u64 gfn; u64 *spt; u64 translation; int root_count; struct { u64 val; } parent_ptes; };
struct pte_list_desc { struct pte_list_desc *more; unsigned spte_count, tail_count; u64 *sptes[14]; };
struct kvm_arch { unsigned long n_used_mmu_pages, n_requested_mmu_pages, n_max_mmu_pages;
                  struct list_head active_mmu_pages; };
struct kvm_vm_stat { u64 generic, mmu_shadow_zapped; };
struct kvm { char lock[64]; struct list_head vm_list; struct kvm_vm_stat stat; struct kvm_arch arch;
             int userspace_pid; };
struct kvm_vcpu { int id; struct kvm *kvm; };
struct sched_entity { u64 load, exec_start, sum_exec_runtime; };
struct task_struct { u64 state; struct sched_entity se; };
struct kvm the_kvm; struct kvm_mmu_page the_page; struct pte_list_desc the_desc; struct kvm_vcpu the_vcpu;
struct task_struct the_task;
"""


def write_btf(root: Path, source: str) -> None:
    """Give the host's vmlinux the BTF of this source."""
    (root / "structs.c").write_text(source)
    subprocess.run(["gcc", "-g", "-O2", "-c", "-o", root / "structs.o", root / "structs.c"], check=True)
    target = root / "sys/kernel/btf/vmlinux"
    subprocess.run(["pahole", "--btf_encode_detached", target, root / "structs.o"], check=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with everything, KVM stock and shadow paging."""
    files = {
        "proc/sys/kernel/osrelease": "6.1.0-1-amd64\n",
        "proc/sys/kernel/unprivileged_bpf_disabled": "2\n",
        "proc/kallsyms": KALLSYMS,
        "proc/self/status": "Name:\tpython3\nCapPrm:\tffffffffffffffff\nCapEff:\t000000c400000000\n",
        "sys/kernel/security/lockdown": "[none] integrity confidentiality\n",
        "sys/bus/event_source/devices/kprobe/type": "8\n",
        "sys/module/kvm/parameters/tdp_mmu": "N\n",
        "sys/module/kvm_amd/parameters/npt": "N\n",
        "lib/modules/6.1.0-1-amd64/build/include/there": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    btf = tmp_path / "sys/kernel/btf"
    btf.mkdir()
    write_btf(tmp_path, STRUCTS)
    # A module's blob without types of its own: all that is asked for is in its base.
    header = (btf / "vmlinux").read_bytes()[:8]
    (btf / "kvm").write_bytes(header + bytes(12) + (1).to_bytes(4, "little") + b"\0")
    return tmp_path


def test_a_whole_host_is_read(root: Path) -> None:
    """Each fact from its file."""
    host = gather(root)
    assert host.release == "6.1.0-1-amd64"
    assert all((host.root, host.bpf, host.kprobes, host.headers, host.btf, host.kvm))
    assert not host.lockdown
    assert not host.patched
    assert host.parameters == {"kvm.tdp_mmu": "N", "kvm_amd.npt": "N"}
    assert host.symbols == {
        "__x64_sys_sched_rr_get_interval": 0xFFFF_FFFF_8134_5670,
        "__link_shadow_page.constprop.0.cold": 0xFFFF_FFFF_C0A0_0F00,
        "something_else.cold": 0xFFFF_FFFF_C0A0_0F40,
        "__link_shadow_page.constprop.0": 0xFFFF_FFFF_C0A0_1000,
        "__kvm_mmu_prepare_zap_page": 0xFFFF_FFFF_C0A0_2000,
        "an_alias_of_it": 0xFFFF_FFFF_C0A0_2000,
        "__ksym_of_nobody": 0xFFFF_FFFF_C0A0_2800,
        "__tracepoint_kvm_mmu_get_page": 0xFFFF_FFFF_C0A0_3000,
        "kvm_mmu_zap_all": 0xFFFF_FFFF_C0A0_5000,
    }
    assert host.layouts == {
        "kvm_mmu_page": {
            "link": 0,
            "tdp_mmu_page": 32,
            "unsync": 33,
            "role": 36,
            "gfn": 40,
            "spt": 48,
            "parent_ptes": 72,
        },
        "pte_list_desc": {"more": 0, "spte_count": 8, "sptes": 16},
        "kvm": {"vm_list": 64, "stat": 80, "arch": 96, "userspace_pid": 136},
        "kvm_arch": {"n_used_mmu_pages": 0, "n_max_mmu_pages": 16, "active_mmu_pages": 24},
        "kvm_vcpu": {"kvm": 8},
        "preempt_notifier": {},
        "mm_struct": {},
        "kvm_vm_stat": {"generic": 0, "mmu_shadow_zapped": 8},
        "kvm.mmu_lock": {},
        "rwbase_rt": {},
        "bpf_link_info.perf_event.kprobe": {},
        "task_struct": {"se": 8},
        "sched_entity": {"exec_start": 8, "sum_exec_runtime": 16},
    }
    assert host.role == {"level": (0, 4), "invalid": (11, 1)}


def test_functions_end_where_the_next_symbol_begins(root: Path) -> None:
    """Clones and .cold parts are filed under their function's name; one with nothing behind it has no end."""
    assert set(gather(root).functions) == {
        ("__link_shadow_page", 0xC0A0_0F00, 0xC0A0_0F40),
        ("__link_shadow_page", 0xC0A0_1000, 0xC0A0_2000),
        ("__kvm_mmu_prepare_zap_page", 0xC0A0_2000, 0xC0A0_2800),
    }


@pytest.mark.parametrize("name", HOSTS)
def test_symbols_and_functions_of_recorded_hosts_are_read(name: str, tmp_path: Path) -> None:
    """From a kallsyms that lists them as such a kernel does."""
    recorded = HOSTS[name]
    end = max(recorded.symbols.values()) + ROOM
    lines = [
        f"{address:016x} t {symbol}" + ("" if symbol.startswith("__x64_sys") else "\t[kvm]")
        for symbol, address in recorded.symbols.items()
    ]
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/kallsyms").write_text("\n".join([*lines, f"{end:016x} d the_end\t[kvm]", ""]))
    host = gather(tmp_path)
    assert host.symbols == {**recorded.symbols, "the_end": end}
    assert sorted(host.functions) == sorted(recorded.functions)


def test_hidden_addresses_leave_names_alone(root: Path) -> None:
    """kptr_restrict shows 0 for each: a function that is nowhere is not told."""
    text = re.sub("^[0-9a-f]+", "0" * 16, KALLSYMS, flags=re.MULTILINE)
    (root / "proc/kallsyms").write_text(text)
    host = gather(root)
    assert len(host.symbols) == 9
    assert set(host.symbols.values()) == {0}
    assert host.functions == ()


def test_a_built_in_kvm_is_read_from_all_of_the_kernel(root: Path) -> None:
    """Without a module of that name every symbol may be kvm's."""
    (root / "proc/kallsyms").write_text(KALLSYMS.replace("\t[kvm]", ""))
    symbols = gather(root).symbols
    assert symbols["kvm_mmu_zap_all"] == 0xFFFF_FFFF_C0A0_5000
    assert "kvm_mmu_not_in_module_but_named" in symbols
    assert "svm_vcpu_run" not in symbols


SUFFIXES = sorted(
    {symbol[symbol.index(".") :] for host in HOSTS.values() for symbol in host.symbols if "." in symbol}
    | {".isra.0.part.1.cold", ".constprop.0.isra.0", ".cold.12", ".part.0.isra.0"}
    | {".llvm.14826472837465", ".lto_priv.0", ".__uniq.2648362", ".__uniq.26483.llvm.1482", ".lto_priv.0.isra.0.cold"}
)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_clone_is_named_by_its_function(suffix: str) -> None:
    """Every combination of suffixes that the recorded kernels have, and some that compilers make."""
    assert function_of(f"kvm_mmu_get_page{suffix}") == "kvm_mmu_get_page"


@pytest.mark.parametrize("symbol", ["kvm_mmu_get_page", "kvm_mmu_get_page.israble", "part_of.kvm", "cold"])
def test_a_name_that_is_no_clone_stays(symbol: str) -> None:
    """Only the suffixes that compilers give are taken off."""
    assert function_of(symbol) == symbol


def test_an_empty_host_is_no_error(tmp_path: Path) -> None:
    """Everything is missing, and said to be."""
    host = gather(tmp_path)
    assert not any((host.bpf, host.kprobes, host.headers, host.btf, host.kvm, host.lockdown))
    assert host.symbols == {}
    assert host.functions == ()
    assert not any(host.layouts.values())
    assert host.role == {}


def test_who_may_attach_is_as_good_as_root(root: Path) -> None:
    """By the capabilities in effect, all three of them."""
    for effective, enough in (("000001ffffffffff", True), ("0000004400000000", False), ("0000000000000000", False)):
        (root / "proc/self/status").write_text(f"CapPrm:\t000001ffffffffff\nCapEff:\t{effective}\n")
        assert gather(root).root == enough


def test_lockdown_and_the_patch_are_seen(root: Path) -> None:
    """Confidentiality is what stops BPF; the parameter is what only the patched KVM has."""
    (root / "sys/kernel/security/lockdown").write_text("none integrity [confidentiality]\n")
    (root / "sys/module/kvm/parameters/reclaim_policy").write_text("stock\n")
    host = gather(root)
    assert host.lockdown
    assert host.patched
    assert host.policy == "stock"


def test_the_policy_of_a_kvm_without_a_choice_is_told_by_btf(root: Path) -> None:
    """By the enum of patches/upstream, of which the code only uses the value; a choice says more."""
    assert gather(root).policy == ""
    patch = "enum { KVM_MMU_MAX_SPARED_PAGES = 256 }; int spare(int n) { return n <= KVM_MMU_MAX_SPARED_PAGES; }"
    write_btf(root, f"{STRUCTS}{patch}\n")
    host = gather(root)
    assert host.policy == "childless"
    assert not host.patched
    (root / "sys/module/kvm/parameters/reclaim_policy").write_text("stock\n")
    assert gather(root).policy == "stock"


def test_damaged_btf_counts_as_none(root: Path) -> None:
    """A blob that is not BTF is a host without BTF."""
    (root / "sys/kernel/btf/vmlinux").write_bytes(b"garbage")
    host = gather(root)
    assert not host.btf
    assert not any(host.layouts.values())
    assert host.damaged == "/sys/kernel/btf/vmlinux: no BTF magic"


def test_a_damaged_btf_of_kvm_is_named(root: Path) -> None:
    """Also when the damage is found only by who asks for a struct: here its members have no names."""
    blob = bytearray((root / "sys/kernel/btf/vmlinux").read_bytes())
    blob = blob.replace(b"\0level\0", b"\0\xffevel\0")
    (root / "sys/kernel/btf/vmlinux").rename(root / "sys/kernel/btf/whole")
    (root / "sys/kernel/btf/vmlinux").write_bytes(blob)
    host = gather(root)
    assert not host.btf
    assert host.damaged.startswith("/sys/kernel/btf/vmlinux: BTF has no string at ")
    (root / "sys/kernel/btf/whole").replace(root / "sys/kernel/btf/vmlinux")
    (root / "sys/kernel/btf/kvm").write_bytes(blob[:-1])
    host = gather(root)
    assert host.btf
    assert host.damaged == "/sys/kernel/btf/kvm: BTF ends before its types and strings do"


def test_a_kvm_without_btf_leaves_its_own_structs_unknown(root: Path) -> None:
    """What vmlinux knows is still read."""
    (root / "sys/kernel/btf/kvm").unlink()
    assert gather(root).layouts["kvm_vcpu"] == {"kvm": 8}
