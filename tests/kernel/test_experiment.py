# SPDX-License-Identifier: Apache-2.0
"""What `make experiment` does, for one seed: what is predicted, what each policy then does, and the reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.experiment.cases import CASES
from tests.experiment.figures import Figures
from tests.experiment.kept import Kept
from tests.experiment.reference import simulated
from tests.experiment.rows import joined
from tests.experiment.runs import Block, do, execute, offered
from tests.kernel.watched import AUDITS, Watched
from tests.lab.machine import Lab
from tests.lab.workload import Vmm, Workload

SHORT = replace(CASES["zipf"], limits=(64,), seeds=(1,), recorded=(1,))


def test_what_is_predicted_is_what_the_policy_then_does(
    patched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each policy's own zaps are made again one by one, faults are predicted, and the reference counts the same ones.

    The time of links is measured of the very links that shadowwatch counts.
    """
    monkeypatch.setitem(CASES, "zipf", SHORT)
    policies = offered(patched.lab)
    assert policies[:2] == ["stock", "parents"]
    kept = Kept(tmp_path / "rows.jsonl", "kvm")
    for part in ("bare", "linked", "recorded"):
        block = Block(SHORT, part, 1)
        kept.add(block, do(patched.lab, block, policies, tmp_path))
    rows = joined(kept)
    figures, place = Figures(rows), ("zipf", 64)
    measured = [row for row in rows if row["policy"] in policies]
    assert {row["policy"] for row in measured} == set(policies)
    for row in measured:
        assert row["reproduced"]
        assert not row["lost"]
        assert row["timed_links"] == row["links"]
        assert row["mappings"] >= row["page_faults"] == row["watched_page_faults"]
    exact, compared = figures.exact()
    assert exact == compared >= 4
    for policy in ("parents", "leaf-first"):
        error = figures.error(place, policy)
        assert error is not None
        assert error <= 5.0
        assert figures.within(place, policy)
    # The mail's claim, by the tables that a root leads to.
    for name in ("in_reach_amplitude", "page_faults"):
        effect = figures.effect(place, "parents", name)
        assert effect
        assert effect.median < -0.1


@pytest.mark.soak
@pytest.mark.parametrize("name", ["direct", "nested"])
def test_the_reference_counts_what_the_kernel_counts_in_every_mode(name: str, tmp_path: Path) -> None:
    """With nested paging and `tdp_mmu=N`, and of a guest's guest: to the fault, at both limits, in two orders."""
    case = CASES[name]
    with Lab.boot(mode=case.mode) as lab:
        for run in Block(case, "bare", 1).runs(("stock", "parents")):
            counted = execute(lab, run)
            (guest,) = (simulated(vm, run.policy) for vm in case.vms(run.limit, run.seed, run.policy))
            expected = (guest.faults, guest.allocations, guest.zaps)
            assert (counted.page_faults, counted.allocations, counted.zaps) == expected


@pytest.mark.soak
def test_a_running_daemon_estimates_other_policies(stock: Watched) -> None:
    """On an unpatched host: stock order is made again as the kernel counts it, and parents would fault less."""
    stock.lab.start_daemon("--what-if stock,parents")
    vm = "what-if"
    with Vmm(stock.lab, Workload(vm, accesses=10_000)) as vmm:
        counters = vmm.finished().counters
        metrics = stock.settled(vm, counters["mmu_cache_miss"])
        zaps = metrics.by("policy", "what_if_zaps_total", vm=vm)
        assert zaps["as_recorded"] == zaps["stock"] == counters["mmu_recycled"] > 1000
        faults = metrics.by("policy", "what_if_faults_total", vm=vm)
        least, most = (metrics.by("policy", f"what_if_faults_{bound}_total", vm=vm) for bound in ("least", "most"))
        assert faults["stock"] == faults["as_recorded"] <= counters["pf_taken"]
        assert least["parents"] <= faults["parents"] <= most["parents"]
        assert faults["parents"] < 0.9 * faults["stock"]
    stock.lab.start_daemon(AUDITS)
