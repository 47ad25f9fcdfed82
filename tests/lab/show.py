# SPDX-License-Identifier: Apache-2.0
"""The main job, in the lab: guests on a patched KVM, the daemon beside them, its metrics on this machine."""

from __future__ import annotations

import select
import signal
import sys
import termios
import time
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tests.lab.cache import Progress
from tests.lab.connection import free_port
from tests.lab.errors import LabError
from tests.lab.guest import RealGuest
from tests.lab.machine import Lab, Policy
from tests.lab.scrape import PORT, Metrics, scrape, scrape_until
from tests.lab.workload import Vmm, Workload

SECONDS = 1.0
#: The RFC's case: a limit of 64 shadow pages, and a guest that wants more.
GUESTS = (Workload("rfc-zipf", accesses=3_000), Workload("rfc-hotset", "hotset", accesses=3_000))
REAL = "linux"
#: Between rounds: an emulated machine has little to spare for two storms and their watcher.
PAUSE_MS = 400

TRY = """\
  p   switch the reclaim policy: in stock order, directories are reclaimed that
      had just been given a child; with parents moved up, none of them is
  q   end the lab

Elsewhere:
  curl -s {url}metrics | grep recently_parented
  make lab ARGS="--workload zipf"    a root shell beside a watched guest
  make test                          proves that every count is the kernel's own
"""


class Rates:
    """What changed between two scrapes, for each second and VM."""

    def __init__(self) -> None:
        #: The last two scrapes, and when they were.
        self._scrapes: deque[tuple[float, Metrics]] = deque(maxlen=2)

    def add(self, metrics: Metrics) -> None:
        """Take the newest scrape."""
        self._scrapes.append((time.monotonic(), metrics))

    def of(self, name: str, **labels: str) -> float | None:
        """The rate of a counter; None before the second scrape."""
        if len(self._scrapes) < 2:
            return None
        (then, before), (now, after) = self._scrapes
        return (after.sum(name, **labels) - before.sum(name, **labels)) / (now - then)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def table(metrics: Metrics, rates: Rates) -> Table:
    """One row for each VM."""
    shown = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    shown.add_column("\nVM")
    for title in ("\npages", "\nlimit", "allocated\n/s", "reclaimed\n/s", "of these\ndirectories"):
        shown.add_column(title, justify="right")
    shown.add_column("recently\nparented", justify="right", header_style="bold red")
    shown.add_column("moves\n/s", justify="right")
    for vm in sorted(metrics.by("vm", "vm_info", state="running")):
        if not metrics.sum("allocations_total", vm=vm):
            continue  # the lab's own
        reclaimed = rates.of("zaps_total", vm=vm, cause="quota")
        tables = rates.of("zaps_total", vm=vm, cause="quota", level="1")
        recent = rates.of("recently_parented_zaps_total", vm=vm)
        shown.add_row(
            vm,
            _number(metrics.sum("pages", vm=vm)),
            _number(metrics.sum("pages_limit", vm=vm)),
            _number(rates.of("allocations_total", vm=vm)),
            _number(reclaimed),
            _number(None if reclaimed is None or tables is None else reclaimed - tables),
            Text(_number(recent), "bold red" if recent else "green"),
            _number(rates.of("parent_moves_total", vm=vm)),
        )
    return shown


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


@contextmanager
def _keys() -> Iterator[None]:
    """Read keys as they are pressed, and leave the terminal as it was."""
    saved = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, saved)


def _watch_on_terminal(lab: Lab, port: int, console: Console) -> None:
    policy: Policy = "stock"
    url = f"http://127.0.0.1:{port}/"
    rates = Rates()
    with _keys(), Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            metrics = scrape(port)
            rates.add(metrics)
            heading = Text.assemble(("shadowwatch", "bold"), f"   {url}   reclaim policy: ", (policy, "bold"))
            live.update(Group(heading, "", table(metrics, rates), "", TRY.format(url=url)), refresh=True)
            if select.select([sys.stdin], [], [], SECONDS)[0]:
                key = sys.stdin.read(1)
                if key == "q":
                    return
                if key == "p":
                    policy = "parents" if policy == "stock" else "stock"
                    lab.policy(policy)


def run(progress: Progress) -> int:
    """Boot, watch, publish, show; until the person ends it, or SIGINT or SIGTERM comes."""
    console = Console()
    with ExitStack() as open_now:
        lab = open_now.enter_context(Lab.boot(kvm="patched", progress=progress))
        lab.policy("stock")
        lab.start_daemon()
        try:
            port = lab.forward(PORT, PORT)
        except LabError:
            port = lab.forward(PORT, free_port())
        for workload in GUESTS:
            open_now.enter_context(Vmm(lab, workload, rounds=0, pause_ms=PAUSE_MS))
        progress(f"guests: {', '.join(workload.name for workload in GUESTS)} run, {REAL} boots")
        open_now.enter_context(RealGuest(lab, name=REAL, endless=True))
        metrics = scrape_until(port, lambda metrics: metrics.sum("zaps_total") > 0)
        progress(f"metrics: http://127.0.0.1:{port}/metrics")
        if console.is_terminal and sys.stdin.isatty():
            with suppress(KeyboardInterrupt):  # it is how people end things
                _watch_on_terminal(lab, port, console)
        else:
            print(f"http://127.0.0.1:{port}/metrics\n{summary(metrics)}", flush=True)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
        print(summary(scrape(port)), flush=True)
    return 0
