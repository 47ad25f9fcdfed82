# SPDX-License-Identifier: Apache-2.0
"""What `make experiment` does, for one workload: what is predicted from stock order, and what each policy then does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.experiment.__main__ import POLICIES, judge, watched
from tests.experiment.cases import CASES
from tests.experiment.claims import Figures
from tests.kernel.watched import AUDITS, Watched
from tests.lab.workload import Vmm, Workload

CASE = replace(CASES["zipf"], limits=(64,), seeds=(1,))


def test_what_is_predicted_is_what_the_policy_then_does(patched: Watched, tmp_path: Path) -> None:
    """Each policy's own zaps are made again one by one; faults are predicted to five points and within their bounds."""
    rows = watched(patched.lab, CASE, POLICIES, tmp_path)
    judge(CASE, tmp_path, rows)
    assert [row["policy"] for row in rows] == list(POLICIES)
    assert all(row["reproduced"] and not row["lost"] for row in rows)
    figures = Figures(rows)
    for policy in ("parents", "leaf-first"):
        assert figures.error("zipf", 64, policy) <= 5.0
        assert figures.within("zipf", 64, policy)
    # The mail's claim, by the tables that a root leads to.
    assert figures.change("zipf", 64, "parents", "in_reach_amplitude") < -0.1
    assert figures.change("zipf", 64, "parents", "page_faults") < -0.1


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
