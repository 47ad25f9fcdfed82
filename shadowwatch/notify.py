# SPDX-License-Identifier: Apache-2.0
"""What systemd is told (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Tell systemd, when it asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        # Whoever asked may be gone; that is no reason to stop.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify_socket:
            notify_socket.connect(address.replace("@", "\0", 1))
            notify_socket.send(state.encode())
