# SPDX-License-Identifier: Apache-2.0
"""What is said to a host that lacks something: one sentence with the cure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.facts import PAGING
from shadowwatch.probe.checks import CHECKS, losses, paging, require, require_all_but_kvm
from tests.unit.hosts import PATCHED, STOCK, WHOLE

LACKS: list[tuple[dict[str, Any], str]] = [
    ({"root": False}, "shadowwatch is not root; run it with sudo"),
    ({"bpf": False}, "this kernel has no BPF; boot a kernel with CONFIG_BPF_SYSCALL=y"),
    ({"lockdown": True}, "kernel lockdown (confidentiality) forbids BPF"),
    ({"btf": False}, "this kernel has no BTF (/sys/kernel/btf/vmlinux); boot a kernel"),
    (
        {"damaged": "/a: BTF ends inside a type"},
        "this kernel's BTF is damaged (/a: BTF ends inside a type); boot a kernel",
    ),
    ({"kprobes": False}, "this kernel has no kprobes for perf"),
    ({"bcc": False}, "bcc for Python is not installed; apt install python3-bpfcc"),
    ({"headers": False}, "the headers of kernel 6.1.0-56-amd64 are not installed; apt install linux-headers-6.1.0-56"),
    ({"kvm": False}, "the kvm module is not loaded; modprobe kvm_intel or kvm_amd"),
    ({"layouts": {}}, "the layout of kvm's structs is unknown: the kvm module has no usable BTF"),
    ({"role": {}}, "the layout of kvm's structs is unknown: the kvm module has no usable BTF"),
    ({"symbols": {}}, "this kernel has no symbol that shows allocations (probe point alloc) on"),
]


def test_a_whole_host_gets_a_plan() -> None:
    """Stock and patched hosts lack nothing."""
    assert len(require(STOCK).attachments) == 14
    assert len(require(PATCHED).attachments) == 16


@pytest.mark.parametrize(("lack", "said"), LACKS)
def test_each_thing_missing_is_one_sentence_with_its_cure(lack: dict[str, Any], said: str) -> None:
    """Taken away one at a time."""
    with pytest.raises(ShadowwatchError) as caught:
        require(replace(STOCK, **lack))
    text = str(caught.value)
    assert text.startswith(said)
    assert "; " in text
    assert "\n" not in text
    assert "{" not in text


def test_a_host_that_waits_for_the_module_must_have_all_else() -> None:
    """Without kvm nothing is said; what the module would not bring is asked for at once."""
    waiting = replace(STOCK, kvm=False, symbols={}, layouts={}, role={})
    require_all_but_kvm(waiting)
    for lack, said in LACKS[:8]:
        with pytest.raises(ShadowwatchError) as caught:
            require_all_but_kvm(replace(waiting, **lack))
        assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("parameters", "mmu"),
    [
        ({"kvm_amd.npt": "N"}, "shadow"),
        ({"kvm_amd.npt": "0"}, "shadow"),
        ({"kvm_intel.ept": "N", "kvm.tdp_mmu": "N"}, "shadow"),
        ({"kvm_amd.npt": "Y", "kvm.tdp_mmu": "N"}, "nested"),
        ({"kvm_amd.npt": "Y"}, "nested"),
        ({"kvm_intel.ept": "Y", "kvm.tdp_mmu": "Y"}, "tdp_mmu"),
        ({"kvm_intel.ept": "Y", "kvm.tdp_mmu": "Y", "kvm_intel.nested": "N"}, "tdp_mmu"),
        ({"kvm_intel.ept": "Y", "kvm.tdp_mmu": "Y", "kvm_intel.nested": "Y"}, "tdp_mmu_nested"),
        ({"kvm_amd.npt": "1", "kvm.tdp_mmu": "Y", "kvm_amd.nested": "1"}, "tdp_mmu_nested"),
        ({}, "unknown"),
    ],
)
def test_the_mmu_in_use_is_told_by_the_modules_parameters(parameters: dict[str, str], mmu: str) -> None:
    """A key of PAGING, which has the words."""
    assert paging(replace(STOCK, parameters=parameters)) == mmu
    assert mmu in PAGING


def test_what_a_host_loses_is_named() -> None:
    """One capability taken away is one line; a whole host loses nothing."""
    symbols = {name: place for name, place in STOCK.symbols.items() if name != "kvm_mmu_uninit_vm"}
    assert losses(require(replace(STOCK, symbols=symbols))) == (
        "no hook for probe point destroy, so unknown: the end of a VM",
    )
    assert losses(require(STOCK)) == losses(require(PATCHED)) == ()


def test_a_kernel_that_does_not_count_missed_probes_is_told_by_its_types() -> None:
    """It came with a member of bpf_link_info, in 6.7; to run without is no reason not to run."""
    check = next(check for check in CHECKS if check.name == "BPF")
    said = {name: check.words(host) for name, host in WHOLE.items()}
    silent = {
        name for name, words in said.items() if words == "in the kernel, but counts no probes that it passes over"
    }
    assert silent == {"5.10", "u5.15", "6.1", "6.1 patched"}
    assert {words for name, words in said.items() if name not in silent} == {"in the kernel"}
    assert all(check.holds(host) for host in WHOLE.values())
