# SPDX-License-Identifier: Apache-2.0
"""What other reclaim policies would make of it, where the daemon estimates that (`run --what-if`)."""

from __future__ import annotations

from dashboards.declarations import Panel, Query, of_vm, rate

RECORDED = 'policy="as_recorded"'
FOLLOWED = 'policy!~"as_recorded|.*@.*"'
NOT_RECORDED = 'policy!="as_recorded"'


def _by_policy(series: str, *matchers: str) -> str:
    return f"sum by (policy) ({rate(of_vm(series, *matchers))})"


def spared(by: str) -> str:
    """Page faults per second that the best policy would save, of those that are followed."""
    recorded, followed = (rate(of_vm("shadowwatch_what_if_faults_total", policy)) for policy in (RECORDED, FOLLOWED))
    return f"{by} ({recorded}) - {by} (min without (policy) ({followed}))"


FAULTS = Panel(
    "Page faults by policy",
    "Page faults per second that build page tables, as they were and as estimated for each policy of `run --what-if`,"
    " with lower and upper bounds. No value: the daemon makes no estimate.",
    "series",
    "suffix:/s",
    (
        Query("{{policy}}", _by_policy("shadowwatch_what_if_faults_total")),
        Query("{{policy}}, at least", _by_policy("shadowwatch_what_if_faults_least_total", NOT_RECORDED)),
        Query("{{policy}}, at most", _by_policy("shadowwatch_what_if_faults_most_total", NOT_RECORDED)),
    ),
    width=24,
)
