# SPDX-License-Identifier: Apache-2.0
"""The layout that is shipped, since the kernel which has it does not tell it."""

from __future__ import annotations

import pytest

from shadowwatch.probe.layouts import completed
from tests.unit.hosts import RECORDED


@pytest.mark.parametrize("name", RECORDED["layouts"])
def test_the_shipped_layout_is_taken_for_5_10_alone(name: str) -> None:
    """Every other kernel, its kvm.ko without BTF, stays unknown instead of being misread."""
    vmlinux = {
        struct: members
        for struct, members in RECORDED["layouts"][name].items()
        if struct not in ("kvm_mmu_page", "pte_list_desc")
    }
    assert ("kvm_mmu_page" in completed(vmlinux)) == (name == "5.10")


def test_a_kernel_before_5_10_does_not_get_its_layout() -> None:
    """Without kvm_arch.tdp_mmu_enabled, as up to 5.9, kvm_mmu_page was another."""
    layouts = {struct: dict(members) for struct, members in RECORDED["layouts"]["5.10"].items()}
    del layouts["kvm_arch"]["tdp_mmu_enabled"]
    assert completed(layouts) == layouts


def test_a_kernel_that_tells_its_layout_is_believed() -> None:
    """A 5.10 that was built with BTF for modules may have been changed: what it says counts."""
    told = {**RECORDED["layouts"]["5.10"], "kvm_mmu_page": {"link": 8}}
    assert completed(told) == told
