# SPDX-License-Identifier: Apache-2.0
"""Running cases in the lab, in blocks: each is one seed under every policy at every limit, in a shuffled order."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

from shadowwatch.simulate.policies import POLICIES
from tests.experiment.analysis import Recorded, analyse, ended, together
from tests.experiment.cases import SHOWN, Case
from tests.lab.errors import LabError
from tests.lab.guest import RealGuest
from tests.lab.lines import line_within
from tests.lab.machine import Lab, Policy
from tests.lab.workload import Vmm

Row = dict[str, Any]

RECORDER_SECONDS = 120.0

#: With nobody watching, in a machine that counts instructions; there again while something listens to how long
#: mmu_lock is held, and to how long it takes to link a page; recorded by shadowwatch; and in no lab at all.
Part = Literal["bare", "held", "linked", "recorded", "reference"]
COUNTING: Sequence[Part] = ("bare", "held", "linked")
RECORDING: Sequence[Part] = ("recorded",)


@dataclass(frozen=True)
class Run:
    """One case under one policy, at one limit, with one seed."""

    case: Case
    limit: int
    seed: int
    policy: str

    def names(self) -> list[str]:
        """What its VMs are called."""
        if self.case.linux:
            return [f"{self.case.name}-{self.limit}-{self.seed}-{self.policy}"]
        return [workload.name for workload in self.case.vms(self.limit, self.seed, self.policy)]

    def row(self) -> Row:
        """What tells it from others."""
        return {"case": self.case.name, "limit": self.limit, "seed": self.seed, "policy": self.policy}


@dataclass(frozen=True)
class Block:
    """One seed of a case, run in one way."""

    case: Case
    part: Part
    seed: int

    def runs(self, policies: Sequence[str]) -> list[Run]:
        """Its runs, so that no policy is always the first and none is compared with one of long before."""
        made = [Run(self.case, limit, self.seed, policy) for limit in self.case.limits for policy in policies]
        random.Random(f"{self.case.name} {self.part} {self.seed}").shuffle(made)  # noqa: S311
        return made


def blocks(case: Case, parts: Sequence[Part]) -> list[Block]:
    """What is to be done of a case in one lab."""
    seeds = {"bare": case.seeds, "held": case.seeds[:1], "linked": case.seeds[:1], "recorded": case.recorded}
    return [Block(case, part, seed) for part in parts for seed in seeds[part]]


def offered(lab: Lab) -> list[str]:
    """The policies that the simulator knows and the lab's KVM has, stock order first."""
    return [name for name in POLICIES if _takes(lab, name)]


def _takes(lab: Lab, policy: str) -> bool:
    try:
        lab.policy(cast(Policy, policy))
    except LabError:
        return False
    return True


@dataclass(frozen=True)
class Counted:
    """What the kernel counted for one run, all of its VMs together.

    `instructions` are those of the small guests' processes, and of a Linux those of its vCPU's thread.
    """

    pids: tuple[int, ...]
    page_faults: int
    allocations: int
    zaps: int
    reclaimed: int
    instructions: int

    def row(self) -> Row:
        """All but the processes."""
        return {name: value for name, value in asdict(self).items() if name != "pids"}


def execute(lab: Lab, run: Run) -> Counted:
    """Run it, and return the kernel's counters at its end."""
    lab.policy(cast(Policy, run.policy))
    with ExitStack() as alive:
        if run.case.linux:
            guest = alive.enter_context(RealGuest(lab, name=run.names()[0], pages=run.limit, **asdict(run.case.linux)))
            guest.wait()
            guest.stop()
            readings = [(guest.pid, guest.vcpu_ns(), guest.counters())]
        else:
            vmms = [alive.enter_context(Vmm(lab, vm)) for vm in run.case.vms(run.limit, run.seed, run.policy)]
            readings = [
                (each.pid, each.cpu_us * 1000, dict(each.counters)) for each in (vmm.finished() for vmm in vmms)
            ]
    return Counted(
        pids=tuple(pid for pid, _, _ in readings),
        page_faults=sum(counters["pf_taken"] for _, _, counters in readings),
        allocations=sum(counters["mmu_cache_miss"] for _, _, counters in readings),
        zaps=sum(counters["mmu_shadow_zapped"] for _, _, counters in readings),
        reclaimed=sum(counters["mmu_recycled"] for _, _, counters in readings),
        instructions=sum(used for _, used, _ in readings),
    )


def do(lab: Lab, block: Block, policies: Sequence[str], folder: Path) -> list[Row]:
    """The runs of a block, and what each came to."""
    return DOES[block.part](lab, block.runs(policies), folder)


