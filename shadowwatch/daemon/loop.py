# SPDX-License-Identifier: Apache-2.0
"""The long-running half: ring → watch → HTTP (and capture), with no privilege at all."""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from mmap import PAGESIZE
from pathlib import Path
from queue import SimpleQueue
from socket import socket
from typing import Any, Self

from shadowwatch.capture.format import FlightRecorder, pack
from shadowwatch.capture.recording import Recording
from shadowwatch.control.server import Control
from shadowwatch.daemon.confine import confine
from shadowwatch.daemon.notices import Notices
from shadowwatch.daemon.reload import Reload
from shadowwatch.daemon.vmname import name_of
from shadowwatch.daemon.walker import Walker
from shadowwatch.errors import ShadowwatchError, counted
from shadowwatch.event.abi import RECORD, Batch
from shadowwatch.event.commands import Commands
from shadowwatch.event.facts import PAGING, Facts, Name
from shadowwatch.event.misses import Misses, open_infos
from shadowwatch.event.request import Requests
from shadowwatch.event.ring import LOOK, Ring
from shadowwatch.metrics.exporter import open_listener, passed_listener, serve
from shadowwatch.metrics.text import exposition
from shadowwatch.pages import Here, Pages
from shadowwatch.probe.host import kvm_is_loaded, reclaim_policy
from shadowwatch.service.log import Level, say
from shadowwatch.service.notify import Watchdog, notify
from shadowwatch.source import Status
from shadowwatch.start.handover import RELOAD_SIGNAL, STOP_SIGNALS, Handover
from shadowwatch.watch import Watch
from shadowwatch.web.config import Web, from_texts, load
from shadowwatch.web.server import Server

#: How long a thread that answers somebody may keep the interpreter while the loop waits for it.
SWITCH_SECONDS = 0.0005

#: The garbage collector looks at young objects when there are many, and at all of them only when the loop says so: the
#: model makes none that it would find. To look for some in a large model holds the loop for a tenth of a second and
#: more, and in a thousand VMs' snapshot, again and again while it is made, took a third of the time that it takes.
GC_THRESHOLDS, GC_NS = (50_000, 10, 1 << 30), 3600 * 10**9


#: Files of others that do not take the rest of their recordings in this time are left as they are at the end.
LAST_SECONDS = 5.0

#: Between looks at the ring: short against its depth, long against the cost of a look.
PERIOD_SECONDS = 0.05


#: After this a batch is kept even though it has no records.
_NOTHING_WRITTEN = Batch(0, 0, 0, b"-")


class Collection:
    """The loop's one step: what is in the ring goes to the watch, and to the recordings if there are any."""

    def __init__(self, ring: Ring, watch: Watch, flight: FlightRecorder | None) -> None:
        self._ring = ring
        self._watch = watch
        self._flight = flight
        self._asked: SimpleQueue[Recording] = SimpleQueue()
        self._recordings: list[Recording] = []
        self._written = _NOTHING_WRITTEN

    def record(self, recording: Recording) -> None:
        """Feed this recording from the next step on; from any thread."""
        self._asked.put(recording)

    def begins(self) -> bool:
        """Whether a file of a recording began since the last call, and wants walks over all VMs' lists."""
        begun = [recording for recording in self._recordings if recording.begins]
        for recording in begun:
            recording.begins = False
        return bool(begun)

    def step(self, last: bool = False) -> None:
        """Empty the ring, as far as it can have been filled when this began: a storm does not hold the loop."""
        while not self._asked.empty():
            self._recordings.append(self._asked.get())
            # It begins with the first batch that it is given, and that may be long in coming.
            self._written = _NOTHING_WRITTEN
        for _ in range(self._ring.looks):
            batch = self._ring.look()
            names = self._watch.take(batch)
            # One batch without records says that the ring is empty; more of them say nothing but of probes missed.
            if batch.records or self._written.records or batch.missed != self._written.missed or last:
                self._keep(batch, names)
                self._written = batch
            if len(batch.records) < LOOK * RECORD.size:
                break
        over = [recording for recording in self._recordings if recording.over or last]
        for recording in over:
            recording.close()
            self._recordings.remove(recording)
        end = time.monotonic() + LAST_SECONDS
        for recording in over if last else ():
            recording.ended.wait(max(0.0, end - time.monotonic()))

    def _keep(self, batch: Batch, names: Sequence[Name]) -> None:
        if self._recordings or self._flight:
            packed = pack(batch)
            for recording in self._recordings:
                recording.write(packed, names)
            if self._flight:
                self._flight.write(packed)


