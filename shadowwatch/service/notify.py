# SPDX-License-Identifier: Apache-2.0
"""What systemd is told (sd_notify(3)), and what it passes (sd_listen_fds(3))."""

from __future__ import annotations

import os
import re
import socket
from contextlib import suppress
from functools import cache

from shadowwatch.errors import clipped
from shadowwatch.service.log import Level, say

#: A service manager that has no time is not waited for longer.
PATIENCE_SECONDS = 1.0

#: More than anybody has.
MOST_SOCKETS = 64


@cache
def _service_manager() -> socket.socket | None:
    """Whoever asked to be told; connected once, since the long-running half may not do that later."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return None
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.settimeout(PATIENCE_SECONDS)
    with suppress(OSError):
        manager.connect(f"\0{address[1:]}" if address.startswith("@") else address)
    return manager


def notify(state: str) -> None:
    """Tell systemd, when it asked to be told."""
    manager = _service_manager()
    if manager:
        # It may be gone, or stuck; that is no reason to stop.
        with suppress(OSError):
            manager.send(state.encode())


def passed_sockets() -> tuple[int, ...]:
    """The descriptors of the sockets that systemd listens at for this process."""
    count = _number("LISTEN_FDS") if os.environ.get("LISTEN_PID") == str(os.getpid()) else 0
    return tuple(range(3, 3 + min(count, MOST_SOCKETS)))


def _number(variable: str) -> int:
    """What this variable of the environment says, 0 when it says nothing, or nothing that makes sense: then a word."""
    text = os.environ.get(variable, "0")
    if not re.fullmatch("[0-9]{1,18}", text):
        say(f"{variable}={clipped(text)} is not a number, so it is ignored; unset it", Level.WARNING)
        return 0
    return int(text)


class Watchdog:
    """Tells systemd that the loop turns, twice in the time after which it would restart the service (WatchdogSec=)."""

    def __init__(self) -> None:
        """Connect, so that the process may be confined after this."""
        _service_manager()
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._period_ns = _number("WATCHDOG_USEC") * 1000 // 2 if mine else 0
        self._due_ns = 0

    def turn(self, now_ns: int) -> None:
        """Tell it, when that is due."""
        if self._period_ns and now_ns >= self._due_ns:
            self._due_ns = now_ns + self._period_ns
            notify("WATCHDOG=1")
