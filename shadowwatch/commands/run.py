# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch run`."""

from __future__ import annotations

import argparse

from shadowwatch.commands.arguments import Commands, add_collecting, add_listening, add_socket
from shadowwatch.commands.collect import collect, wait_for_kvm


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("run", help="watch this host and serve metrics (root)")
    add_listening(parser)
    add_socket(parser)
    add_collecting(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Watch until told to end; returns only by an error."""
    wait_for_kvm()
    return collect(arguments, socket_path=arguments.socket)