class Audits:
    """Audits at an interval, for ever or so many times; the first difference is written down."""

    def __init__(self, walker: Walker, watch: Watch, handover: Handover, flight: FlightRecorder | None) -> None:
        self._walker = walker
        self._watch = watch
        self._flight = flight
        self._seconds = handover.audit_seconds
        self._rounds = handover.audits
        self._due_ns = 0

    def every(self, seconds: float | None) -> None:
        """Change the interval; None: no more audits."""
        if seconds != self._seconds:
            self._seconds = seconds
            self._due_ns = 0

    def turn(self, now_ns: int) -> bool:
        """Do what is due; false when the last audit is over."""
        if self._flight and self._watch.difference:
            flight, self._flight = self._flight, None
            try:
                flight.keep(self._watch.names())
            except ShadowwatchError as error:
                # The figures go on, whatever became of the file.
                say(str(error), Level.WARNING)
        if self._seconds is None or self._walker.auditing or now_ns < self._due_ns:
            return True
        if self._due_ns and self._rounds:
            self._rounds -= 1
            if not self._rounds:
                return False
        self._due_ns = now_ns + int(self._seconds * 1e9)
        if self._flight:
            self._flight.mark()
        self._walker.audit()
        return True


def _about(facts: Facts, address: str) -> str:
    where = f", http://{address}/" if address else ""
    meaning = f"; {PAGING[facts.paging]}" if facts.paging.startswith("tdp_mmu") else ""
    return f"{counted(len(facts.probes), 'probe')} on Linux {facts.kernel}{where}{meaning}"


