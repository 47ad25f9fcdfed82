# SPDX-License-Identifier: Apache-2.0
"""Host facts, from a tree of files laid out as /proc and /sys are."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from shadowwatch.probe.host import gather

KALLSYMS = """\
ffffffff81000000 T _text
ffffffff81234560 t kvm_mmu_not_in_module_but_named
ffffffffc0a01000 t __link_shadow_page.constprop.0\t[kvm]
ffffffffc0a02000 t __kvm_mmu_prepare_zap_page\t[kvm]
ffffffffc0a03000 d __tracepoint_kvm_mmu_get_page\t[kvm]
ffffffffc0a04000 t svm_vcpu_run\t[kvm_amd]
"""

#: What KVM's BTF is made of, as far as the probes ask.
STRUCTS = """
typedef unsigned long long u64;
struct list_head { struct list_head *next, *prev; };
union kvm_mmu_page_role { unsigned word; struct { unsigned level:4; unsigned :7; unsigned invalid:1; }; };
struct kvm_mmu_page { struct list_head link, hash; _Bool tdp_mmu_page, unsync; union kvm_mmu_page_role role;
                      u64 gfn; u64 *spt; };
struct kvm_arch { unsigned long n_used_mmu_pages, n_requested_mmu_pages, n_max_mmu_pages;
                  struct list_head active_mmu_pages; };
struct kvm { char lock[64]; struct kvm_arch arch; int userspace_pid; };
struct kvm the_kvm; struct kvm_mmu_page the_page;
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with everything, KVM stock and shadow paging."""
    files = {
        "proc/sys/kernel/osrelease": "6.1.0-1-amd64\n",
        "proc/sys/kernel/unprivileged_bpf_disabled": "2\n",
        "proc/kallsyms": KALLSYMS,
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
    source = tmp_path / "structs.c"
    source.write_text(STRUCTS)
    subprocess.run(["gcc", "-g", "-c", "-o", tmp_path / "structs.o", source], check=True)
    subprocess.run(["pahole", "--btf_encode_detached", btf / "vmlinux", tmp_path / "structs.o"], check=True)
    # A module's blob without types of its own: all that is asked for is in its base.
    header = (btf / "vmlinux").read_bytes()[:8]
    (btf / "kvm").write_bytes(header + bytes(12) + (1).to_bytes(4, "little") + b"\0")
    return tmp_path


def test_a_whole_host_is_read(root: Path) -> None:
    """Each fact from its file."""
    host = gather(root)
    assert host.release == "6.1.0-1-amd64"
    assert all((host.bpf, host.kprobes, host.headers, host.btf, host.kvm, host.kvm_btf))
    assert not host.lockdown
    assert not host.patched
    assert host.parameters == {"kvm.tdp_mmu": "N", "kvm_amd.npt": "N"}
    assert host.symbols == {
        "kvm_mmu_not_in_module_but_named",
        "__link_shadow_page.constprop.0",
        "__kvm_mmu_prepare_zap_page",
        "__tracepoint_kvm_mmu_get_page",
    }
    assert host.layouts == {
        "kvm_mmu_page": {"link": 0, "tdp_mmu_page": 32, "role": 36, "gfn": 40, "spt": 48},
        "kvm": {"arch": 64, "userspace_pid": 104},
        "kvm_arch": {"n_used_mmu_pages": 0, "n_max_mmu_pages": 16, "active_mmu_pages": 24},
    }
    assert host.role == {"level": (0, 4), "invalid": (11, 1)}


def test_an_empty_host_is_no_error(tmp_path: Path) -> None:
    """Everything is missing, and said to be."""
    host = gather(tmp_path)
    assert not any((host.bpf, host.kprobes, host.headers, host.btf, host.kvm, host.kvm_btf, host.lockdown))
    assert host.symbols == frozenset()
    assert host.role == {}


def test_lockdown_and_the_patch_are_seen(root: Path) -> None:
    """Confidentiality is what stops BPF; the parameter is what only the patched KVM has."""
    (root / "sys/kernel/security/lockdown").write_text("none integrity [confidentiality]\n")
    (root / "sys/module/kvm/parameters/reclaim_policy").write_text("stock\n")
    host = gather(root)
    assert host.lockdown
    assert host.patched


def test_damaged_btf_counts_as_none(root: Path) -> None:
    """A blob that is not BTF is a host without BTF."""
    (root / "sys/kernel/btf/vmlinux").write_bytes(b"garbage")
    host = gather(root)
    assert not host.btf
    assert not host.kvm_btf
