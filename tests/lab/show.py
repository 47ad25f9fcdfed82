# SPDX-License-Identifier: Apache-2.0
"""The main job, in the lab: guests on a patched KVM, the daemon beside them, its metrics on this machine."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from types import FrameType
from typing import get_args

from shadowwatch.commands.ending import unwinding
from shadowwatch.control.client import connect
from shadowwatch.view import top
from shadowwatch.view.columns import DEFAULT, choose
from shadowwatch.view.state import State
from tests.lab.cache import Progress
from tests.lab.connection import free_port
from tests.lab.errors import LabError
from tests.lab.guest import BOOT_SECONDS, Guest, RealGuest
from tests.lab.machine import Lab, Policy
from tests.lab.scrape import PORT, Metrics, scrape, scrape_until
from tests.lab.snapshot import ready
from tests.lab.workload import Vmm, Workload

#: The RFC's case: a limit of 64 shadow pages, and a guest that wants more.
GUESTS = (Workload("rfc-zipf", accesses=3_000), Workload("rfc-hotset", "hotset", accesses=3_000))
REAL = "linux"
#: Between rounds: an emulated machine has little to spare for two storms and their watcher.
PAUSE_MS = 400
#: Between looks at whether the real Linux has booted.
LOOK_SECONDS = 1.0

ELSEWHERE = """\
Elsewhere:
  curl -s {url}metrics | grep recently_parented
  make lab ARGS="--workload zipf"    a root shell beside a watched guest
"""


def summary(metrics: Metrics) -> str:
    """What was seen so far, a line for each VM."""
    lines = []
    for vm in sorted(metrics.by("vm", "allocations_total")):
        zaps = metrics.by("level", "zaps_total", vm=vm, cause="quota")
        directories = sum(count for level, count in zaps.items() if level != "1")
        recent = metrics.sum("recently_parented_zaps_total", vm=vm)
        lines.append(
            f"{vm}: reclaimed {sum(zaps.values()):,.0f} pages, {directories:,.0f} directories,"
            f" {recent:,.0f} recently parented"
        )
    lost = metrics.sum("events_lost_total")
    lines.append(f"{metrics.sum('events_received_total'):,.0f} events, {lost:,.0f} lost")
    return "\n".join(lines)


class NextPolicy:
    """Switches the reclaim policy, from stock order through all that the patched KVM has."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._policies: Iterator[Policy] = cycle(get_args(Policy))
        self()

    def __call__(self) -> None:
        """Switch it."""
        self._lab.policy(next(self._policies))


@contextmanager
def booting(guest: Guest, seconds: float = BOOT_SECONDS) -> Iterator[None]:
    """Let whatever goes on meanwhile end with LabError when the guest does not come to its init."""

    def look(number: int, frame: FrameType | None) -> None:
        if not guest.booting(seconds):
            signal.setitimer(signal.ITIMER_REAL, 0)

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(progress: Progress) -> int:
    """Watch, publish, show; until the person ends it, or SIGINT or SIGTERM comes."""
    with ExitStack() as open_now:
        if top.has_terminal(sys.stdout):
            open_now.enter_context(unwinding())
        lab = open_now.enter_context(ready("run", daemon="", progress=progress))
        next_policy = NextPolicy(lab)
        try:
            port = lab.forward(PORT, PORT)
        except LabError:
            port = lab.forward(PORT, free_port())
        for workload in GUESTS:
            open_now.enter_context(Vmm(lab, workload, rounds=0, pause_ms=PAUSE_MS))
        progress(f"guests: {', '.join(workload.name for workload in GUESTS)} run, {REAL} boots")
        real = open_now.enter_context(RealGuest(lab, name=REAL, endless=True))
        open_now.enter_context(booting(real))
        metrics = scrape_until(port, lambda metrics: metrics.sum("zaps_total") > 0)
        url = f"http://127.0.0.1:{port}/"
        if top.has_terminal(sys.stdout):
            print(ELSEWHERE.format(url=url), file=sys.stderr)
            state = State(choose(DEFAULT), "recent")
            top.interactive(
                connect(lab.control()),
                state,
                sys.stdout,
                sys.stdin.fileno(),
                {"p": ("switch reclaim_policy", next_policy)},
            )
        else:
            print(f"{url}metrics\n{summary(metrics)}", flush=True)
            while signal.sigwait({signal.SIGINT, signal.SIGTERM, signal.SIGALRM}) == signal.SIGALRM:
                real.booting()
        print(summary(scrape(port)), flush=True)
    return 0
