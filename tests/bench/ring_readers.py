# SPDX-License-Identifier: Apache-2.0
"""Runs in the lab: the same model fed by our look at the ring, and by bcc's callback for each event.

Argument 1 is a VMM command; each round of it fills the ring, which one of the two then
empties into a model. Prints one JSON line: events and seconds for each round and reader.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable

from shadowwatch.event.abi import HEADER, RECORD
from shadowwatch.event.ring import Ring
from shadowwatch.mmu.model import Model
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.probe.attach import load
from shadowwatch.probe.checks import require
from shadowwatch.probe.host import gather

PAGES = 1024
ROUNDS = 5


def main() -> None:
    """Alternate between the two readers."""
    host = gather()
    bpf = load(require(host), PAGES)
    roles = RoleLayout(host.role)
    callback_model = Model(roles)

    def on_event(context: object, data: int, size: int) -> None:
        callback_model.feed(ctypes.string_at(data - HEADER.size, RECORD.size))

    bpf["events"].open_ring_buffer(on_event)
    model = Model(roles)

    def by_look() -> int:
        ring = Ring(bpf["events"].map_fd, bpf["counters"].map_fd, PAGES * 4096, time.monotonic_ns)
        before = model.received
        while records := ring.look().records:
            model.feed(records)
        return model.received - before

    def by_callback() -> int:
        before = callback_model.received
        bpf.ring_buffer_consume()
        return callback_model.received - before

    readers: dict[str, Callable[[], int]] = {"look": by_look, "callback": by_callback}
    measured: dict[str, list[tuple[int, float]]] = {name: [] for name in readers}
    command = json.loads(sys.argv[1])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as vmm:
        assert vmm.stdin
        assert vmm.stdout
        vmm.stdout.readline()
        by_look()
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
