# SPDX-License-Identifier: Apache-2.0
"""Small captures from the lab: `python -m tests.captures` records them again."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent

#: name -> file: Zipf over 16 directories × 8 tables with 64 shadow pages, on each KVM and order.
CAPTURES = {name: HERE / f"{name}.capture" for name in ("debian", "stock", "parents")}
