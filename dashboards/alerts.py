# SPDX-License-Identifier: Apache-2.0
"""What the alert rules say of a fix, for panels that show which of them fire."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from dashboards.declarations import Panel, Query, of_host, of_vm

RULES = Path(__file__).parents[1] / "prometheus" / "rules.yml"


def _fixes() -> Mapping[str, str]:
    """Alert → its fix."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    return {alert["alert"]: alert["annotations"]["description"].partition("Fix: ")[2] for alert in alerts}


FIXES = _fixes()
FIRING = ('alertstate="firing"', f'alertname=~"{"|".join(FIXES)}"')


def firing(series: str) -> Panel:
    """A table of what fires, with the fixes."""
    return Panel(
        "Fixes",
        "The alerts that fire, and what helps against each. The daemon's /runbook has more on them.",
        "table",
        "short",
        (
            Query(
                "",
                "label_replace(sum by (alertname, severity, instance, vm) "
                f'({series}), "fix", "$1", "alertname", "(.*)")',
            ),
        ),
        width=24,
        texts=FIXES,
        texts_in="fix",
    )


ON_HOST = firing(of_host("ALERTS", *FIRING))
ON_VM = firing(of_vm("ALERTS", *FIRING))
COUNT = Panel(
    "Alerts",
    "How many of shadowwatch's alerts fire; Fixes says which, and what helps.",
    "stat",
    "none",
    (Query("firing", f"count({of_host('ALERTS', *FIRING)}) or vector(0)"),),
    width=4,
    colours=((0, "green"), (1, "red")),
)
