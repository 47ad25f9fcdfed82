# SPDX-License-Identifier: Apache-2.0
"""A real terminal, by tmux: keys go in, screens come out."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOP = [sys.executable, "-m", "shadowwatch", "top"]


class Tmux:
    """A terminal with a command in it."""

    def __init__(self, folder: Path, command: Sequence[str], width: int = 100, height: int = 30) -> None:
        socket = folder / "tmux"
        self._tmux = ["tmux", "-S", str(socket), "-f", "/dev/null"]
        # Not a daemon, so that the kernel ends it with the tests, by whatever these end.
        quiet = subprocess.DEVNULL
        server = ["setpriv", "--pdeathsig=KILL", *self._tmux, "-D"]
        self._server = subprocess.Popen(server, stdin=quiet, stdout=quiet, stderr=quiet)
        while not socket.exists():
            assert self._server.poll() is None, "tmux did not start"
            time.sleep(0.01)
        size = ["-x", str(width), "-y", str(height)]
        self._run("new-session", "-d", *size, f"{shlex.join(command)}; echo ended with $?; read wait")

    def _run(self, *words: str) -> str:
        done = subprocess.run([*self._tmux, *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout

    def screen(self) -> str:
        """What is on it now."""
        return self._run("capture-pane", "-p")

    def press(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self._run("send-keys", *keys)

    def resize(self, width: int, height: int) -> None:
        """Make the terminal another size."""
        self._run("resize-window", "-x", str(width), "-y", str(height))

    def until(self, *words: str, gone: str = "\0", seconds: float = 30) -> str:
        """The first screen with these words and without those that is wholly drawn: the next look finds the same.

        A sentence is found wherever it is wrapped.
        """
        deadline = time.monotonic() + seconds
        before = ""
        while time.monotonic() < deadline:
            shown = self.screen()
            unwrapped = " ".join(shown.split())
            if shown == before and all(word in shown or word in unwrapped for word in words) and gone not in shown:
                return shown
            before = shown
            time.sleep(0.03)  # each look starts a process
        raise AssertionError(f"{words} did not come up, or {gone!r} did not go:\n{self.screen()}")

    def told(self, what: str) -> str:
        """What tmux knows of the terminal: one of its format's variables."""
        return self._run("display-message", "-p", f"#{{{what}}}").strip()

    @property
    def pid(self) -> int:
        """The process of the command."""
        shell = self.told("pane_pid")
        return int(Path(f"/proc/{shell}/task/{shell}/children").read_text().split()[0])

    @contextmanager
    def keyboard(self) -> Iterator[int]:
        """The terminal's own end, to see what is set and what waits to be read."""
        descriptor = os.open(self.told("pane_tty"), os.O_RDONLY | os.O_NOCTTY)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def press_at_once(self, *keys: str, sent: int) -> None:
        """Press keys that make so many bytes while the command stands still, so that it reads them in one go."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            self.press(*keys)
            with self.keyboard() as descriptor:
                while struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0] < sent:
                    time.sleep(0.01)
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)
        self._server.wait()
