# SPDX-License-Identifier: Apache-2.0
"""What a service has to say: to the journal with fields, else on standard output, and errors on standard error."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from enum import IntEnum
from functools import cache

#: systemd.journal-fields(7); one datagram is one entry, a line of it one field.
JOURNAL = "/run/systemd/journal/socket"

#: So many lines at once, and one more for each so many seconds.
BURST, SECONDS = 20, 30.0


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
        return f"{words} (lines left out before this one: {before})" if before else words


_limit = Limit()


def say(words: str, level: Level = Level.INFO, **fields: str) -> None:
    """Say one line; `fields` go to the journal as SHADOWWATCH_<NAME>."""
    words = _limit.pass_on(words.replace("\n", " "), level)
    if not words:
        return
    sender = _journal()
    if sender:
        known = {"MESSAGE": words, "PRIORITY": str(int(level)), "SYSLOG_IDENTIFIER": "shadowwatch"}
        known |= {f"SHADOWWATCH_{name.upper()}": value.replace("\n", " ") for name, value in fields.items()}
        entry = "".join(f"{name}={value}\n" for name, value in known.items())
        try:
            sender.sendto(entry.encode(errors="replace"), JOURNAL)
            return
        except BlockingIOError:
            return  # it takes no more now, and must not hold the event loop
        except OSError:
            pass  # it is being restarted; standard output waits for it
    print(f"shadowwatch: {words}", file=sys.stderr if level == Level.ERROR else sys.stdout, flush=True)


@cache
def _journal() -> socket.socket | None:
    """A socket to the journal when standard error goes there (systemd.exec(5)); made before calls are confined."""
    about = os.fstat(2)
    if os.environ.get("JOURNAL_STREAM") != f"{about.st_dev}:{about.st_ino}":
        return None
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.setblocking(False)
    return sender
