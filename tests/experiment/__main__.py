# SPDX-License-Identifier: Apache-2.0
"""`make experiment`: run every case under every policy in the lab, and write docs/experiment.*."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.experiment.analysis import analyse, together
from tests.experiment.cases import CASES, Case
from tests.experiment.report import ROWS, read, write
from tests.experiment.runs import Counted, LockTimes, Run, execute, recording, runs
from tests.lab.errors import LabError
from tests.lab.machine import Lab, Policy, say

Row = dict[str, Any]

#: Stock order first, from which all else is predicted; the mistake is none of the mail's ideas.
POLICIES: tuple[Policy, ...] = ("stock", "parents", "mapped", "leaf-first")


def bare(case: Case, policies: Sequence[Policy]) -> list[Row]:
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
    return list(rows.values())


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


def watched(lab: Lab, case: Case, policies: Sequence[Policy], folder: Path) -> list[Row]:
    """The runs of a case while the lab's daemon records them, and what the kernel counted."""
    rows = []
    for limit in case.limits:
        with recording(lab, folder / f"{case.name}-{limit}.capture"):
            for run in runs(case, policies):
                if run.limit == limit:
                    row = _counts(run, execute(lab, run))
                    # Of a real guest no two runs are alike: what is predicted is compared with these.
                    row["watched_page_faults"] = row["page_faults"]
                    rows.append(row)
    return rows


def judge(case: Case, folder: Path, rows: Iterable[Row]) -> None:
    """Add to the rows of a case what its recordings tell, and what they predict from the run in stock order."""
    for limit in case.limits:
        vms = analyse(folder / f"{case.name}-{limit}.capture")
        for row in rows:
            if (row["case"], row["limit"]) != (case.name, limit):
                continue
            own, stock = (
                [vms[name] for name in Run(case, limit, row["seed"], policy).names()]
                for policy in (row["policy"], POLICIES[0])
            )
            row |= together(own)
            made = [vm.estimates[row["policy"]] for vm in own]
            row["table_faults"] = sum(each.recorded_faults for each in made)
            row["reproduced"] = int(all(each.reproduced == each.recorded_zaps == each.zaps for each in made))
            predicted = [vm.estimates[row["policy"]] for vm in stock]
            row["predicted_faults"] = round(sum(each.faults + each.likely for each in predicted))
            row["predicted_least"] = sum(each.faults for each in predicted)
            row["predicted_most"] = sum(each.faults + each.unseen for each in predicted)
            row["predicted_zaps"] = round(sum(each.zaps + each.likely for each in predicted))


def main(words: Sequence[str]) -> None:
    """Measure the cases, all of them without any named, keep the rows, and write the report."""
    parser = argparse.ArgumentParser(prog="make experiment")
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[*CASES, []], help=f"of {', '.join(CASES)}")
    parser.add_argument("--keep", metavar="FOLDER", help="keep the recordings there")
    parser.add_argument("--again", action="store_true", help="run nothing, but read the recordings that were kept")
    arguments = parser.parse_args(words)
    begun = time.monotonic()
    names = arguments.cases or list(CASES)
    before = read()
    rows = [row for row in before if row["case"] not in names]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(arguments.keep or temporary)
        folder.mkdir(exist_ok=True)
        for name in names:
            mine = [row for row in before if row["case"] == name]
            if not arguments.again:
                mine = bare(CASES[name], POLICIES)
                with Lab.boot(kvm="patched", mode=CASES[name].mode, progress=say) as lab:
                    lab.start_daemon()
                    again = watched(lab, CASES[name], POLICIES, folder)
                for row in mine:
                    key = row["limit"], row["seed"], row["policy"]
                    same = next(each for each in again if (each["limit"], each["seed"], each["policy"]) == key)
                    row["watched_page_faults"] = same["watched_page_faults"]
            judge(CASES[name], folder, mine)
            rows += mine
            write(rows, folder)
    say(f"experiment: {len(rows)} runs are in {ROWS}, {time.monotonic() - begun:,.0f} s")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LabError as error:
        sys.exit(f"experiment: {error}")
