# SPDX-License-Identifier: Apache-2.0
"""What the dashboards ask of Prometheus, as Grafana would ask it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DASHBOARDS = Path(__file__).parents[1] / "dashboards"


@dataclass(frozen=True)
class PanelQuery:
    """One query of a panel, with all hosts and VMs chosen."""

    dashboard: str
    panel: str
    expr: str


def panel_queries(window: str) -> Iterator[PanelQuery]:
    """Yield every query of the committed dashboards; `window` is how far back rates look."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", ()):
                expr = target["expr"]
                for variable in ("$__rate_interval", "$__range"):
                    expr = expr.replace(variable, window)
                for variable in ("$job", "$instance", "$vm"):
                    expr = re.sub(f'=~?"{re.escape(variable)}"', '=~".*"', expr)
                yield PanelQuery(path.stem, panel["title"], expr)
