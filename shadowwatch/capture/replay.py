# SPDX-License-Identifier: Apache-2.0
"""A capture as a source of what views show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import takewhile

from shadowwatch.capture.format import Place, Reader
from shadowwatch.event.abi import RECORD, Batch, Event, decode
from shadowwatch.snapshot import Snapshot, VmDetail
from shadowwatch.source import Status
from shadowwatch.watch import Watch

_NS = Event._fields.index("ns")


class Replay:
    """A capture as a source: it is where `seek` last went, in seconds since its first batch.

    To go back it is read again, from the nearest of a few copies of the model that were kept on the way.
    """

    #: A copy is kept after so many events; when there are too many copies, after twice as many.
    EVENTS, COPIES = 250_000, 32

    def __init__(self, reader: Reader, copies: int = COPIES) -> None:
        """No more than `copies` are kept; 1 is the beginning alone, for who does not go back."""
        self._reader = reader
        self._first_ns, last_ns = reader.span()
        #: Seconds from the first batch to the last, or to where it was found to break off, and where it is now.
        self.length = (last_ns - self._first_ns) / 1e9
        self.position = 0.0
        self._now_ns = self._first_ns
        self._every, self._most, self._kept = self.EVENTS, copies, 0
        self._watch = Watch(reader.facts, reader.name_of)
        #: What was read and is still to come.
        self._next: Batch | None = None
        self._batches: Iterator[Batch] = reader.whole_batches()
        #: The clock, the place in the file, and the model there; the first one is the beginning.
        self._copies: list[tuple[int, Place, Watch]] = []
        self._keep(self._first_ns)

    @property
    def replay(self) -> Replay:
        """Itself."""
        return self

    @property
    def fault(self) -> str:
        """Why it ends before it should, once it was read so far."""
        return str(self._reader.fault or "")

    def _keep(self, now_ns: int) -> None:
        self._copies.append((now_ns, self._reader.place(), self._watch.fork()))
        self._kept = self._watch.received
        if len(self._copies) > self._most:
            del self._copies[1::2]
            self._every *= 2

    def seek(self, position: float) -> None:
        """Go there, at most to the end, and at least to the beginning: what happened until then has been taken."""
        since_ns = round(min(max(position, 0.0), self.length) * 1e9)
        self.position = since_ns / 1e9
        before_ns, self._now_ns = self._now_ns, self._first_ns + since_ns
        if self._now_ns < before_ns:
            _, place, watch = [copy for copy in self._copies if copy[0] <= self._now_ns][-1]
            self._reader.go_to(place)
            self._batches = self._reader.whole_batches()
            self._watch, self._next, self._kept = watch.fork(), None, watch.received
        while (batch := self._next or next(self._batches, None)) and batch.now_ns <= self._now_ns:
            self._watch.take(batch)
            self._next = None
            due = self._most > 1 and self._watch.received - self._kept >= self._every
            if due and batch.now_ns > self._copies[-1][0]:
                self._keep(batch.now_ns)
        self._next = batch and self._begun(batch)
        if self._reader.fault:
            # Nothing is known of the time behind the last whole batch.
            self._now_ns = max(self._first_ns, self._watch.seen_ns)
            self.position = self.length = (self._now_ns - self._first_ns) / 1e9

    def _begun(self, batch: Batch) -> Batch:
        """Take what a batch holds from before now, and return the rest of it."""
        before = takewhile(lambda event: event[_NS] <= self._now_ns, decode(batch.records)[0])
        if size := sum(1 for _ in before) * RECORD.size:
            # What was missed is known at the end of the batch.
            part = batch._replace(now_ns=self._now_ns, records=batch.records[:size], missed=self._watch.missed)
            self._watch.take(part)
        return batch._replace(records=batch.records[size:])

    def status(self) -> Status:
        """The host as it was when the recording began."""
        facts = self._reader.facts
        return Status(facts, facts.policy, None, None)

    def snapshot(self) -> Snapshot:
        """All VMs."""
        return replace(self._watch.snapshot(), now_ns=self._now_ns)

    def detail(self, name: str) -> VmDetail | None:
        """One VM page by page, by its name or else its pid; None when there is none now."""
        detail = self._watch.detail(name)
        return detail and replace(detail, now_ns=self._now_ns)
