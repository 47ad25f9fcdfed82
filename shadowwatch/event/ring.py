# SPDX-License-Identifier: Apache-2.0
"""The BPF ring buffer and the counters map, read through mmap alone: no capability, no bpf()."""

from __future__ import annotations

import mmap
from collections.abc import Callable

from shadowwatch.event.abi import RECORD, STEP_RECORDS, Batch, Counter

#: The most records that one look takes, so that a storm cannot keep the loop from its other work.
LOOK = 16_384


class Ring:
    """A mapped ring of `size` bytes of data, a power of two (kernel/bpf/ringbuf.c).

    Page 0 holds the consumer's position and is writable; page 1 the producer's; the data
    follow. The kernel maps the data twice in a row, which is not used here: it would count
    twice in this process' resident memory.
    """

    def __init__(
        self,
        ring_fd: int,
        counters_fd: int,
        size: int,
        clock: Callable[[], int],
        missed: Callable[[], int] = lambda: 0,
    ) -> None:
        """`missed` tells how often the kernel passed probes over; a batch has it when all before has been taken."""
        page = mmap.PAGESIZE
        #: As many looks as a full ring needs.
        self.looks = size // (LOOK * RECORD.size) + 1
        #: As many steps of a walk as it has room for beside other events.
        self.steps = size // (4 * STEP_RECORDS * RECORD.size)
        self._size = size
        self._clock = clock
        self._missed = missed
        self._told = 0
        self._data = mmap.mmap(ring_fd, page + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        # Positions are read and written as one word, as the kernel does at the same time.
        # struct would go byte by byte and clear the word before it packs: a kernel that
        # reads a consumer's position of 0 finds the ring full and drops the event.
        consumer = mmap.mmap(ring_fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        counters = mmap.mmap(counters_fd, page, mmap.MAP_SHARED, mmap.PROT_READ)
        self._consumed = memoryview(consumer).cast("Q")
        self._produced = memoryview(self._data)[:page].cast("Q")
        self._counters = memoryview(counters).cast("Q")
        self._position = self._consumed[0]

    def look(self) -> Batch:
        """Take the records that are complete, at most LOOK, and give their room back."""
        # In this order: what a walk told before a probe was missed must not come after that.
        missed, produced = self._missed(), self._produced[0]
        ready = min((produced - self._position) // RECORD.size, LOOK)
        # Bit 31 of a record's length is set until the record is committed, and records
        # commit in any order: read the headers first, and data only as far as they allow.
        flags = self._bytes(ready)[3 :: RECORD.size]
        whole = len(flags) - len(flags.lstrip(b"\0"))
        records = self._bytes(whole)
        self._position += len(records)
        self._consumed[0] = self._position
        if self._position == produced:
            self._told = missed
        counters = self._counters
        return Batch(self._clock(), counters[Counter.LOST], counters[Counter.UNTRACKED], records, self._told)

    def _bytes(self, records: int) -> bytes:
        start = mmap.PAGESIZE + self._position % self._size
        end = start + records * RECORD.size
        over = end - mmap.PAGESIZE - self._size
        if over <= 0:
            return self._data[start:end]
        return self._data[start : end - over] + self._data[mmap.PAGESIZE : mmap.PAGESIZE + over]


def ring_pages(size: int) -> int:
    """The number of pages, a power of two, of a ring that has at least `size` bytes of data."""
    pages = 1
    while pages * mmap.PAGESIZE < size:
        pages *= 2
    return pages
