# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch info`."""

from __future__ import annotations

import argparse
import sys

from shadowwatch.commands.arguments import Commands


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("info", help="say what is in a capture")
    parser.add_argument("file", metavar="FILE", help="the capture to read")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it; 1 when the capture is cut or damaged."""
    from shadowwatch.capture.contents import contents
    from shadowwatch.view.info import show

    found = contents(arguments.file)
    show(found, sys.stdout)
    return 1 if found.fault else 0
