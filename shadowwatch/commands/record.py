# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch record`."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing

from shadowwatch.commands.arguments import Commands, add_flags, files, given, of_one_source
from shadowwatch.config import COLLECTING, CONTROL, LISTEN, POSITIVE
from shadowwatch.errors import ShadowwatchError
from shadowwatch.start.launch import collect

#: Of a daemon of its own.
SETTINGS = (LISTEN, *COLLECTING)


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("record", help="write every event to a file, from the running daemon or without one")
    parser.add_argument("file", metavar="FILE", help="the capture to write")
    parser.add_argument("--max-mib", metavar="N", type=POSITIVE, help="stop when the file reaches this size")
    parser.add_argument(
        "--files",
        metavar="K",
        type=files,
        default=1,
        help="fill FILE.1 to FILE.K in turn, N MiB each, then start over with the first",
    )
    parser.add_argument(
        "--standalone", action="store_true", help="attach probes of its own instead of asking the daemon (root)"
    )
    parser.add_argument("--metrics", metavar="FILE", type=given, help="write the metrics to this file at the end")
    parser.add_argument("--seconds", metavar="S", type=POSITIVE, help="stop after this long (default: at Ctrl-C)")
    add_flags(parser, (CONTROL, *SETTINGS))
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Through the daemon when one answers, else with probes of its own."""
    from shadowwatch.control import record
    from shadowwatch.control.client import NoDaemonError, connect
    from shadowwatch.view.progress import ProgressLine

    most = None if arguments.max_mib is None else int(arguments.max_mib * (1 << 20))
    captures = record.paths(arguments.file, arguments.files)
    if arguments.files > 1 and most is None:
        raise ShadowwatchError("--files are filled in turn, so they need --max-mib N, the size of each")
    of_one_source(None, arguments.socket, arguments.standalone)
    try:
        live = None if arguments.standalone else connect(arguments.socket)
    except NoDaemonError:
        live = None
    if live is None:
        return collect(arguments, captures=captures, most=most, metrics_path=arguments.metrics or "")
    with closing(live):
        if arguments.metrics:
            raise ShadowwatchError(
                "the running daemon serves its metrics itself; leave --metrics out, or add --standalone"
            )
        flags = [f"--{each.key}" for each in SETTINGS if getattr(arguments, each.name) != each.default]
        if flags:
            own = "the running daemon has settings of its own"
            raise ShadowwatchError(f"{own}; leave {' and '.join(flags)} out, or add --standalone")
        files = [(record.create(path), path) for path in captures]
        line = ProgressLine(sys.stderr)
        try:
            done = record.record(live, files, most, arguments.seconds, line.show)
        finally:
            line.end()
        print(f"shadowwatch: {done}")
    return 0
