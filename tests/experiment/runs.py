# SPDX-License-Identifier: Apache-2.0
"""Running cases in the lab: bare for the instructions, once for the time under mmu_lock, once recorded."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.experiment.cases import Case
from tests.lab.errors import LabError
from tests.lab.guest import RealGuest
from tests.lab.lines import line_within
from tests.lab.machine import Lab, Policy
from tests.lab.workload import Vmm

RECORDER_SECONDS = 120.0


@dataclass(frozen=True)
class Run:
    """One case under one policy, at one limit, with one seed."""

    case: Case
    limit: int
    seed: int
    policy: Policy

    def names(self) -> list[str]:
        """What its VMs are called."""
        if not self.case.workloads:
            return [f"{self.case.name}-{self.limit}-{self.seed}-{self.policy}"]
        return [workload.name for workload in self.case.vms(self.limit, self.seed, self.policy)]


@dataclass(frozen=True)
class Counted:
    """What the kernel counted for one run, all of its VMs together; `instructions` of their processes."""

    pids: tuple[int, ...]
    page_faults: int
    allocations: int
    zaps: int
    reclaimed: int
    instructions: int


def runs(case: Case, policies: Sequence[Policy]) -> Iterator[Run]:
    """The runs of a case, those to be compared after one another."""
    for limit in case.limits:
        for seed in case.seeds:
            yield from (Run(case, limit, seed, policy) for policy in policies)


def execute(lab: Lab, run: Run) -> Counted:
    """Run it, and return the kernel's counters at its end."""
    lab.policy(run.policy)
    with ExitStack() as alive:
        if not run.case.workloads:
            guest = alive.enter_context(RealGuest(lab, name=run.names()[0], pages=run.limit))
            guest.wait()
            guest.stop()
            used = lab.run(f"cat /proc/{guest.pid}/schedstat").stdout.split()[0]
            readings = [(guest.pid, int(used), guest.counters())]
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


class LockTimes:
    """The tool that adds up how long processes hold mmu_lock, while it listens."""

    def __init__(self, lab: Lab) -> None:
        command = "exec python3 /srv/shadowwatch/tests/experiment/lock_time.py"
        self._process = lab.popen(command, stderr=subprocess.STDOUT)
        self._answer("listening")

    def _answer(self, wanted: str) -> str:
        said = []
        while line := line_within(RECORDER_SECONDS, self._process, self._process.stdout):
            if line.startswith(wanted):
                return line
            said.append(line)
        raise LabError(f"lock_time.py ended in the lab, and said: {''.join(said[-3:])}")

    def read(self) -> dict[int, tuple[int, int, int]]:
        """(times, ns, longest ns) by process."""
        assert self._process.stdin
        print(file=self._process.stdin, flush=True)
        return {int(pid): tuple(total) for pid, total in json.loads(self._answer("{")).items()}

    def close(self) -> None:
        """Detach."""
        self._process.communicate(timeout=RECORDER_SECONDS)


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
