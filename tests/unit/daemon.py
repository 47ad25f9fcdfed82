# SPDX-License-Identifier: Apache-2.0
"""A daemon without a kernel: a watch behind a real socket, and a loop that tests turn by hand."""

from __future__ import annotations

import threading
from pathlib import Path

from shadowwatch.capture.format import pack
from shadowwatch.capture.recording import Recording
from shadowwatch.control.server import Control, listen
from shadowwatch.event.abi import Batch
from shadowwatch.source import Status
from shadowwatch.watch import Watch
from tests.unit.story import FACTS, Story

STATUS = Status(FACTS, "parents", 5, 6)


class Daemon:
    """A watch behind a socket; `look` is one turn of the loop, which feeds what recordings there are."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.watch = Watch(FACTS, {4711: "web1"}.__getitem__)
        self.story = Story()
        self.recordings: list[Recording] = []
        self.asked = threading.Event()
        self.server = Control(self.watch, lambda: STATUS, self.record).serve(listen(self.path, None))
        self.look()

    def record(self, recording: Recording) -> None:
        """Take a recording in."""
        self.recordings.append(recording)
        self.asked.set()

    def look(self, pages: int = 3) -> None:
        """Some pages come, and what is over is closed."""
        self.story.events.clear()
        for _ in range(pages):
            self.story.alloc(self.story.used + 1)
        batch = Batch(self.story.ns, 0, 0, self.story.records())
        names = self.watch.take(batch)
        for recording in self.recordings:
            recording.write(pack(batch), names)
            if recording.over:
                recording.close()


def looking(daemon: Daemon) -> threading.Thread:
    """A loop that finds three pages when a recording has begun, and then nothing until it has ended."""

    def loop() -> None:
        assert daemon.asked.wait(10)
        daemon.look()
        while not daemon.recordings[0].ended.wait(0.02):
            daemon.look(0)
        # What ended by itself is closed by the next turn.
        daemon.look(0)

    thread = threading.Thread(target=loop)
    thread.start()
    return thread
