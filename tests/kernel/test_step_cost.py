# SPDX-License-Identifier: Apache-2.0
"""What a walk may cost a VM in one hit of a probe, beneath mmu_lock: counted instructions, not time."""

from __future__ import annotations

import json
from statistics import median

import pytest

from shadowwatch.event.abi import STEP_RECORDS
from tests.lab.machine import Lab, say

#: A pte_list_desc has so many parents at most (Linux 5.13 to 6.x), and all of one are told in one step.
DESC = 14


@pytest.mark.soak
def test_a_step_is_bounded_also_over_a_page_with_a_thousand_parents() -> None:
    """It has no more records than the bound, and costs less than three zaps do, a sixth of a reclaim."""
    with Lab.boot(kvm="stock", icount=True, progress=say) as lab:
        measured = json.loads(lab.run("cd /srv/shadowwatch && python3 -m tests.lab.step_cost").stdout)
    steps = measured["steps"]
    costs = [cost for _, _, cost in steps]
    parents = [cost for records, parents, cost in steps if records == parents]
    pages = [cost for _, parents, cost in steps if not parents]
    zap, reclaim = median(measured["zaps"]), median(measured["reclaims"])
    say(
        f"instructions of a step: over parents {median(parents):,.0f} ({len(parents)}), over pages {median(pages):,.0f}"
        f" ({len(pages)}), at most {max(costs):,}; of a zap {zap:,.0f}, of a reclaim {reclaim:,.0f}"
    )
    assert sum(parents for _, parents, _ in steps) > 1000
    assert max(records for records, _, _ in steps) < STEP_RECORDS + DESC
    assert max(costs) < 3 * zap
    assert max(costs) < reclaim / 6
