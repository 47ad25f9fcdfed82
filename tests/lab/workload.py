# SPDX-License-Identifier: Apache-2.0
"""Guests that touch a list of addresses: the same workload gives the same counts in every lab."""

import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Literal

from tests.lab.ending import Ending
from tests.lab.errors import LabError
from tests.lab.lines import line_within
from tests.lab.machine import Lab

Pattern = Literal["uniform", "zipf", "hotset", "sequential"]
LINE_SECONDS = 300.0


@dataclass(frozen=True)
class Workload:
    """What the small VMM's guest touches, and how many shadow pages KVM may keep for it."""

    name: str
    pattern: Pattern = "zipf"
    directories: int = 16
    tables: int = 8
    accesses: int = 30_000
    seed: int = 1
    pages: int = 64
    spread: bool = False  # guest-physical memory as well, for when KVM uses nested paging
    nested: bool = False  # in a guest's guest, for when KVM has them
    inner: int = 1  # so many of those, which take turns
    touched: int = 1  # pages of each table
    vcpus: int = 1
    rewrites: bool = False  # of directories
    unrest: bool = False  # memory slots and the limit that change, all the time
    thread: bool = False  # the VM is made by a thread, which ends
    processor: int | None = None  # of the lab: all of the VMM runs on it
    yields: bool = False  # the processor to others, the daemon above all: an emulated one is slow

    def argv(self, rounds: int = 1, pause_ms: int = 0) -> list[str]:
        """Return the command for the lab; no rounds means until it is told to end."""
        return [
            *([] if self.processor is None else ["taskset", "-c", str(self.processor)]),
            *(["nice", "-n", "19"] if self.yields else []),
            *("/srv/lab/vmm", "--name", self.name, "--pattern", self.pattern, "--seed", str(self.seed)),
            *("--directories", str(self.directories), "--tables", str(self.tables)),
            *("--accesses", str(self.accesses), "--pages", str(self.pages)),
            *("--rounds", str(rounds), "--pause-ms", str(pause_ms)),
            *("--spread", str(int(self.spread)), "--nested", str(int(self.nested)), "--inner", str(self.inner)),
            *("--touched", str(self.touched), "--unrest", str(int(self.unrest))),
            *("--thread", str(int(self.thread))),
            *("--vcpus", str(self.vcpus), "--rewrites", str(int(self.rewrites))),
        ]


# The kinds of access that the project's figures are about.
WORKLOADS: Mapping[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("uniform", "uniform"),
        Workload("zipf", "zipf"),
        Workload("hotset", "hotset"),
        Workload("sequential", "sequential"),
    )
}


@dataclass(frozen=True)
class Reading:
    """What the VMM says of itself: the kernel's counters of its VM, and the processor time it has had."""

    name: str
    pid: int
    rounds: int
    cpu_us: int
    counters: Mapping[str, int]


def reading_of(process: subprocess.Popen[str], name: str) -> Reading:
    """Wait for the next line that a VMM says of itself."""
    line = line_within(LINE_SECONDS, process, process.stdout)
    try:
        return Reading(**json.loads(line))
    except ValueError:
        said = line.strip() or "nothing"
        raise LabError(f"workload {name} ended in the lab, and said: {said}") from None


class Vmm(Ending):
    """A workload that runs in the lab; quit() or the end of a `with` statement ends it."""

    def __init__(self, lab: Lab, workload: Workload, *, rounds: int = 1, pause_ms: int = 0) -> None:
        self.workload = workload
        self._process = lab.popen(workload.argv(rounds, pause_ms), stderr=subprocess.STDOUT)

    def finished(self) -> Reading:
        """Wait until the rounds that it was started with are done."""
        return reading_of(self._process, self.workload.name)

    def again(self) -> Reading:
        """Touch the whole list once more and wait for the end of it."""
        return self.do("run")

    def counters(self) -> Mapping[str, int]:
        """Return the kernel's counters as they are now, or after the round that is under way."""
        return self.do("stats").counters

    def do(self, command: str) -> Reading:
        """Have the VMM or its guest do what one line of vmm.c's commands[] says, and wait for the end of it."""
        _ask(self._process.stdin, command)
        return self.finished()

    def quit(self) -> None:
        """End the VM."""
        if self._process.poll() is None:
            _ask(self._process.stdin, "quit")
            self._process.communicate()


def _ask(stdin: IO[str] | None, request: str) -> None:
    with suppress(BrokenPipeError):  # it has ended: what it said last is still to be read
        print(request, file=stdin, flush=True)
