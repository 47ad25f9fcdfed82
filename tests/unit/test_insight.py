# SPDX-License-Identifier: Apache-2.0
"""The sentence that says which VM thrashes, whether it is the RFC's problem, and what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from shadowwatch.facts import PAGING
from shadowwatch.mmu.cause import Cause
from shadowwatch.source import Status
from shadowwatch.view.columns import Row
from shadowwatch.view.insight import insight
from tests.unit.lively import watched
from tests.unit.story import FACTS

STOCK = Status(FACTS, "", None, None)
PATCHED = Status(FACTS, "stock", None, None)
PARENTS = Status(FACTS, "parents", None, None)


def rows(seconds: float = 10.0, **changed: object) -> Sequence[Row]:
    """The lively VMs, of which the first one has these fields otherwise."""
    first, *others = watched().snapshot().vms
    return [Row(replace(first, **changed), None, seconds), *(Row(vm, None, seconds) for vm in others)]  # type: ignore[arg-type]


def test_the_rfcs_problem_is_named_with_its_cure() -> None:
    """The VM, its rate, the share, and what would keep the directories on this very kernel."""
    said = insight(rows(), STOCK)
    assert said.startswith(
        "web1 thrashes: it reclaims 426 pages/s with a limit of 64. 100% of the directories among them"
    )
    assert said.endswith("the RFC's problem. A KVM that moves parents up would keep them, a higher limit may.")
    assert insight(rows(), PATCHED).endswith("the RFC's problem. reclaim_policy parents would keep them.")
    assert insight(rows(), PARENTS).endswith("Parents are moved up already: a higher limit would help.")


def test_thrashing_without_recently_parented_directories_is_not_the_rfcs_problem() -> None:
    """In stock order and with parents moved up."""
    for status in (STOCK, PARENTS):
        said = insight(rows(recently_parented_zaps={}), status)
        assert said.startswith("web1 thrashes")
        assert said.endswith(
            "Directories that had just been given a child are not among them: it needs a higher limit."
        )


def test_little_reclaim_is_no_thrashing() -> None:
    """A VM may go on for long at its limit."""
    assert insight(rows(zaps={(1, Cause.QUOTA): 20}), STOCK) == (
        "web1 reclaims 2 pages/s, few for its limit of 64: it does not thrash."
    )
    assert insight(rows(zaps={(1, Cause.MEMSLOT): 2000}), STOCK) == "No VM reclaims shadow pages now."
    assert insight(rows(seconds=0.0), STOCK) == "No VM reclaims shadow pages now."


def test_reclaim_of_the_newest_is_named() -> None:
    """Before anything else."""
    assert "reclaim takes the newest pages" in insight(rows(newest_first=True), STOCK)


@pytest.mark.parametrize("paging", ["tdp_mmu", "tdp_mmu_nested"])
def test_a_host_with_the_tdp_mmu_is_told_so(paging: str) -> None:
    """Unless a nested guest has shadow pages, which are then what matters."""
    status = replace(STOCK, facts=replace(FACTS, paging=paging))
    empty = [Row(replace(row.vm, pages={}, zaps={}), None, 1.0) for row in rows()]
    assert insight(empty, status) == f"{PAGING[paging]}."
    assert "thrashes" in insight(rows(), status)


def test_no_vm_is_said_in_words() -> None:
    """Ended ones are none."""
    assert insight([], STOCK) == "No VM is running."
    assert insight([Row(replace(row.vm, ended=True), None, 1.0) for row in rows()], STOCK) == "No VM is running."
