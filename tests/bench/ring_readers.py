# SPDX-License-Identifier: Apache-2.0
"""Runs in the lab: our look at the ring against bcc's callback for each event, with the model and without.

Argument 1 is a VMM command; each round of it fills the ring, which one of the two then
empties into a model. Prints one JSON line: events and seconds for each round and reader.
"""

from __future__ import annotations

import ctypes
import json
import operator
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from shadowwatch.event.abi import EVENT, FIELDS, HEADER, RECORD, Event, decode
from shadowwatch.event.request import Requests
from shadowwatch.event.ring import Ring
from shadowwatch.mmu.model import Model
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.probe.attach import load
from shadowwatch.probe.checks import require
from shadowwatch.probe.host import gather

PAGES = 1024

CTYPES: dict[str, Any] = {"Q": ctypes.c_uint64, "I": ctypes.c_uint32, "B": ctypes.c_uint8, "2x": ctypes.c_uint8 * 2}
ROUNDS = 5


class EventStructure(ctypes.Structure):
    """struct shadowwatch_event, for ctypes."""

    _fields_ = [(name, CTYPES[code]) for name, code in FIELDS]


def main() -> None:
    """Alternate between the two readers."""
    host = gather()
    bpf = load(require(host), PAGES)
    roles = RoleLayout(host.role)
    model = Model(roles, host.functions)
    Requests(bpf["requests"].map_fd)
    with_model = True
    called = 0

    table = bpf["events"]
    header = HEADER.pack(EVENT.size, 0)
    fields = operator.attrgetter(*Event._fields)
    pointer = ctypes.POINTER(EventStructure)

    def on_event(context: object, data: int, size: int) -> None:
        # As bcc's tools do it: a ctypes structure for each event.
        nonlocal called
        called += 1
        event = ctypes.cast(data, pointer).contents
        if with_model:
            model.feed(header + bytes(event))
        else:
            fields(event)

    table.open_ring_buffer(on_event)

    def by_look(feed: bool) -> int:
        ring = Ring(table.map_fd, bpf["counters"].map_fd, PAGES * 4096, time.monotonic_ns)
        events = 0
        while records := ring.look().records:
            events += len(records) // RECORD.size
            if feed:
                model.feed(records)
            else:
                for _ in decode(records)[0]:
                    pass
        return events

    def by_callback(feed: bool) -> int:
        nonlocal with_model
        with_model = feed
        before = called
        bpf.ring_buffer_consume()
        return called - before

    readers: dict[str, Callable[[], int]] = {
        "look": lambda: by_look(True),
        "callback": lambda: by_callback(True),
        "look alone": lambda: by_look(False),
        "callback alone": lambda: by_callback(False),
    }
    measured: dict[str, list[tuple[int, float]]] = {name: [] for name in readers}
    command = json.loads(sys.argv[1])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as vmm:
        assert vmm.stdin
        assert vmm.stdout
        vmm.stdout.readline()
        by_look(True)
        for _ in range(ROUNDS):
            for name, reader in readers.items():
                print("run", file=vmm.stdin, flush=True)
                vmm.stdout.readline()
                begun = time.perf_counter()
                events = reader()
                measured[name].append((events, time.perf_counter() - begun))
        vmm.stdin.close()
    print(json.dumps(measured))


if __name__ == "__main__":
    main()
