# SPDX-License-Identifier: Apache-2.0
"""Runs in the lab, on its own Python: what a step of a walk costs beneath mmu_lock, over a page with 1,000 parents.

Prints as JSON the nanoseconds, instructions where the lab counts these: of each step, with its records and how many of
them are parents; of each zap by reclaim, from one to the next; and of each reclaim, from its begin to its last zap.
"""

from __future__ import annotations

import json
import subprocess
import time
from itertools import pairwise
from typing import Any

from shadowwatch.event.abi import Event, Kind, decode
from shadowwatch.event.request import Requests
from shadowwatch.event.ring import Ring
from shadowwatch.probe.attach import load
from shadowwatch.probe.checks import require
from shadowwatch.probe.host import gather

PAGES = 1024
PARENTS, MORE, WALKS = 1000, 150, 6


class Vmm:
    """A guest of /srv/lab/vmm, which does what it is told."""

    def __init__(self, **options: object) -> None:
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            ["/srv/lab/vmm", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout
        self._process.stdout.readline()

    def do(self, command: str) -> None:
        """Have it do this, and wait for the end of it."""
        print(command, file=self._process.stdin, flush=True)
        self._answer()

    def quit(self) -> None:
        """End it."""
        self._process.communicate()


def steps(events: list[Event]) -> list[tuple[int, int, int]]:
    """Records, parents and time of each step that the probe of a link made before its own event."""
    found = []
    for place, step in enumerate(events):
        told = events[place + 1 : place + 1 + step.used]
        after = events[place + 1 + len(told) :][:1]
        if step.kind == Kind.STEP and after and (after[0].kind, after[0].seq) == (Kind.LINK, step.seq + 1):
            found.append((step.used, sum(event.kind == Kind.PARENT for event in told), after[0].ns - step.ns))
    return found


def reclaims(events: list[Event]) -> tuple[list[int], list[int]]:
    """Times of each zap, and of each reclaim."""
    zaps, all_of_it, begun = [], [], 0
    for event, following in pairwise(events):
        if event.kind == Kind.RECLAIM:
            begun = event.ns
        elif event.kind == Kind.ZAP and following.kind == Kind.ZAP:
            zaps.append(following.ns - event.ns)
        elif event.kind == Kind.ZAP and begun:
            all_of_it.append(event.ns - begun)
            begun = 0
    return zaps, all_of_it


def main() -> None:
    """Have two guests watched, one that is walked while it links pages, and one that is reclaimed from."""
    bpf = load(require(gather()), PAGES)
    requests = Requests(bpf["requests"].map_fd)
    ring = Ring(bpf["events"].map_fd, bpf["counters"].map_fd, PAGES * 4096, time.monotonic_ns)

    def events() -> list[Event]:
        found: list[Event] = []
        while records := ring.look().records:
            found += (Event(*fields) for fields in decode(records)[0])
        return found

    measured: dict[str, Any] = {"steps": []}
    shared = Vmm(pattern="sequential", directories=40, tables=20, accesses=800, pages=3000)
    shared.do(f"alias {PARENTS}")
    kvm = events()[-1].kvm
    for walk in range(1, WALKS + 1):
        requests.walk_locked(kvm, walk)
        shared.do(f"alias {PARENTS + walk * MORE}")
        measured["steps"] += steps(events())
    shared.quit()
    events()
    Vmm(pattern="zipf", directories=16, tables=8, accesses=10_000, pages=64).quit()
    measured["zaps"], measured["reclaims"] = reclaims(events())
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
