# SPDX-License-Identifier: Apache-2.0
"""Runs in the lab, on its own Python: what a BPF program's table `totals` has of each process, whenever asked."""

from __future__ import annotations

import json
import sys

from bcc import BPF


def answer(bpf: BPF) -> None:
    """Print a line, then {pid: [each field of its total]} as JSON for each line of the input, until that ends."""
    print("listening", flush=True)
    for _ in sys.stdin:
        totals = {
            pid.value: [getattr(total, name) for name, *_ in total._fields_] for pid, total in bpf["totals"].items()
        }
        print(json.dumps(totals), flush=True)
