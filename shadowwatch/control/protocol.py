# SPDX-License-Identifier: Apache-2.0
"""What both ends of the daemon's socket agree on; small, since the command line reads it, too.

The first line of each side is its greeting, {"shadowwatch": VERSION}. With the same version a line of JSON asks and a
line of JSON answers from there on, with another the connection ends, as it does behind a greeting of the daemon that
says "full".
"""

from __future__ import annotations

import json

#: It changes with whatever crosses the socket: requests, and the fields of what answers them. 1 had no greeting.
VERSION = 5

#: In /run: systemd makes the folder (RuntimeDirectory=), and root may.
SOCKET = "/run/shadowwatch/control"

#: A request carries no more files.
MOST_FILES = 64

#: Who does not read or answer for so long is left.
PATIENCE_SECONDS = 10.0

#: So many ask at once.
CONNECTIONS = 32

GREETING = json.dumps({"shadowwatch": VERSION})

#: The greeting to one more.
FULL = json.dumps({"shadowwatch": VERSION, "full": CONNECTIONS})


def version_in(line: str) -> int:
    """The version of who begins with this line: 1 when it is no greeting."""
    try:
        return int(json.loads(line)["shadowwatch"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return 1


def differ(daemon: int, asker: int) -> str:
    """What to say to an asker of another version."""
    cure = "restart it with `systemctl restart shadowwatch`" if daemon < asker else "use the one that it came with"
    return f"the daemon speaks version {daemon} of its protocol, this shadowwatch version {asker}; {cure}"