def _bare(lab: Lab, runs: Sequence[Run], folder: Path) -> list[Row]:
    return [run.row() | execute(lab, run).row() for run in runs]


def _held(lab: Lab, runs: Sequence[Run], folder: Path) -> list[Row]:
    rows = []
    with listening(lab, "lock_time") as read:
        for run in runs:
            held = [read()[pid] for pid in execute(lab, run).pids]
            times, ns, longest = zip(*held, strict=True)
            rows.append(run.row() | {"lock_times": sum(times), "lock_ns": sum(ns), "lock_longest_ns": max(longest)})
    return rows


def _linked(lab: Lab, runs: Sequence[Run], folder: Path) -> list[Row]:
    rows = []
    with listening(lab, "link_time") as read:
        for run in runs:
            counted = execute(lab, run)
            links, ns, mappings = (sum(each) for each in zip(*(read()[pid] for pid in counted.pids), strict=True))
            rows.append(run.row() | {"timed_links": links, "link_ns": ns, "mappings": mappings})
    return rows


@contextmanager
def listening(lab: Lab, tool: str) -> Iterator[Callable[[], dict[int, list[int]]]]:
    """Run one of this folder's tools in the lab, and yield what asks it for its totals by process."""
    command = f"cd /srv/shadowwatch && exec python3 -m tests.experiment.{tool}"
    process = lab.popen(command, stderr=subprocess.STDOUT)

    def answer(wanted: str) -> str:
        said = []
        while line := line_within(RECORDER_SECONDS, process, process.stdout):
            if line.startswith(wanted):
                return line
            said.append(line)
        raise LabError(f"{tool} ended in the lab, and said: {''.join(said[-3:])}")

    def read() -> dict[int, list[int]]:
        print(file=process.stdin, flush=True)
        return {int(pid): total for pid, total in json.loads(answer("{")).items()}

    answer("listening")
    yield read
    process.communicate(timeout=RECORDER_SECONDS)


def _recorded(lab: Lab, runs: Sequence[Run], folder: Path) -> list[Row]:
    """What recordings tell of the runs, and what the one in stock order predicts of the others."""
    path = folder / f"{runs[0].case.name}-{runs[0].seed}.capture"
    with recording(lab, path):
        # Of a real guest no two runs are alike: what is predicted is compared with these.
        rows = [run.row() | {"watched_page_faults": execute(lab, run).page_faults} for run in runs]
    vms = analyse(path)
    for run, row in zip(runs, rows, strict=True):
        stock = Run(run.case, run.limit, run.seed, "stock")
        row |= together([vms[name] for name in run.names()])
        if run.case.in_turn:
            row |= ended(vms[run.names()[0]])
        if ((run.case.name, run.limit), run.seed) == SHOWN:
            row["over_time"] = list(vms[run.names()[0]].over_time)
        row |= _predicted(run.policy, [vms[name] for name in run.names()], [vms[name] for name in stock.names()])
    return rows


def _predicted(policy: str, own: Sequence[Recorded], stock: Sequence[Recorded]) -> Row:
    made = [vm.estimates[policy] for vm in own]
    predicted = [vm.estimates[policy] for vm in stock]
    return {
        "table_faults": sum(each.recorded_faults for each in made),
        "reproduced": int(all(each.reproduced == each.recorded_zaps == each.zaps for each in made)),
        "predicted_faults": round(sum(each.faults + each.likely for each in predicted)),
        "predicted_least": sum(each.faults for each in predicted),
        "predicted_most": sum(each.faults + each.unseen for each in predicted),
        "predicted_zaps": round(sum(each.zaps + each.likely for each in predicted)),
    }


@contextmanager
def recording(lab: Lab, target: Path) -> Iterator[None]:
    """Have the daemon record what happens meanwhile."""
    name = f"{target.stem}.capture"
    recorder = lab.popen(f"exec shadowwatch record /srv/out/{name}", stderr=subprocess.STDOUT)
    line = line_within(RECORDER_SECONDS, recorder, recorder.stdout)
    if "recording to" not in line:
        raise LabError(f"shadowwatch record did not begin: {line}")
    try:
        yield
    finally:
        lab.run("pkill -INT -f 'shadowwatch record'")
        recorder.communicate(timeout=RECORDER_SECONDS)
    shutil.move(lab.out / name, target)


DOES: dict[Part, Callable[[Lab, Sequence[Run], Path], list[Row]]] = {
    "bare": _bare,
    "held": _held,
    "linked": _linked,
    "recorded": _recorded,
}
