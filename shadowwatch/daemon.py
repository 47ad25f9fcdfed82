# SPDX-License-Identifier: Apache-2.0
"""The long-running half: ring → watch → HTTP (and capture), with no privilege at all."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import RECORD, Batch
from shadowwatch.event.capture import Writer
from shadowwatch.event.ring import LOOK, Ring
from shadowwatch.metrics.collector import exposition
from shadowwatch.metrics.exporter import serve
from shadowwatch.probe.handover import STOP_SIGNALS, Handover
from shadowwatch.vmname import name_of
from shadowwatch.watch import Watch

#: Between looks at the ring: short against its depth, long against the cost of a look.
PERIOD_SECONDS = 0.05


def notify(state: str) -> None:
    """Tell systemd, when it asked to be told (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        # Whoever asked may be gone; that is no reason to stop.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify_socket:
            notify_socket.connect(address.replace("@", "\0", 1))
            notify_socket.send(state.encode())


class Collection:
    """The loop's one step: what is in the ring goes to the watch, and to the capture if there is one."""

    def __init__(self, ring: Ring, watch: Watch, capture: Writer | None) -> None:
        self._ring = ring
        self._watch = watch
        self._capture = capture
        self._written = Batch(0, 0, 0, b"-")

    def step(self, last: bool = False) -> None:
        """Empty the ring, as far as it can have been filled when this began: a storm does not hold the loop."""
        for _ in range(self._ring.looks):
            batch = self._ring.look()
            self._watch.take(batch)
            # One batch without records says that the ring is empty; more of them say nothing.
            if self._capture and (batch.records or self._written.records or last):
                self._capture.write(batch)
                self._written = batch
            if len(batch.records) < LOOK * RECORD.size:
                return


def watch_until_told(handover: Handover) -> None:
    """Run until SIGINT, SIGTERM or the end of the time asked for."""
    facts = handover.known_facts()
    capture = None
    names: Callable[[int], str] = name_of
    if handover.capture >= 0:
        file = open(handover.capture, "wb", buffering=1 << 20)
        capture = Writer(file, handover.capture_path, facts)
        names = capture.naming(name_of)
    watch = Watch(facts, names)
    ring = Ring(handover.ring, handover.counters, handover.ring_size, time.monotonic_ns)
    collection = Collection(ring, watch, capture)
    collection.step()
    address = serve(watch, handover.listen)
    print(f"shadowwatch: {len(facts.probes)} probes on Linux {facts.kernel}, http://{address}/", flush=True)
    notify("READY=1")
    end = None if handover.seconds is None else time.monotonic() + handover.seconds
    while signal.sigtimedwait(STOP_SIGNALS, PERIOD_SECONDS) is None and (end is None or time.monotonic() < end):
        collection.step()
    notify("STOPPING=1")
    collection.step(last=True)
    if capture:
        capture.close()
    if handover.metrics >= 0:
        try:
            with open(handover.metrics, "wb") as metrics:
                metrics.write(exposition(watch))
        except OSError as error:
            raise ShadowwatchError(f"cannot write the metrics: {error.strerror}; make room for them") from None


def main() -> int:
    """Entry of the exec'ed half: argument 1 is the descriptor of the handover."""
    handover = Handover.read(int(sys.argv[1]))
    try:
        watch_until_told(handover)
    except ShadowwatchError as error:
        print(f"shadowwatch: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
