# SPDX-License-Identifier: Apache-2.0
"""The Python side of bpf/event.h: field names, kinds, causes and the record that carries them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import NamedTuple

#: (field, struct format) in the order of struct shadowwatch_event; "2x" is padding.
FIELDS: tuple[tuple[str, str], ...] = (
    ("kvm", "Q"),
    ("ns", "Q"),
    ("spt", "Q"),
    ("parent_pte", "Q"),
    ("gfn", "Q"),
    ("mapped", "Q"),
    ("seq", "I"),
    ("role", "I"),
    ("pid", "I"),
    ("limit", "I"),
    ("used", "I"),
    ("caller", "I"),
    ("walk", "I"),
    ("kind", "B"),
    ("flags", "B"),
    ("pad", "2x"),
)

#: (field, struct format) in the order of struct shadowwatch_request.
REQUEST_FIELDS: tuple[tuple[str, str], ...] = (
    ("kvm", "Q"),
    ("place.next", "Q"),
    ("place.parents", "Q"),
    ("place.desc", "Q"),
    ("seq", "I"),
    ("walk", "I"),
    ("want", "I"),
    ("owner", "I"),
    ("flags", "I"),
    ("listening", "I"),
)


class Kind(IntEnum):
    """What happened (enum shadowwatch_kind)."""

    ALLOC = 1
    LINK = 2
    MOVE = 3
    ZAP = 4
    RECLAIM = 5
    UNLINK = 6
    DESTROY = 7
    FLUSH = 8
    WRITE = 9
    STEP = 10
    PAGE = 11
    PARENT = 12
    VM = 13


class Flags(IntFlag):
    """What a step of a walk was like, a page told of or zapped, or the end of a VM (enum shadowwatch_flags)."""

    FIRST = 1
    LAST = 2
    VOID = 4
    OBSOLETE = 8
    COUNTED = 16
    IN_SYNC = 32


def of_a_walk_in_vain(kind: int, flags: int) -> bool:
    """Whether an event of a VM that nobody knows is no sign of one: its list was asked for just as it ended."""
    return (kind == Kind.STEP and bool(flags & Flags.VOID)) or kind in (Kind.PAGE, Kind.PARENT)


class Counter(IntEnum):
    """Words of the counters map (enum shadowwatch_counter)."""

    LOST = 0
    UNTRACKED = 1


class Want(IntEnum):
    """What a request asks for (enum shadowwatch_want)."""

    NOTHING = 0
    OWN = 1
    VMS = 2
    WALK = 3
    WALK_LOCKED = 4


class Event(NamedTuple):
    """One wire event, field by field as in bpf/event.h."""

    kvm: int
    ns: int
    spt: int = 0
    parent_pte: int = 0
    gfn: int = 0
    mapped: int = 0
    seq: int = 0
    role: int = 0
    pid: int = 0
    limit: int = 0
    used: int = 0
    caller: int = 0
    walk: int = 0
    kind: int = 0
    flags: int = 0


class Batch(NamedTuple):
    """What one look at the ring gave: records, the clock then (CLOCK_MONOTONIC), the kernel's counters.

    `missed` is how often it passed probes over (event/misses.py).
    """

    now_ns: int
    lost: int
    untracked: int
    records: bytes
    missed: int = 0

    def since(self, base: Batch) -> Batch:
        """The same with counters that were 0 at that batch."""
        return self._replace(
            lost=self.lost - base.lost, untracked=self.untracked - base.untracked, missed=self.missed - base.missed
        )


#: (field, struct format) in the order of struct shadowwatch_command, and how many of them there are.
COMMAND_FIELDS: tuple[tuple[str, str], ...] = (("pid", "I"), ("length", "I"), ("words", "1024s"))
COMMANDS = 1024

EVENT = struct.Struct("<" + "".join(code for _, code in FIELDS))
REQUEST = struct.Struct("<" + "".join(code for _, code in REQUEST_FIELDS))
COMMAND = struct.Struct("<" + "".join(code for _, code in COMMAND_FIELDS))

#: A ring record: the kernel's 8-byte header (kernel/bpf/ringbuf.c, struct bpf_ringbuf_hdr), then the event.
HEADER = struct.Struct("<II")
RECORD = struct.Struct(f"<{HEADER.size}x" + EVENT.format[1:])

#: The same with the addresses of tables and sptes as signed numbers: kernel addresses are short ones then.
SIGNED = struct.Struct(
    f"<{HEADER.size}x" + "".join("q" if name in ("spt", "parent_pte") else code for name, code in FIELDS)
)

#: A step of a walk has about so many records (SHADOWWATCH_STEP_RECORDS in bpf/event.h).
STEP_RECORDS = 64

#: `mapped` where the kernel does not count such pages (SHADOWWATCH_UNCOUNTED).
UNCOUNTED = 0xFFFF_FFFF_FFFF_FFFF

#: So many VMs that live are told apart (the map of bpf/mmu.bpf.c has room for them), events of others are not.
MOST_VMS = 16_384

#: Sequence numbers are 32 bits wide and wrap.
SEQ_MASK = 0xFFFF_FFFF


def decode(records: bytes, layout: struct.Struct = RECORD) -> tuple[Iterator[tuple[int, ...]], int]:
    """Read whole records as tuples in the order of Event, without building Events; `layout` is RECORD or SIGNED.

    Returns the iterator and the number of bytes left over at the end: 0 unless the
    input was cut inside a record.
    """
    left = len(records) % layout.size
    whole = memoryview(records)[: len(records) - left]
    return layout.iter_unpack(whole), left


def encode(event: Event) -> bytes:
    """Make the ring record that carries this event."""
    return HEADER.pack(EVENT.size, 0) + EVENT.pack(*event)
