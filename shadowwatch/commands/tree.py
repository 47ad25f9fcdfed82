# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch tree`."""

from __future__ import annotations

import argparse

from shadowwatch.commands.arguments import Commands, add_socket, seconds


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("tree", help="print a VM's shadow pages, once")
    parser.add_argument("vm", metavar="VM", help="its name or its pid")
    parser.add_argument("--replay", metavar="FILE", help="take it from a capture instead of the running daemon")
    parser.add_argument(
        "--at", metavar="S", type=seconds, help="as it was S seconds after the capture began (default: its end)"
    )
    parser.add_argument("--format", choices=("text", "json", "dot", "svg"), default="text", help="(default text)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead of printing")
    add_socket(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it, or write it to a file."""
    from shadowwatch.view.print_tree import print_live, print_replayed

    if arguments.replay is None:
        print_live(arguments.vm, arguments.socket, arguments.format, arguments.output)
    else:
        print_replayed(arguments.vm, arguments.replay, arguments.at, arguments.format, arguments.output)
    return 0
