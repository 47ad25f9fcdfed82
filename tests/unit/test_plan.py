# SPDX-License-Identifier: Apache-2.0
"""The plan: the RFC's names where they are, the best other hook where they are not."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from shadowwatch.probe.attach import source_folder
from shadowwatch.probe.plan import POINTS, make_plan, unknown_clones
from tests.unit.hosts import PATCHED, STOCK


def symbols(plan_of: object) -> dict[str, str]:
    """Point -> kind and symbol."""
    return {each.point: f"{each.kind} {each.symbol}" for each in make_plan(plan_of).attachments}  # type: ignore[arg-type]


def test_the_patched_kvm_is_watched_by_the_rfcs_names() -> None:
    """kvm_mmu_alloc_page, kvm_mmu_zap_page and mmu_parent_walk, and no point is missing."""
    assert symbols(PATCHED) == {
        "alloc": "kprobe kvm_mmu_alloc_page",
        "zap": "kprobe kvm_mmu_zap_page",
        "link": "kprobe __link_shadow_page",
        "move": "kprobe mmu_parent_walk",
        "reclaim": "kprobe kvm_mmu_zap_oldest_mmu_pages",
        "destroy": "kprobe kvm_mmu_uninit_vm",
    }
    assert make_plan(PATCHED).missing == ()


def test_a_stock_kvm_is_watched_by_its_best_hooks() -> None:
    """The raw tracepoint for allocations, the clone by its exact name, and no parent moves."""
    assert symbols(STOCK) == {
        "alloc": "raw_tracepoint kvm_mmu_get_page",
        "zap": "kprobe __kvm_mmu_prepare_zap_page",
        "link": "kprobe __link_shadow_page.constprop.0",
        "reclaim": "kprobe kvm_mmu_zap_oldest_mmu_pages",
        "destroy": "kprobe kvm_mmu_uninit_vm",
    }
    assert [point.name for point in make_plan(STOCK).missing] == ["move"]
    assert make_plan(STOCK).lacks == ()


def test_the_rfcs_names_alone_do_not_make_a_patched_kvm() -> None:
    """5.4's kvm_mmu_alloc_page(vcpu, direct) had other arguments; without the parameter it is not ours."""
    impostor = replace(PATCHED, parameters=STOCK.parameters)
    assert symbols(impostor)["alloc"] == "raw_tracepoint kvm_mmu_get_page"
    assert symbols(impostor)["zap"] == "kprobe __kvm_mmu_prepare_zap_page"


@pytest.mark.parametrize("symbol", sorted(STOCK.symbols))
def test_a_symbol_taken_away_takes_its_points_away_and_no_other(symbol: str) -> None:
    """What a host lacks costs the points that it serves, by name."""
    without = make_plan(replace(STOCK, symbols=STOCK.symbols - {symbol}))
    served = {each.point for each in make_plan(STOCK).attachments if symbol.endswith(each.symbol)}
    assert {point.name for point in without.missing} == served | {"move"}


def test_a_clone_that_nobody_checked_is_not_probed() -> None:
    """Its registers may hold other arguments: the point is missing and the clone is named."""
    host = replace(
        STOCK, symbols=STOCK.symbols - {"__link_shadow_page.constprop.0"} | {"__link_shadow_page.constprop.7"}
    )
    assert "link" in {point.name for point in make_plan(host).lacks}
    assert unknown_clones(host) == ("__link_shadow_page.constprop.7",)
    assert unknown_clones(STOCK) == ()


def test_every_offset_that_the_probes_use_is_given() -> None:
    """The names in bpf/mmu.bpf.c and those of the plan are the same."""
    source = (source_folder() / "mmu.bpf.c").read_text()
    code = re.sub(r"/\*.*?\*/", "", source, flags=re.DOTALL)
    used = set(re.findall(r"\b(?:SP|KVM)_[A-Z_]+\b", code))
    assert used == set(make_plan(STOCK).defines)


def test_offsets_are_sums_over_the_structs() -> None:
    """Struct kvm holds kvm_arch, so a field of that is at the sum of both."""
    assert make_plan(STOCK).defines["KVM_ACTIVE_MMU_PAGES"] == 4760 + 32800


def test_every_program_named_is_in_the_source() -> None:
    """A hook's program is a function of bpf/mmu.bpf.c, and every function has a hook."""
    source = (source_folder() / "mmu.bpf.c").read_text()
    functions = set(re.findall(r"^int (probe_\w+)\(", source, re.MULTILINE))
    hooks = [hook for point in POINTS for hook in point.hooks]
    assert {hook.program for hook in hooks} | {hook.on_return for hook in hooks if hook.on_return} == functions
