# SPDX-License-Identifier: Apache-2.0
"""`make experiment`: run every case under every policy in the lab, and write docs/experiment.*."""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.experiment.analysis import Recorded, analyse, together
from tests.experiment.cases import CASES, Case
from tests.experiment.report import ROWS, write
from tests.experiment.runs import Counted, LockTimes, Run, execute, recording, runs
from tests.lab.errors import LabError
from tests.lab.machine import Lab, Policy, say

Row = dict[str, Any]

#: The mistake is none of the mail's ideas.
POLICIES: tuple[Policy, ...] = ("stock", "parents", "mapped", "leaf-first")


def bare(case: Case, policies: Sequence[Policy]) -> dict[Run, Row]:
    """The runs with nobody watching, in a machine that counts instructions; then one seed again for the lock."""
    rows: dict[Run, Row] = {}
    with Lab.boot(kvm="patched", mode=case.mode, icount=True, progress=say) as lab:
        for run in runs(case, policies):
            counted = execute(lab, run)
            rows[run] = _counts(run, counted)
            say(f"experiment: {', '.join(run.names())}: {counted.page_faults:,} page faults")
        locks = LockTimes(lab)
        for run in runs(case, policies):
            if run.seed == case.seeds[0]:
                counted = execute(lab, run)
                held = [locks.read()[pid] for pid in counted.pids]
                rows[run]["lock_times"] = sum(times for times, _, _ in held)
                rows[run]["lock_ns"] = sum(ns for _, ns, _ in held)
                rows[run]["lock_longest_ns"] = max(longest for _, _, longest in held)
        locks.close()
    return rows


def _counts(run: Run, counted: Counted) -> Row:
    return {
        "case": run.case.name,
        "limit": run.limit,
        "seed": run.seed,
        "policy": run.policy,
        "page_faults": counted.page_faults,
        "allocations": counted.allocations,
        "zaps": counted.zaps,
        "reclaimed": counted.reclaimed,
        "instructions": counted.instructions,
    }


def recorded(case: Case, policies: Sequence[Policy], folder: Path) -> dict[Run, tuple[Counted, list[Recorded]]]:
    """The same runs while the daemon records them."""
    found: dict[Run, tuple[Counted, list[Recorded]]] = {}
    with Lab.boot(kvm="patched", mode=case.mode, progress=say) as lab:
        lab.start_daemon()
        for limit in case.limits:
            counts: dict[Run, Counted] = {}
            path = folder / f"{case.name}-{limit}.capture"
            with recording(lab, path):
                for run in runs(case, policies):
                    if run.limit == limit:
                        counts[run] = execute(lab, run)
            vms = analyse(path)
            found |= {run: (counted, [vms[name] for name in run.names()]) for run, counted in counts.items()}
    return found


def measure(case: Case, policies: Sequence[Policy], folder: Path) -> list[Row]:
    """All runs of a case, as rows of the table."""
    rows = bare(case, policies)
    watched = recorded(case, policies, folder)
    for run, row in rows.items():
        counted, vms = watched[run]
        # A real guest never runs the same way twice: what is compared with estimates is what was recorded.
        row["watched_page_faults"] = counted.page_faults
        row["watched_reclaimed"] = counted.reclaimed
        row |= together(vms)
        own = [vm.estimates[run.policy] for vm in vms]
        row["table_faults"] = sum(each.recorded_faults for each in own)
        row["reproduced"] = int(all(each.reproduced == each.recorded_zaps == each.zaps for each in own))
        base = next(
            stock for stock in rows if (stock.limit, stock.seed, stock.policy) == (run.limit, run.seed, "stock")
        )
        foretold = [vm.estimates[run.policy] for vm in watched[base][1]]
        row["foretold_faults"] = round(sum(each.faults + each.likely for each in foretold))
        row["foretold_least"] = sum(each.faults for each in foretold)
        row["foretold_most"] = sum(each.faults + each.unseen for each in foretold)
        row["foretold_zaps"] = round(sum(each.zaps + each.likely for each in foretold))
    return list(rows.values())


def main(words: Sequence[str]) -> None:
    """Measure the cases, all of them without any named, keep the rows, and write the report."""
    parser = argparse.ArgumentParser(prog="make experiment")
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[*CASES, []], help=f"of {', '.join(CASES)}")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the recordings there")
    arguments = parser.parse_args(words)
    begun = time.monotonic()
    names = arguments.cases or list(CASES)
    rows = []
    if ROWS.exists():
        with ROWS.open() as file:
            rows = [row for row in csv.DictReader(file) if row["case"] not in names]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.keep or temporary)
        folder.mkdir(exist_ok=True)
        for name in names:
            rows += measure(CASES[name], POLICIES, folder)
            write(rows)
    say(f"experiment: {len(rows)} runs are in {ROWS}, {time.monotonic() - begun:,.0f} s")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LabError as error:
        sys.exit(f"experiment: {error}")
