# SPDX-License-Identifier: Apache-2.0
"""From rows to docs/experiment.csv."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROWS = DOCS / "experiment.csv"


def write(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with ROWS.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
