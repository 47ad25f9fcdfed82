# SPDX-License-Identifier: Apache-2.0
"""What a service has to say: to the journal with fields, else on standard output, and errors on standard error."""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum
from functools import cache
from typing import TextIO

#: systemd.journal-fields(7); one datagram is one entry, a line of it one field.
JOURNAL = "/run/systemd/journal/socket"

#: So many lines at once, and one more for each so many seconds.
BURST, SECONDS = 20, 30.0

#: Characters of a line: a pipe that takes anything takes as many at once, whatever they are in UTF-8.
LONGEST = 1000

#: The last thing that a process says is worth a wait for who is slow.
ERROR_SECONDS = 2.0


class Level(IntEnum):
    """syslog(3)'s."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


class Limit:
    """Room for BURST lines, which comes back in time; errors need none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._room = float(BURST)
        self._then = clock()
        self._left_out = 0

    def pass_on(self, words: str, level: Level) -> str:
        """The words, with the number of lines that were left out before them; "" when these are left out, too."""
        now = self._clock()
        self._room = min(BURST, self._room + (now - self._then) / SECONDS)
        self._then = now
        if level > Level.ERROR:
            if self._room < 1:
                self._left_out += 1
                return ""
            self._room -= 1
        before, self._left_out = self._left_out, 0
        return f"{words} (lines left out before this one: {before:,})" if before else words


_limit = Limit()


def say(words: str, level: Level = Level.INFO, **fields: str) -> None:
    """Say one line; `fields` go to the journal as SHADOWWATCH_<NAME>."""
    words = _limit.pass_on(_line(words), level)
    if not words:
        return
    sender = _journal()
    if sender:
        known = {"MESSAGE": words, "PRIORITY": str(int(level)), "SYSLOG_IDENTIFIER": "shadowwatch"}
        known |= {f"SHADOWWATCH_{name.upper()}": _line(value) for name, value in fields.items()}
        entry = "".join(f"{name}={value}\n" for name, value in known.items())
        try:
            sender.sendto(entry.encode(errors="replace"), JOURNAL)
            return
        except BlockingIOError:
            return  # it takes no more now, and must not hold the event loop
        except OSError:
            pass  # it is being restarted; standard output waits for it
    if level == Level.ERROR:
        _write(f"shadowwatch: {words}\n", sys.stderr, ERROR_SECONDS)
    else:
        _write(f"shadowwatch: {words}\n", sys.stdout)


def _line(words: str) -> str:
    """The words on one line, with nothing in it that steers a terminal: there are names of others among them."""
    words = "".join(letter if letter.isprintable() else "?" for letter in words.replace("\n", " "))
    return words if len(words) <= LONGEST else f"{words[: LONGEST - 1]}…"


def _write(line: str, out: TextIO | None, patience: float = 0) -> None:
    """Write a line, unless that cannot be done so soon: what is closed, full, gone or not read is no reason to stop."""
    if out is None:
        return
    # ValueError: it is closed. Bytes and no text, which would be kept and written again at the end.
    with suppress(OSError, ValueError):
        data = line.encode(out.encoding or "utf-8", "replace")
        try:
            descriptor = out.fileno()
        except OSError:  # one that a test put there
            out.write(data.decode(out.encoding or "utf-8"))
            return
        out.flush()
        writable = select.poll()
        writable.register(descriptor, select.POLLOUT)
        if writable.poll(patience * 1000):
            os.write(descriptor, data)


@cache
def _journal() -> socket.socket | None:
    """A socket to the journal when standard error goes there (systemd.exec(5)); made before calls are confined."""
    try:
        about = os.fstat(2)
    except OSError:  # it is closed
        return None
    if os.environ.get("JOURNAL_STREAM") != f"{about.st_dev}:{about.st_ino}":
        return None
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    return sender
