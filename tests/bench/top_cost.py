# SPDX-License-Identifier: Apache-2.0
"""What `shadowwatch top` costs beyond the daemon: its own processor time, and what it adds to the daemon's."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread

import psutil

from shadowwatch.control.client import connect
from tests.bench.figure import Figure

VMS, RATE, INTERVAL = 100, 50_000, 0.25
SECONDS, REPETITIONS = 8.0, 5


def top_cost() -> list[Figure]:
    """Shares of a core: the daemon alone, what top adds to it, and top itself."""
    alone, added, own = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/control"
        command = [sys.executable, "-m", "tests.bench.busy_daemon", path, str(VMS), str(RATE)]
        with subprocess.Popen(command) as daemon:
            try:
                while not Path(path).exists():
                    time.sleep(0.05)
                for _ in range(REPETITIONS):
                    before = _share(daemon.pid)
                    with _top(path) as top:
                        beside, itself = _shares(daemon.pid, top)
                    alone.append(before)
                    added.append(beside - before)
                    own.append(itself)
                received = connect(path).snapshot()
            finally:
                daemon.kill()
    assert len(received.vms) == VMS
    what = f"{VMS} VMs, {RATE:,} events/s"
    return [
        Figure.of(f"a daemon in Python of {what}, without top", [share * 100 for share in alone], "% of a core"),
        Figure.of("what top at 4 Hz adds to it", [share * 100 for share in added], "% of a core"),
        Figure.of("top itself, 120 × 40", [share * 100 for share in own], "% of a core"),
    ]


@contextmanager
def _top(path: str) -> Iterator[int]:
    """Top on a terminal of its own that somebody reads."""
    pid, terminal = pty.fork()
    if not pid:
        os.environ["TERM"] = "xterm-256color"
        command = [sys.executable, "-m", "shadowwatch", "top", "--socket", path, "--interval", str(INTERVAL)]
        os.execv(sys.executable, command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    drawn: list[int] = []
    Thread(target=_drain, args=(terminal, drawn), daemon=True).start()
    try:
        time.sleep(2)  # what it costs to start is not what is asked
        before = len(drawn)
        yield pid
        assert len(drawn) >= before + SECONDS / INTERVAL / 2, "top does not draw"
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def _drain(terminal: int, drawn: list[int]) -> None:
    with suppress(OSError):  # it ends with top
        while data := os.read(terminal, 1 << 16):
            drawn.append(len(data))


def _share(pid: int) -> float:
    return _shares(pid)[0]


def _shares(*pids: int) -> list[float]:
    """The shares of a core that these processes have for a while."""

    def used() -> list[float]:
        return [sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids]

    before, begun = used(), time.monotonic()
    time.sleep(SECONDS)
    seconds = time.monotonic() - begun
    return [(after - then) / seconds for after, then in zip(used(), before, strict=True)]
