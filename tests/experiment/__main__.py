# SPDX-License-Identifier: Apache-2.0
"""`make experiment`: run what is not done yet of every case in the lab, and write docs/experiment.*."""

from __future__ import annotations

import argparse
import fcntl
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Process
from pathlib import Path

from tests.experiment.cases import CASES
from tests.experiment.kept import Kept
from tests.experiment.report import ROWS, read, write
from tests.experiment.rows import joined
from tests.experiment.runs import COUNTING, RECORDING, Part, blocks, do, execute, offered
from tests.lab.cache import default_root
from tests.lab.errors import LabError
from tests.lab.machine import Lab, build, say

LABS = 2


def kept() -> Kept:
    """The rows that the KVM of now has come to."""
    modules = build(progress=say).patched
    assert modules
    return Kept(default_root().parent / "experiment.jsonl", modules.name)


@contextmanager
def claimed(name: str, parts: Sequence[Part]) -> Iterator[bool]:
    """Whether no other process is at these parts of a case, and none will be meanwhile."""
    path = default_root().parent / "experiment.locks" / f"{name}-{parts[0]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def work(name: str, parts: Sequence[Part]) -> bool:
    """Do in a lab what is left of a case, after a run that warms it up and is thrown away; return whether all is done.

    A block that fails is said and left for the next time, and the others get a lab that has not seen it.
    """
    done = kept()
    case = CASES[name]
    left = [block for block in blocks(case, parts) if done.of(block) is None]
    failed = 0
    while left:
        with (
            Lab.boot(mode=case.mode, icount=parts is COUNTING, progress=say) as lab,
            tempfile.TemporaryDirectory() as folder,
        ):
            policies = offered(lab)
            if parts is RECORDING:
                lab.start_daemon()
            execute(lab, left[0].runs(policies)[0])
            while left:
                block, begun = left.pop(0), time.monotonic()
                what = f"experiment: {name}, {block.part}, seed {block.seed}:"
                try:
                    done.add(block, do(lab, block, policies, Path(folder)))
                except LabError as error:
                    say(f"{what} {error}")
                    failed += 1
                    break
                say(f"{what} {time.monotonic() - begun:.0f} s")
    return not failed


def go_on(names: Sequence[str]) -> None:
    """Do what nobody else is at, one after another."""
    whole = True
    try:
        # What the verdicts hang on first.
        for parts in (COUNTING, RECORDING):
            for name in names:
                with claimed(name, parts) as mine:
                    whole &= not mine or work(name, parts)
    except KeyboardInterrupt:
        say("experiment: stopped; it goes on from here the next time")
    except LabError as error:
        sys.exit(f"experiment: {error}")
    if not whole:
        sys.exit("experiment: not all could be done, as said above; it is tried again the next time")


def main(words: Sequence[str]) -> int:
    """Go on with these cases, all of them without any named, and write the report of all that is done."""
    parser = argparse.ArgumentParser(prog="make experiment", description=main.__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", choices=[*CASES, []], help=f"of {', '.join(CASES)}")
    parser.add_argument("--labs", type=int, default=LABS, help=f"so many side by side (default {LABS})")
    parser.add_argument(
        "--report", action="store_true", help="run nothing, but write the report of docs/experiment.csv"
    )
    arguments = parser.parse_args(words)
    if arguments.report:
        write(read())
        return 0
    begun = time.monotonic()
    kept()  # what a lab is made of is there before two want it
    labs = [Process(target=go_on, args=(arguments.cases or list(CASES),)) for _ in range(arguments.labs)]
    for lab in labs:
        lab.start()
    for lab in labs:
        try:
            lab.join()
        except KeyboardInterrupt:  # which the other processes have got as well
            lab.join()
    rows = joined(kept())
    write(rows)
    say(f"experiment: {len(rows)} rows are in {ROWS}, {time.monotonic() - begun:,.0f} s")
    return max(lab.exitcode or 0 for lab in labs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
