# SPDX-License-Identifier: Apache-2.0
"""`make dashboards` writes the JSON files."""

from __future__ import annotations

from pathlib import Path

from dashboards.fleet import FLEET
from dashboards.grafana import encode
from dashboards.host import HOST
from dashboards.vm import VM

HERE = Path(__file__).parent
DASHBOARDS = (HOST, VM, FLEET)

if __name__ == "__main__":
    for dashboard in DASHBOARDS:
        (HERE / f"{dashboard.name}.json").write_text(encode(dashboard))
