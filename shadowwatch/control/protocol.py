# SPDX-License-Identifier: Apache-2.0
"""What both ends of the daemon's socket agree on; small, since the command line reads it, too."""

from __future__ import annotations

#: In /run: systemd makes the folder (RuntimeDirectory=), and root may.
SOCKET = "/run/shadowwatch/control"

#: A request carries no more files.
MOST_FILES = 64

#: Who does not read or answer for so long is left.
PATIENCE_SECONDS = 10.0
