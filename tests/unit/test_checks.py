# SPDX-License-Identifier: Apache-2.0
"""What is said to a host that lacks something: one sentence with the cure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shadowwatch.errors import ShadowwatchError
from shadowwatch.probe.checks import paging, require
from tests.unit.hosts import PATCHED, STOCK

LACKS: list[tuple[dict[str, Any], str]] = [
    ({"root": False}, "shadowwatch is not root; run it with sudo"),
    ({"bpf": False}, "this kernel has no BPF; boot one with CONFIG_BPF_SYSCALL=y"),
    ({"lockdown": True}, "kernel lockdown (confidentiality) forbids BPF"),
    ({"btf": False}, "this kernel has no BTF (/sys/kernel/btf/vmlinux); boot one"),
    ({"kprobes": False}, "this kernel has no kprobes for perf"),
    ({"bcc": False}, "bcc for Python is not installed; apt install python3-bpfcc"),
    ({"headers": False}, "the headers of kernel 6.1.0-56-amd64 are not installed; apt install linux-headers-6.1.0-56"),
    ({"kvm": False}, "the kvm module is not loaded; modprobe kvm_intel or kvm_amd"),
    ({"kvm_btf": False}, "the kvm module has no usable BTF"),
    ({"role": {}}, "the kvm module has no usable BTF"),
    ({"symbols": frozenset()}, "this kernel has no symbol that tells allocations (probe point alloc) on"),
]


def test_a_whole_host_gets_a_plan() -> None:
    """Stock and patched hosts lack nothing."""
    assert len(require(STOCK).attachments) == 5
    assert len(require(PATCHED).attachments) == 6


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


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"kvm_amd.npt": "N"}, "shadow paging"),
        ({"kvm_amd.npt": "0"}, "shadow paging"),
        ({"kvm_intel.ept": "N", "kvm.tdp_mmu": "N"}, "shadow paging"),
        ({"kvm_amd.npt": "Y", "kvm.tdp_mmu": "N"}, "nested paging without the TDP MMU"),
        ({"kvm_intel.ept": "Y", "kvm.tdp_mmu": "Y"}, "TDP MMU in use: nothing to watch"),
        ({}, "unknown"),
    ],
)
def test_the_mmu_in_use_is_said_in_words(parameters: dict[str, str], words: str) -> None:
    """By the modules' parameters."""
    assert paging(replace(STOCK, parameters=parameters)).startswith(words)
