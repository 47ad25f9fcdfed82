# SPDX-License-Identifier: Apache-2.0
"""A daemon without a kernel: so many VMs whose pages come and go, behind a socket."""

from __future__ import annotations

import sys
import time

from shadowwatch.control.server import Control, listen
from shadowwatch.event.abi import Batch
from shadowwatch.source import Status
from shadowwatch.watch import Watch
from tests.unit.story import FACTS, Story

PAGES = 60
PERIOD = 0.05


class BusyVm:
    """A directory whose oldest table is zapped whenever a new one comes."""

    def __init__(self, number: int) -> None:
        self.story = Story(kvm=0x1000 * (number + 1), pid=1000 + number)
        self.story.alloc(1, level=2)
        self._next = 2

    def records(self, turns: int) -> bytes:
        """Three events for each turn."""
        story = self.story
        story.ns = time.monotonic_ns()
        story.step_ns = 0
        for _ in range(turns):
            page = self._next
            self._next += 1
            story.alloc(page % 4096 + 2, gfn=page % 100)
            story.link(1, page % 512, page % 4096 + 2)
            if story.used > PAGES:
                story.zap((page - PAGES + 1) % 4096 + 2)
        records = story.records()
        story.events.clear()
        return records


def main(path: str, vms: int, rate: int) -> None:
    """Serve until killed."""
    watch = Watch(FACTS, lambda pid: f"vm-{pid}")
    started = time.process_time_ns()
    control = Control(watch, lambda: Status(FACTS, "stock", time.process_time_ns() - started, 1 << 24), lambda _: None)
    busy = [BusyVm(number) for number in range(vms)]
    turns = max(1, round(rate * PERIOD / 3 / vms))
    control.serve(listen(path, None))
    due = time.monotonic()
    while True:
        records = b"".join(vm.records(turns) for vm in busy)
        watch.take(Batch(time.monotonic_ns(), 0, 0, records))
        due += PERIOD
        time.sleep(max(0.0, due - time.monotonic()))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
