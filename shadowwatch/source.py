# SPDX-License-Identifier: Apache-2.0
"""Where views get what they show: a running daemon or a capture, alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import Batch
from shadowwatch.event.capture import Place, Reader
from shadowwatch.facts import Facts
from shadowwatch.mmu.snapshot import Snapshot, VmDetail
from shadowwatch.watch import Watch


@dataclass(frozen=True, slots=True)
class Status:
    """What the watched host and its daemon are like now.

    `policy` is KVM's reclaim policy, "" with a stock KVM; `cpu_ns` is the processor time that the daemon has had
    and `resident` its memory in bytes, both None for a capture.
    """

    facts: Facts
    policy: str
    cpu_ns: int | None
    resident: int | None


class Source(Protocol):
    """Something to look at again and again; each call is of one moment."""

    def status(self) -> Status:
        """The host and the daemon."""

    def snapshot(self) -> Snapshot:
        """All VMs."""

    def detail(self, name: str) -> VmDetail | None:
        """One VM page by page; None when there is none of this name."""


class Replay:
    """A capture as a source: it is where `seek` last went, in seconds since its first batch.

    To go back it is read again, from the nearest of a few copies of the model that were kept on the way.
    """

    #: A copy is kept after so many events; when there are too many copies, after twice as many.
    EVENTS, COPIES = 250_000, 32

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._first_ns, last_ns = reader.span()
        #: Seconds from the first batch to the last, and where the capture is now.
        self.length = (last_ns - self._first_ns) / 1e9
        self.position = 0.0
        #: Why it ends before it should.
        self.fault = ""
        self._every, self._kept = self.EVENTS, 0
        self._watch = Watch(reader.facts, reader.name_of)
        self._next: Batch | None = None
        self._batches: Iterator[Batch] = reader.batches()
        #: Seconds, the place in the file, and the model there; the first one is the beginning.
        self._copies: list[tuple[float, Place, Watch]] = []
        self._keep(0.0)

    def _keep(self, position: float) -> None:
        self._copies.append((position, self._reader.place(), self._watch.fork()))
        self._kept = self._watch.received
        if len(self._copies) > self.COPIES:
            del self._copies[1::2]
            self._every *= 2

    def seek(self, position: float) -> None:
        """Go there, at most to the end, and at least to the beginning."""
        position = min(max(position, 0.0), self.length)
        if position < self.position:
            kept = max((copy for copy in self._copies if copy[0] <= position), key=lambda copy: copy[0])
            self._reader.go_to(kept[1])
            self._batches = self._reader.batches()
            self._watch = kept[2].fork()
            self._next, self._kept, self.fault = None, self._watch.received, ""
        self.position = position
        until_ns = self._first_ns + round(position * 1e9)
        while (batch := self._next or self._read()) and batch.now_ns <= until_ns:
            self._watch.take(batch)
            self._next = None
            here = (batch.now_ns - self._first_ns) / 1e9
            if self._watch.received - self._kept >= self._every and here > self._copies[-1][0]:
                self._keep(here)
        self._next = batch

    def _read(self) -> Batch | None:
        try:
            return next(self._batches, None)
        except ShadowwatchError as error:
            self.fault = str(error)
            return None

    def status(self) -> Status:
        """The host as it was when the recording began."""
        facts = self._reader.facts
        return Status(facts, facts.policy, None, None)

    def snapshot(self) -> Snapshot:
        """All VMs."""
        return self._watch.snapshot()

    def detail(self, name: str) -> VmDetail | None:
        """One VM page by page; None when there is none of this name."""
        return self._watch.detail(name)
