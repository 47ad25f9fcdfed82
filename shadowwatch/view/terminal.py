# SPDX-License-Identifier: Apache-2.0
"""A terminal to draw on and to read keys from."""

from __future__ import annotations

import os
import re
import select
import signal
import termios
import time
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from rich.console import Console
from rich.text import Text

from shadowwatch.view.state import PASTED

#: What terminals send for keys that are no characters.
_SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
    "\x1b[5~": "pageup",
    "\x1b[6~": "pagedown",
    "\x1b[H": "home",
    "\x1b[F": "end",
    "\x1b[1~": "home",
    "\x1b[4~": "end",
    "\x1bOH": "home",
    "\x1bOF": "end",
    "\x1b[Z": "shift-tab",
    "\x1bOP": "?",
    "\x1b[11~": "?",
    "\x1b[[A": "?",
    "\r": "enter",
    "\n": "enter",
    "\t": "tab",
    "\x03": "ctrl-c",
    "\x1a": "ctrl-z",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x1b": "escape",
}
#: What a terminal sends: something pasted, a string that answers a question (OSC, DCS, APC, PM, SOS), a click of the
#: mouse (three bytes after it), a key that Esc begins, whole or not, as xterm and the Linux console send it, or a
#: character of UTF-8.
_SENT = re.compile(
    rb"\x1b\[200~(?P<pasted>.*?)(?:\x1b\[201~|\Z)|\x1b[]PX^_].*?(?:\x07|\x1b\\|\Z)|\x1b\[M.{0,3}"
    rb"|\x1b\[\[?[0-?]*[ -/]*[@-~]?|\x1bO[ -~]?|[\xc0-\xff][\x80-\xbf]{0,3}|.",
    re.DOTALL,
)
#: What is no whole key yet. Its rest may come in another read, but no later than so many seconds.
_BEGUN = re.compile(
    rb"\x1b(\[\[?[0-?]*[ -/]*|O)?\Z|\x1b[]PX^_](?:(?!\x07|\x1b\\).)*\Z|\x1b\[M.{0,2}\Z"
    rb"|\x1b\[200~(?:(?!\x1b\[201~).)*\Z|[\xc0-\xff]\Z|[\xe0-\xff][\x80-\xbf]\Z|[\xf0-\xff][\x80-\xbf]{2}\Z",
    re.DOTALL,
)
_REST_SECONDS = 0.02

#: select() takes no time of any length.
_LONGEST_SECONDS = 86_400.0

#: Of what was pasted so many bytes are enough.
_MOST_PASTED = 1 << 16


def keys_in(data: bytes) -> Iterator[str]:
    """The keys that were pressed, in what a terminal sent; what is no known key is passed over.

    What was pasted is one key that begins with PASTED.
    """
    for found in _SENT.finditer(data):
        if found["pasted"] is not None:
            text = found["pasted"].decode(errors="ignore")
            yield PASTED + "".join(letter for letter in text if letter.isprintable())
            continue
        key = found[0].decode(errors="ignore")
        if key in _SEQUENCES:
            yield _SEQUENCES[key]
        elif len(key) == 1 and key.isprintable():
            yield key


class Terminal:
    """The screen and the keyboard while a `with` statement of `opened` lasts."""

    def __init__(self, console: Console, keyboard: int, wake: int) -> None:
        self._console = console
        self._keyboard = keyboard
        self._wake = wake
        self._shown: list[str] = []
        self._size = (0, 0)

    def forget(self) -> None:
        """Draw all of the next screen: who knows what is there now."""
        self._shown = []

    @property
    def size(self) -> tuple[int, int]:
        """Columns and lines, now, whatever the environment says."""
        size = os.get_terminal_size(self._console.file.fileno())
        # A terminal whose size nobody has set says 0.
        return size.columns or 80, size.lines or 24

    def show(self, lines: Sequence[Text]) -> None:
        """Draw a screen; only the lines that are others than before are sent."""
        console = self._console
        if self.size != self._size:
            self._shown, self._size = [], self.size
            console.width = self._size[0]
        made = []
        for line in lines:
            with console.capture() as capture:
                console.print(line, end="", no_wrap=True, overflow="crop", highlight=False, markup=False)
            made.append(capture.get())
        out = [] if self._shown else ["\x1b[2J"]
        for number, line_made in enumerate(made):
            if number >= len(self._shown) or self._shown[number] != line_made:
                out.append(f"\x1b[{number + 1};1H{line_made}\x1b[K")
        self._shown = made
        console.file.write("".join(out))
        console.file.flush()

    def keys(self, until: float) -> list[str]:
        """Wait for keys, at most until then (time.monotonic()) or the next change of the size."""
        seconds = min(max(0.0, until - time.monotonic()), _LONGEST_SECONDS)
        ready, _, _ = select.select([self._keyboard, self._wake], [], [], seconds)
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._keyboard not in ready:
            return []
        data = rest = self._read()
        while (
            rest
            and len(data) < _MOST_PASTED
            and _BEGUN.search(data)
            and select.select([self._keyboard], [], [], _REST_SECONDS)[0]
        ):
            rest = self._read()
            data += rest
        if not data:
            return ["ctrl-c"]
        keys = list(keys_in(data))
        if "ctrl-z" in keys:
            os.kill(os.getpid(), signal.SIGTSTP)
        return keys

    def _read(self) -> bytes:
        """What was typed, nothing when the keyboard was closed."""
        with suppress(OSError):
            return os.read(self._keyboard, 4096)
        return b""


@contextmanager
def opened(console: Console, keyboard: int) -> Iterator[Terminal]:
    """Take the terminal over, and give it back as it was, whatever happens, and for as long as this is stopped."""
    wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    terminal = Terminal(console, keyboard, wake)
    saved = termios.tcgetattr(keyboard)

    def take() -> None:
        # In the background the terminal is another's: SIGTTOU stops this, and then comes the next SIGCONT.
        with suppress(OSError, termios.error):
            tty.setraw(keyboard, termios.TCSANOW)
            settings = termios.tcgetattr(keyboard)
            settings[1] |= termios.OPOST
            termios.tcsetattr(keyboard, termios.TCSANOW, settings)
            # The other screen, no cursor, and what is pasted told from what is typed.
            os.write(screen, b"\x1b[?1049h\x1b[?25l\x1b[?2004h")

    def give() -> None:
        # A terminal that was closed need not be given back.
        with suppress(OSError, termios.error):
            termios.tcsetattr(keyboard, termios.TCSADRAIN, saved)
            os.write(screen, b"\x1b[?2004l\x1b[?25h\x1b[?1049l")

    def awake() -> None:
        with suppress(BlockingIOError):
            os.write(waker, b"\0")

    def resized(_: int, __: FrameType | None) -> None:
        awake()

    def stop(_: int, __: FrameType | None) -> None:
        give()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        # Also where nobody can be stopped, as without a shell that has jobs.
        go_on(0, None)

    def go_on(_: int, __: FrameType | None) -> None:
        signal.signal(signal.SIGTSTP, stop)
        take()
        terminal.forget()
        awake()

    # Past the buffer: a signal may have come in the middle of what uses it.
    screen = console.file.fileno()
    handlers = {signal.SIGWINCH: resized, signal.SIGTSTP: stop, signal.SIGCONT: go_on}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        take()
        yield terminal
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        give()
        os.close(wake)
        os.close(waker)
