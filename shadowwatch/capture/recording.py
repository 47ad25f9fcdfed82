# SPDX-License-Identifier: Apache-2.0
"""A capture while it is written: in one file, or in several that are written in turn."""

from __future__ import annotations

import errno
import io
import os
import select
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from shadowwatch.capture.format import Packed, Writer
from shadowwatch.errors import ShadowwatchError, counted
from shadowwatch.event.abi import Batch
from shadowwatch.event.facts import Facts, Name

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: What came before is in the file after so long, and whenever the ring is empty: more is not lost with the daemon.
KEPT_NS = 10**9

#: A pipe that takes nothing for so long has nobody who reads it.
ROOM_SECONDS = 5.0


class _Waiting(io.FileIO):
    """A descriptor that may be one that never blocks, such as a pipe's: whoever writes waits here until it takes some.

    OSError when it takes nothing for ROOM_SECONDS, and at once when it did so before.
    """

    _full = False

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some of it, and return how much."""
        while (written := super().write(data)) is None:
            room = select.poll()
            room.register(self.fileno(), select.POLLOUT)
            if self._full or not room.poll(ROOM_SECONDS * 1000):
                self._full = True
                raise OSError(errno.EAGAIN, f"nothing was read from it for {ROOM_SECONDS:g} s")
        return written


class RecordingProgress(NamedTuple):
    """How far a recording is: seconds since its first look, events and bytes so far, and the file in use."""

    seconds: float
    records: int
    size: int
    path: str
    error: str = ""

    def __str__(self) -> str:
        events = counted(self.records, "event")
        return f"{self.seconds:,.0f} s, {events}, {self.size / (1 << 20):,.1f} MiB in {self.path}"


class Recording:
    """Batches go into the first file, and when that has `most` bytes into the next; behind the last comes the first.

    With a single file, `most` bytes end the recording. Each file can be replayed by itself: it begins with the names of
    the VMs, and whoever feeds this is asked (`begins`) to have their lists walked.
    """

    def __init__(
        self,
        files: Sequence[tuple[int, str]],
        facts: Facts,
        most: int | None,
        names: Callable[[], Iterable[Name]],
    ) -> None:
        """`files` are open descriptors and their paths, `names` tells what the VMs are called so far."""
        self._files = files
        self._facts = facts
        self._most = most
        self._names = names
        self._turn = 0
        self._before = RecordingProgress(0, 0, 0, files[0][1])
        self._first_ns = self._last_ns = 0
        self._stop = threading.Event()
        #: Set when all is written, or nothing more can be: then `error` says why.
        self.ended = threading.Event()
        self.error = ""
        self.begins = facts.midway
        self._named = False
        #: What the kernel's counters were when a file began in the middle of a run: earlier losses are not its own.
        self._base = Batch(0, 0, 0, b"")
        self._last = self._base
        self._kept_ns = 0
        self._writer = self._open()

    def _open(self) -> Writer:
        descriptor, path = self._files[self._turn % len(self._files)]
        if self._turn >= len(self._files):
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
        # The descriptor may be written to again.
        file = io.BufferedWriter(_Waiting(descriptor, "wb", closefd=False), 1 << 20)
        return Writer(file, path, self._facts)

    def write(self, packed: Packed, names: Iterable[Name]) -> None:
        """Keep a batch and the names that came with it, unless this has ended."""
        if self.ended.is_set():
            return
        if not self._named and self._facts.midway:
            self._base = self._last if self._turn else packed.batch
        self._last = batch = packed.batch
        packed = packed._replace(batch=batch.since(self._base))
        try:
            self._writer.write(packed, names if self._named else (*self._names(), *names))
            self._named = True
            self._last_ns = packed.batch.now_ns
            self._first_ns = self._first_ns or self._last_ns
            if self._most is not None and self._writer.size >= self._most:
                self._next_file()
            elif not packed.records or batch.now_ns - self._kept_ns >= KEPT_NS:
                self._kept_ns = batch.now_ns
                self._writer.flush()
        except (ShadowwatchError, OSError) as error:
            self.error = str(error)
            self.ended.set()

    def _next_file(self) -> None:
        if len(self._files) == 1:
            self.stop()
            return
        self._before = self.progress()
        self._writer.close()
        self._turn += 1
        self._facts = replace(self._facts, midway=True)
        self._named = False
        self._writer = self._open()
        self.begins = True

    def progress(self) -> RecordingProgress:
        """How far it is; from any thread."""
        return RecordingProgress(
            (self._last_ns - self._first_ns) / 1e9,
            self._before.records + self._writer.records,
            self._before.size + self._writer.size,
            self._files[self._turn % len(self._files)][1],
            self.error,
        )

    def stop(self) -> None:
        """Ask for the end; from any thread."""
        self._stop.set()

    @property
    def over(self) -> bool:
        """Whether it should be closed."""
        return self._stop.is_set() or self.ended.is_set()

    def close(self) -> None:
        """Write the rest."""
        if not self.ended.is_set():
            try:
                self._writer.close()
            except ShadowwatchError as error:
                self.error = str(error)
            self.ended.set()
