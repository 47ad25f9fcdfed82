# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch top`."""

from __future__ import annotations

import argparse
import sys

from shadowwatch.commands.arguments import (
    Commands,
    add_settings,
    add_socket,
    given,
    of_a_capture,
    of_one_source,
    seconds,
)
from shadowwatch.config import POSITIVE, TABLES, fill
from shadowwatch.errors import ShadowwatchError


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("top", help="show all VMs live, and what the figures mean")
    parser.add_argument("--replay", metavar="FILE", help="play a capture instead of asking the daemon")
    parser.add_argument(
        "--speed", metavar="X", type=POSITIVE, default=1.0, help="play this many times faster (default 1)"
    )
    parser.add_argument("--at", metavar="S", type=seconds, help="start S seconds into it; with --once, stop there")
    parser.add_argument(
        "--standalone", action="store_true", help="attach probes of its own instead of asking the daemon (root)"
    )
    parser.add_argument("--once", action="store_true", help="print the table once, as when the output is a pipe")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--json", action="store_true", help="print it as JSON, once")
    one.add_argument("--csv", action="store_true", help="print it as CSV, once")
    add_settings(parser, TABLES["top"])
    parser.add_argument("--filter", metavar="TEXT", default="", help="only VMs with this in their name")
    parser.add_argument(
        "--vm", metavar="NAME", type=given, help="start with this VM open, or print it alone; by its name or its pid"
    )
    add_socket(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """On a terminal until the person ends it, else once."""
    from contextlib import ExitStack
    from dataclasses import replace

    from shadowwatch.capture.format import reading
    from shadowwatch.capture.replay import Replay
    from shadowwatch.commands.ending import unwinding
    from shadowwatch.control import client as live
    from shadowwatch.mmu.pick import pick
    from shadowwatch.source import Source
    from shadowwatch.view import columns, top
    from shadowwatch.view.state import State

    of_a_capture(arguments.at, arguments.replay)
    of_one_source(arguments.replay, arguments.socket, arguments.standalone)
    if arguments.speed != 1 and arguments.replay is None:
        raise ShadowwatchError("--speed is that of a capture; add --replay FILE")
    fill(arguments, "top")
    chosen = columns.choose(arguments.columns or columns.DEFAULT)
    sort = arguments.sort
    if sort not in (column.key for column in chosen):
        if "sort" in arguments.given:
            raise ShadowwatchError(f"the column {sort} to sort by is not shown; add it to --columns")
        sort = chosen[0].key
    state = State(
        chosen,
        sort,
        filter=arguments.filter,
        vm=arguments.vm or "",
        interval=arguments.interval,
        speed=arguments.speed,
        replayed=arguments.replay is not None,
    )
    scripted = arguments.json or arguments.csv or arguments.once or not top.has_terminal(sys.stdout)
    with ExitStack() as open_now:
        open_now.enter_context(unwinding())
        source: Source
        if arguments.replay is not None:
            reader = open_now.enter_context(reading(arguments.replay))
            source = Replay(reader, copies=1) if scripted else Replay(reader)
        elif arguments.standalone:
            source = open_now.enter_context(live.standalone())
        else:
            source = live.connect(arguments.socket)
        if arguments.vm and arguments.replay is None:
            state = replace(state, vm=pick(source.snapshot().vms, arguments.vm).name)
        if not scripted:
            if source.replay:
                source.replay.seek(arguments.at or 0.0)
            top.interactive(source, state, sys.stdout, sys.stdin.fileno())
            return 0
        frame = top.once(source, state, arguments.at)
        if arguments.vm:
            try:
                name = pick(frame.now.vms, arguments.vm).name
            except ShadowwatchError as error:
                raise ShadowwatchError(frame.fault or str(error)) from None
            frame = replace(frame, rows=[row for row in frame.rows if row.vm.name == name])
        show = top.as_json if arguments.json else top.as_csv if arguments.csv else top.as_text
        show(frame, state, sys.stdout)
        if frame.fault:
            raise ShadowwatchError(frame.fault)
    return 0
