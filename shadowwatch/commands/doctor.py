# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch doctor`."""

from __future__ import annotations

import argparse
import sys

from shadowwatch.commands.arguments import Commands


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("doctor", help="check this host, and say how to fix what is missing")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it; 1 when `run` cannot work here."""
    from shadowwatch.control.protocol import SOCKET
    from shadowwatch.control.server import answers
    from shadowwatch.probe.host import gather
    from shadowwatch.probe.plan import make_plan
    from shadowwatch.view.doctor import show

    host = gather()
    return 0 if show(host, make_plan(host), answers(SOCKET), sys.stdout) else 1
