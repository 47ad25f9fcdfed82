# SPDX-License-Identifier: Apache-2.0
"""The long-running half's loop; the rest of it is proven in the lab."""

from __future__ import annotations

import mmap
import os
import struct

from shadowwatch.daemon import Collection
from shadowwatch.event.abi import RECORD
from shadowwatch.event.ring import Ring
from shadowwatch.watch import Watch
from tests.unit.story import FACTS

SIZE = 2 << 20


def test_a_storm_does_not_hold_the_loop() -> None:
    """A ring that is full again after each look is left after one ring-full, so SIGTERM gets its turn."""
    ring_fd, counters_fd = os.memfd_create("ring"), os.memfd_create("counters")
    os.truncate(ring_fd, 2 * mmap.PAGESIZE + SIZE)
    os.truncate(counters_fd, mmap.PAGESIZE)
    looks = 0

    with mmap.mmap(ring_fd, 2 * mmap.PAGESIZE) as memory:

        def refill() -> int:
            """The clock, which is asked in each look: by then there is more."""
            nonlocal looks
            looks += 1
            assert looks < 10, "the step does not end"
            (consumed,) = struct.unpack_from("<Q", memory)
            struct.pack_into("<Q", memory, mmap.PAGESIZE, consumed + SIZE)
            return looks

        ring = Ring(ring_fd, counters_fd, SIZE, refill)
        struct.pack_into("<Q", memory, mmap.PAGESIZE, SIZE)
        watch = Watch(FACTS, str)
        Collection(ring, watch, None).step()
        received = watch.snapshot().received
        assert SIZE // RECORD.size <= received < 2 * SIZE // RECORD.size
    os.close(ring_fd)
    os.close(counters_fd)
