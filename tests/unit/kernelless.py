# SPDX-License-Identifier: Apache-2.0
"""The real long-running half in a process of its own, on a ring in shared memory that a test fills: no kernel, no root.

Run as a program it is that process: argument 1 is the handover's descriptor. At its end it prints when it had looked at
the ring, in nanoseconds.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import signal
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from socket import socket
from types import TracebackType
from typing import Any, ClassVar, Self

from shadowwatch.config import settle
from shadowwatch.daemon.loop import Parts, run
from shadowwatch.event.abi import Batch
from shadowwatch.event.ring import Ring
from shadowwatch.start.handover import RELOAD_SIGNAL, STOP_SIGNALS, Handover
from shadowwatch.web.config import texts
from tests.unit.story import FACTS

SIZE = 8 << 20
ROOT = Path(__file__).parents[2]


class Kernelless:
    """A daemon that is ready: `address` serves its metrics, `said` are its lines so far."""

    def __init__(self, config: Path | None = None, listener: socket | None = None, **settings: Any) -> None:
        ring, counters, requests = (os.memfd_create(name) for name in ("ring", "counters", "requests"))
        os.truncate(ring, 2 * mmap.PAGESIZE + SIZE)
        os.truncate(counters, mmap.PAGESIZE)
        os.truncate(requests, mmap.PAGESIZE)
        self._memory = mmap.mmap(ring, 0)
        self._produced = 0
        given = {"listen": "127.0.0.1:0"} | settings
        whole = settle("run", {}, given)
        handover = Handover(
            ring=ring,
            ring_size=SIZE,
            counters=counters,
            listeners=(listener.fileno(),) if listener else (),
            requests=requests,
            facts=replace(FACTS, paging="nested").to_json(),
            listen=whole["listen"],
            audit_seconds=whole["audit_interval"],
            config=str(config) if config else os.devnull,
            settings=whole,
            given=given,
            web=texts(whole["web_config_file"]) if whole["web_config_file"] else {},
        )
        message = handover.write()
        descriptors = (ring, counters, requests, message)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.kernelless", str(message)],
            cwd=ROOT,
            pass_fds=(*descriptors, listener.fileno()) if listener else descriptors,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for descriptor in descriptors:
            os.close(descriptor)
        self.said: list[str] = []
        found = re.search(r"http://([\d.:]+)/", self.line())
        assert found, self.said
        self.address = found[1]

    def line(self) -> str:
        """The next line that it says."""
        assert self.process.stdout
        line = self.process.stdout.readline().rstrip("\n")
        self.said.append(line)
        return line

    def put(self, records: bytes) -> None:
        """Events happen; returns when the daemon has taken them."""
        for start in range(0, len(records), SIZE // 4 // 88 * 88):
            piece = records[start : start + SIZE // 4 // 88 * 88]
            at = self._produced % SIZE
            until_end = min(len(piece), SIZE - at)
            self._memory[2 * mmap.PAGESIZE + at : 2 * mmap.PAGESIZE + at + until_end] = piece[:until_end]
            self._memory[2 * mmap.PAGESIZE : 2 * mmap.PAGESIZE + len(piece) - until_end] = piece[until_end:]
            self._produced += len(piece)
            struct.pack_into("<Q", self._memory, mmap.PAGESIZE, self._produced)
            while struct.unpack_from("<Q", self._memory)[0] != self._produced:
                assert self.process.poll() is None, self.said
                time.sleep(0.001)

    def reload(self) -> str:
        """Send SIGHUP, and return what it says of it."""
        self.process.send_signal(RELOAD_SIGNAL)
        return self.line()

    def cpu_ns(self) -> int:
        """The processor time that all of its threads have had."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

    def descriptors(self) -> int:
        """How many it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        """How many it has."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def end(self) -> list[int]:
        """End it, and return when it had looked at the ring."""
        self.process.send_signal(signal.SIGTERM)
        said, _ = self.process.communicate(timeout=30)
        self.said += said.splitlines()
        assert self.process.returncode == 0, self.said
        looks: list[int] = json.loads(self.said.pop())
        return looks

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()
        self._memory.close()


class NotedRing(Ring):
    """A ring that notes when it was looked at."""

    looks_ns: ClassVar[list[int]] = []

    def look(self) -> Batch:
        """Look, and note when that is done."""
        batch = super().look()
        self.looks_ns.append(time.monotonic_ns())
        return batch


def main() -> int:
    """Be the daemon, which takes the kvm module for loaded."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (*STOP_SIGNALS, RELOAD_SIGNAL))
    handover = Handover.read(int(sys.argv[1]))
    ring = NotedRing(handover.ring, handover.counters, handover.ring_size, time.monotonic_ns)
    code = run(handover, replace(Parts.of(handover), ring=ring, kvm_is_loaded=lambda: True))
    print(json.dumps(ring.looks_ns), flush=True)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