def _status(facts: Facts) -> Status:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * PAGESIZE
    policy = reclaim_policy() or facts.policy
    return Status(facts=facts, policy=policy, cpu_ns=time.process_time_ns(), resident=resident)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop has from the host: the ring, the way to ask for walks, time, signals, and whether kvm is there.

    `clock` is CLOCK_MONOTONIC in ns; `signal` takes one of STOP_SIGNALS and RELOAD_SIGNAL that has come, None without;
    `confine` gives up all system calls that are not needed any more.
    """

    ring: Ring
    requests: Requests
    clock: Callable[[], int]
    sleep: Callable[[float], None]
    signal: Callable[[], int | None]
    kvm_is_loaded: Callable[[], bool]
    name_of: Callable[[int], str]
    confine: Callable[[], None]

    @classmethod
    def of(cls, handover: Handover) -> Self:
        """Those of this host, with the descriptors that were handed over."""
        clock = time.monotonic_ns
        misses = Misses(open_infos(handover.programs), clock)
        return cls(
            ring=Ring(handover.ring, handover.counters, handover.ring_size, clock, misses.count),
            requests=Requests(handover.requests),
            clock=time.monotonic_ns,
            sleep=time.sleep,
            signal=_signal,
            kvm_is_loaded=kvm_is_loaded,
            name_of=partial(name_of, kept=Commands(handover.commands).of),
            confine=confine,
        )


def _signal() -> int | None:
    # Not with a timeout: interrupted as time is up, by SIGCONT or a debugger, CPython makes a signal up.
    told = signal.sigtimedwait((*STOP_SIGNALS, RELOAD_SIGNAL), 0)
    return told.si_signo if told else None


class Loop:
    """The long-running half while it runs: made when it is ready, turned until it is over."""

    def __init__(self, handover: Handover, parts: Parts) -> None:
        """Look at the ring for the first time, serve who asks, and tell systemd; ShadowwatchError when that fails."""
        self._handover = handover
        self._parts = parts
        facts = handover.known_facts()
        flight = None
        if handover.difference >= 0:
            flight = FlightRecorder(handover.difference, handover.difference_path, facts)
        self._watch = watch = Watch(facts, parts.name_of, handover.settings.get("what_if") or (), parts.clock)
        self._collection = Collection(parts.ring, watch, flight)
        self._capture: Recording | None = None
        if handover.captures:
            self._capture = Recording(handover.captures, facts, handover.capture_most, watch.names)
            self._collection.record(self._capture)
        self._collection.step()
        self._walker = Walker(parts.requests, watch, parts.ring.steps, self._collection.step)
        self._audits = Audits(self._walker, watch, handover, flight)
        self._notices = Notices(watch)
        self._walks = "walk" in facts.probes
        if self._walks and not parts.requests.heard:
            self._walks = False
            say(
                "the kernel does not answer requests to walk a VM's list, so losses stay;"
                " allow the process sched_rr_get_interval(2)",
                Level.WARNING,
            )
        if self._walks:
            self._walker.turn(parts.clock())
        self._server = self._serve()
        say(_about(facts, self._server.address if self._server else ""))
        self._watchdog = Watchdog()
        parts.confine()
        notify("READY=1")
        changes: dict[str, Callable[[Any], None]] = {
            "web_config_file": self._set_web,
            "recent_seconds": watch.set_recent,
            "audit_interval": self._audits.every,
        }
        self._reload: Reload | None = None
        if handover.settings:
            self._reload = Reload(handover.config, handover.settings, handover.given, changes)
        self._garbage_ns = parts.clock() + GC_NS
        self._end_ns = None if handover.seconds is None else parts.clock() + int(handover.seconds * 1e9)

    def _serve(self) -> Server | None:
        """Serve metrics, pages and the socket, as far as that was asked for."""
        handover, watch = self._handover, self._watch

        def status() -> Status:
            return _status(watch.facts)

        server = None
        if handover.listen or handover.listeners:
            web = load(handover.settings["web_config_file"], from_texts(handover.web)) if handover.web else Web()
            passed = map(passed_listener, handover.listeners)
            listener, *more = passed if handover.listeners else [open_listener(handover.listen)]
            server = serve(watch, listener, Pages(Here(watch, status)).answer, web, *more)
        if handover.control >= 0:
            Control(watch, status, self._collection.record).serve(socket(fileno=handover.control))
        return server

    def _set_web(self, path: str | None) -> None:
        if self._server:
            self._server.web = load(path) if path else Web()

    def turn(self) -> bool:
        """Wait a while and do what is due then; false when it is over: told so, or time, audits or capture are.

        Raises ShadowwatchError when the kvm module has gone.
        """
        parts = self._parts
        if self._end_ns is not None and parts.clock() >= self._end_ns:
            return False
        parts.sleep(PERIOD_SECONDS)
        told = parts.signal()
        if told == RELOAD_SIGNAL and self._reload:
            notify(f"RELOADING=1\nMONOTONIC_USEC={parts.clock() // 1000}")
            self._reload.turn()
            notify("READY=1")
        elif told:
            return False
        self._collection.step()
        self._watchdog.turn(parts.clock())
        if self._walks:
            self._walker.turn(parts.clock())
            if self._collection.begins():
                self._walker.audit()
            if not self._audits.turn(parts.clock()):
                return False
        if self._capture and self._capture.over:
            return False
        self._notices.look()
        if parts.clock() > self._garbage_ns:
            self._garbage_ns += GC_NS
            gc.collect()
        if not parts.kvm_is_loaded():
            raise ShadowwatchError("the kvm module was unloaded, and the probes with it; start shadowwatch again")
        return True

    def end(self) -> bool:
        """Take and write what is left; false when the audits that were asked for found a difference.

        Raises ShadowwatchError when a file takes no more.
        """
        handover, watch = self._handover, self._watch
        notify("STOPPING=1")
        self._collection.step(last=True)
        if self._capture and self._capture.error:
            raise ShadowwatchError(self._capture.error)
        if handover.metrics >= 0:
            try:
                with open(handover.metrics, "wb") as metrics:
                    metrics.write(exposition(watch))
            except OSError as error:
                raise ShadowwatchError(f"cannot write the metrics: {error.strerror}; make room for them") from None
        if not handover.audits:
            return True
        # Here and not above: the daemon has no use for rich, and rich is large.
        from shadowwatch.view.audit import audit_table

        return audit_table(watch.snapshot(), sys.stdout)


def run(handover: Handover, parts: Parts) -> int:
    """Run to the end; returns the exit code."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(*GC_THRESHOLDS)
    try:
        loop = Loop(handover, parts)
        while loop.turn():
            pass
        return 0 if loop.end() else 1
    except ShadowwatchError as error:
        say(str(error), Level.ERROR)
        return 1


def main() -> int:
    """Entry of the exec'ed half: argument 1 is the descriptor of the handover."""
    handover = Handover.read(int(sys.argv[1]))
    return run(handover, Parts.of(handover))
