# SPDX-License-Identifier: Apache-2.0
"""A capture in which something happens, the same each time: one VM thrashes, one is calm, others rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from shadowwatch.capture.format import Writer, pack
from shadowwatch.event.abi import Batch
from shadowwatch.event.facts import Facts
from shadowwatch.snapshot import Snapshot, VmDetail
from shadowwatch.source import Status
from shadowwatch.view.frames import Frames
from shadowwatch.view.screen import Frame
from shadowwatch.watch import Watch
from tests.unit.story import FACTS, Story

LIMIT = 64
STEP_NS = 250_000_000
SECONDS = 10
NAMES = {1: "web1", 2: "db1"}


class Guest:
    """A root, directories beneath it, tables beneath those; the oldest pages go when there are too many."""

    def __init__(self, number: int) -> None:
        self.story = Story(kvm=0x1000 * number, pid=number, step_ns=1000)
        self.story.mapped = 40
        self._order: list[int] = []
        self._level: dict[int, int] = {}
        self._page = 1
        self.story.alloc(1, level=3, limit=LIMIT)

    def _new(self, level: int) -> int:
        self._page += 1
        self.story.alloc(self._page, level=level, gfn=self._page % 200, limit=LIMIT)
        self._order.append(self._page)
        self._level[self._page] = level
        return self._page

    def turn(self) -> None:
        """A directory with seven tables comes, and as many pages go as are too many."""
        self.story.reclaim()
        while len(self._order) > LIMIT - 10:
            page = self._order.pop(0)
            self.story.zap(page, level=self._level.pop(page))
        directory = self._new(2)
        self.story.link(1, directory % 512, directory)
        for index in range(7):
            table = self._new(1)
            self.story.link(directory, index, table)
        if oldest := next((page for page in self._order if self._level[page] == 2 and page != directory), None):
            # The oldest directory is given another child, and goes all the same.
            table = self._new(1)
            self.story.link(oldest, 8, table)

    def take(self) -> bytes:
        """The records since the last call."""
        records = self.story.records()
        self.story.events.clear()
        return records


def name_of(pid: int) -> str:
    """What the VMs are called."""
    return NAMES.get(pid, f"idle{pid}")


@cache
def batches(idle: int = 2) -> Sequence[Batch]:
    """Ten seconds, a look each quarter."""
    thrashing, calm, *resting = (Guest(number) for number in range(1, idle + 3))
    made = []
    for number in range(SECONDS * 10**9 // STEP_NS):
        now = 10**9 + number * STEP_NS
        for guest in (thrashing, calm):
            guest.story.ns = now - 100_000_000
        for _ in range(12):
            thrashing.turn()
        if number % 8 == 0:
            calm.turn()
        made.append(Batch(now, 0, 0, b"".join(guest.take() for guest in (thrashing, calm, *resting))))
    return tuple(made)


@cache
def at_the_end() -> Snapshot:
    """After all of it."""
    watch = Watch(FACTS, name_of)
    for batch in batches():
        watch.take(batch)
    return watch.snapshot()


@cache
def recorded(idle: int, **facts: str) -> bytes:
    """What is in a file that has it all."""
    told = replace(FACTS, **facts)  # type: ignore[arg-type]
    watch = Watch(told, name_of)
    with TemporaryDirectory() as folder:
        path = Path(folder, "capture")
        writer = Writer(path.open("wb"), str(path), told)
        for batch in batches(idle):
            writer.write(pack(batch), watch.take(batch))
        writer.close()
        return path.read_bytes()


def capture(path: Path, idle: int = 2, **facts: str) -> Path:
    """The same in a file."""
    path.write_bytes(recorded(idle, **facts))
    return path


class LivelyDaemon:
    """A source with a daemon's processor time, which looks at one watch before and after."""

    replay = None

    def __init__(self, idle: int = 2, facts: Facts = FACTS) -> None:
        self.looks = 0
        self.facts = facts
        self.watch = Watch(facts, name_of)
        self.batches = batches(idle)

    def status(self) -> Status:
        """Three percent of a core."""
        return Status(self.facts, self.facts.policy, self.looks * 30_000_000, 31 << 20)

    def look(self, frames: Frames, batches: int = 4) -> Frame:
        """Some more batches, and a frame."""
        for batch in self.batches[self.looks * 4 : self.looks * 4 + batches]:
            self.watch.take(batch)
        self.looks += 1
        return frames.look()

    def snapshot(self) -> Snapshot:
        """Of the watch."""
        return self.watch.snapshot()

    def detail(self, name: str) -> VmDetail | None:
        """Of the watch."""
        return self.watch.detail(name)


def looked(idle: int = 2, facts: Facts = FACTS, looks: int = 8) -> tuple[LivelyDaemon, Frame]:
    """A daemon and its last frame."""
    daemon = LivelyDaemon(idle, facts)
    frames = Frames(daemon)
    for _ in range(looks):
        frame = daemon.look(frames)
    return daemon, frame
