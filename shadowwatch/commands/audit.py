# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch audit`."""

from __future__ import annotations

import argparse

from shadowwatch.commands.arguments import Commands, add_flags, whole
from shadowwatch.config import COLLECTING
from shadowwatch.start.launch import collect


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("audit", help="compare the model with the kernel's own lists, then exit (root)")
    parser.add_argument("--rounds", metavar="N", type=whole, default=2, help="audits of each VM (default 2)")
    add_flags(parser, COLLECTING, audit_interval=1)
    parser.set_defaults(command=run, listen="")


def run(arguments: argparse.Namespace) -> int:
    """Compare so many times; returns only by an error."""
    return collect(arguments, audits=arguments.rounds)
