# SPDX-License-Identifier: Apache-2.0
"""A recording into files that somebody else opened: they may take nothing for ever, and nobody waits for that here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread

from shadowwatch.capture.format import Packed
from shadowwatch.capture.recording import Recording
from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.facts import Facts, Name

#: Bytes that wait to be written; what a batch costs besides its records.
MOST, COST = 16 << 20, 500


class Aside(Recording):
    """Writes in a thread of its own. What `write` and `close` leave to it is bounded: too much ends the recording."""

    def __init__(
        self,
        files: Sequence[tuple[int, str]],
        facts: Facts,
        most: int | None,
        names: Callable[[], Iterable[Name]],
    ) -> None:
        """As a Recording's; the descriptors stay the caller's, who may close them at once. OSError when one is none."""
        self._own: list[tuple[int, str]] = []
        try:
            for descriptor, path in files:
                # A pipe that nobody reads ends the recording soon, unless the asker has it block again.
                os.set_blocking(descriptor, False)
                self._own.append((os.dup(descriptor), path))
        except OSError:
            self._give_back()
            raise
        super().__init__(self._own, facts, most, self._known_names)
        self._living = names
        self._waiting: SimpleQueue[tuple[Packed, tuple[Name, ...]] | None] = SimpleQueue()
        self._size = self._written = 0
        #: From the thread that feeds this.
        self._begun = self._closed = self._late = False
        #: In the thread that writes: what the VMs of batches that may be still to come are called.
        self._known: dict[int, str] = {}
        self._thread = Thread(target=self._run, daemon=True, name="recording")
        self._thread.start()

    def write(self, packed: Packed, names: Iterable[Name]) -> None:
        """Leave a batch to the thread, unless this has ended or too much waits already."""
        if self.ended.is_set():
            return
        if self._size - self._written > MOST:
            path = self.progress().path
            self.error = f"cannot go on writing {path}: it is too slow; record to another place"
            self._late = True
            self.ended.set()
            return
        names = tuple(names) if self._begun else (*self._living(), *names)
        self._begun = True
        self._size += len(packed.payload) + COST
        self._waiting.put((packed, names))

    def close(self) -> None:
        """Have the thread write the rest; `ended` tells when."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)

    def join(self) -> None:
        """Wait until the thread is done with the files, however long they take."""
        self._thread.join()

    def _run(self) -> None:
        while item := self._waiting.get():
            packed, names = item
            self._known.update(names)
            super().write(packed, names if self._named else ())
            self._written += len(packed.payload) + COST
        super().close()
        if self._late:
            # What is buffered goes now, or fails: not later, into a file that has this descriptor then.
            with suppress(ShadowwatchError, ValueError):  # ValueError: it failed already, and is closed
                self._writer.close()
        self._give_back()

    def _give_back(self) -> None:
        for descriptor, _ in self._own:
            os.close(descriptor)

    def _known_names(self) -> tuple[Name, ...]:
        """For the beginning of a file; those of VMs that have ended are not needed for the one after it."""
        known = tuple(self._known.items())
        self._known = dict(self._living())
        return known
