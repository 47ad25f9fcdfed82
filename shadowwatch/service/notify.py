# SPDX-License-Identifier: Apache-2.0
"""What systemd is told (sd_notify(3)), and what it passes (sd_listen_fds(3))."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from functools import cache

#: A service manager that has no time is not waited for longer.
PATIENCE_SECONDS = 1.0


@cache
def _service_manager() -> socket.socket | None:
    """Whoever asked to be told; connected once, since the long-running half may not do that later."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return None
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.settimeout(PATIENCE_SECONDS)
    with suppress(OSError):
        manager.connect(address.replace("@", "\0", 1))
    return manager


def notify(state: str) -> None:
    """Tell systemd, when it asked to be told."""
    manager = _service_manager()
    if manager:
        # It may be gone, or stuck; that is no reason to stop.
        with suppress(OSError):
            manager.send(state.encode())


def passed_socket() -> int:
    """The descriptor of the socket that systemd listens at for this process, or -1."""
    return 3 if os.environ.get("LISTEN_PID") == str(os.getpid()) else -1


class Watchdog:
    """Tells systemd that the loop turns, twice in the time after which it would restart the service (WatchdogSec=)."""

    def __init__(self) -> None:
        """Connect, so that the process may be confined after this."""
        _service_manager()
        self._period_ns = int(os.environ.get("WATCHDOG_USEC", 0)) * 1000 // 2
        self._due_ns = 0

    def turn(self, now_ns: int) -> None:
        """Tell it, when that is due."""
        if self._period_ns and now_ns >= self._due_ns:
            self._due_ns = now_ns + self._period_ns
            notify("WATCHDOG=1")
