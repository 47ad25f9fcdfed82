# SPDX-License-Identifier: Apache-2.0
"""The ring reader on a ring laid out as in kernel/bpf/ringbuf.c, in shared memory.

The kernel's side of it (reserve, commit, full) is proven in the lab.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from shadowwatch.event.abi import EVENT, HEADER, RECORD, Batch, Event, Kind, encode
from shadowwatch.event.ring import Ring, ring_pages

SIZE = mmap.PAGESIZE
BUSY = 1 << 31


class Producer:
    """The kernel's half of a ring: writes records, tells its position, sees the consumer's."""

    def __init__(self) -> None:
        self.ring_fd = os.memfd_create("ring")
        os.truncate(self.ring_fd, 2 * mmap.PAGESIZE + SIZE)
        self.counters_fd = os.memfd_create("counters")
        os.truncate(self.counters_fd, mmap.PAGESIZE)
        self.memory = mmap.mmap(self.ring_fd, 0)
        self.counters = mmap.mmap(self.counters_fd, 0)
        self.produced = 0

    def put(self, record: bytes, busy: bool = False) -> int:
        """Append a record, perhaps one that is still being written; returns its position."""
        position = self.produced
        if busy:
            record = HEADER.pack(EVENT.size | BUSY, 0) + record[HEADER.size :]
        for offset, byte in enumerate(record):
            self.memory[2 * mmap.PAGESIZE + (position + offset) % SIZE] = byte
        self.produced += len(record)
        struct.pack_into("<Q", self.memory, mmap.PAGESIZE, self.produced)
        return position

    def commit(self, position: int) -> None:
        """Finish the record there."""
        self.memory[2 * mmap.PAGESIZE + (position + 3) % SIZE] = 0

    @property
    def consumed(self) -> int:
        """The consumer's position."""
        position: int = struct.unpack_from("<Q", self.memory)[0]
        return position


@pytest.fixture
def producer() -> Iterator[Producer]:
    """A ring of one page of data."""
    made = Producer()
    yield made
    os.close(made.ring_fd)
    os.close(made.counters_fd)


def ring_of(producer: Producer) -> Ring:
    """The reader under test, with a clock that stands still."""
    return Ring(producer.ring_fd, producer.counters_fd, SIZE, lambda: 42)


def record(number: int) -> bytes:
    """A record that can be told from others."""
    return encode(Event(kvm=number, ns=number, kind=Kind.ZAP))


def test_records_come_out_in_order_and_their_room_is_given_back(producer: Producer) -> None:
    """Through many turns of the ring, records that straddle its end included, nothing is lost or changed."""
    ring = ring_of(producer)
    number = 0
    for turn in range(200):
        wanted = [record(number + offset) for offset in range(turn % (SIZE // RECORD.size))]
        number += len(wanted)
        for each in wanted:
            producer.put(each)
        assert ring.look().records == b"".join(wanted)
        assert producer.consumed == producer.produced
    assert producer.produced > 50 * SIZE


def test_a_record_still_being_written_holds_back_all_after_it(producer: Producer) -> None:
    """Commit order is any, reading order is the ring's."""
    ring = ring_of(producer)
    producer.put(record(1))
    pending = producer.put(record(2), busy=True)
    producer.put(record(3))
    assert ring.look().records == record(1)
    assert ring.look().records == b""
    producer.commit(pending)
    assert ring.look().records == record(2) + record(3)


def test_the_kernels_counters_and_the_clock_come_with_each_look(producer: Producer) -> None:
    """Words 0 and 1 of the counters map, and the time of the look."""
    struct.pack_into("<QQ", producer.counters, 0, 7, 3)
    batch = ring_of(producer).look()
    assert (batch.now_ns, batch.lost, batch.untracked) == (42, 7, 3)


def test_missed_probes_are_told_when_all_before_is_taken(producer: Producer) -> None:
    """A walk whose records wait in the ring began before: the model must not take them for news."""
    count = 0
    ring = Ring(producer.ring_fd, producer.counters_fd, SIZE, lambda: 42, lambda: count)
    producer.put(record(1))
    pending = producer.put(record(2), busy=True)
    count = 3
    assert ring.look() == Batch(42, 0, 0, record(1), 0)
    producer.commit(pending)
    count = 4
    assert ring.look() == Batch(42, 0, 0, record(2), 4)
    assert ring.look() == Batch(42, 0, 0, b"", 4)


def test_a_new_reader_goes_on_where_the_last_one_was(producer: Producer) -> None:
    """The position is in the ring, not in the process."""
    producer.put(record(1))
    ring_of(producer).look()
    producer.put(record(2))
    assert ring_of(producer).look().records == record(2)


def test_ring_sizes_are_powers_of_two() -> None:
    """The kernel refuses others."""
    assert [ring_pages(size) for size in (1, 4096, 4097, 3 << 20, 8 << 20)] == [1, 1, 2, 1024, 2048]
