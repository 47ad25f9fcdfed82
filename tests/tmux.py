# SPDX-License-Identifier: Apache-2.0
"""A real terminal, by tmux: keys go in, screens come out."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOP = [sys.executable, "-m", "shadowwatch", "top"]


class Tmux:
    """A terminal with a command in it."""

    def __init__(self, folder: Path, command: Sequence[str], width: int = 100, height: int = 30) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
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
        """The first screen with these words and without those that is wholly drawn: the next look finds the same."""
        deadline = time.monotonic() + seconds
        before = ""
        while time.monotonic() < deadline:
            shown = self.screen()
            if shown == before and all(word in shown for word in words) and gone not in shown:
                return shown
            before = shown
        raise AssertionError(f"{words} did not come up, or {gone!r} did not go:\n{self.screen()}")

    def close(self) -> None:
        """End it."""
        subprocess.run([*self._tmux, "kill-server"], capture_output=True, check=False)
