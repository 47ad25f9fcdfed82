# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch replay`."""

from __future__ import annotations

import argparse
import sys
import threading
import time

from shadowwatch.commands.arguments import Commands


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("replay", help="print the metrics of a recorded run")
    parser.add_argument("file", metavar="FILE", help="the capture to read")
    parser.add_argument("--listen", metavar="HOST:PORT", help="serve them, and pages, instead of printing them")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print or serve the metrics."""
    from dataclasses import replace
    from itertools import islice

    from shadowwatch.capture.format import reading
    from shadowwatch.metrics.exporter import open_listener, serve
    from shadowwatch.metrics.text import exposition
    from shadowwatch.pages import Here, Pages
    from shadowwatch.source import Status
    from shadowwatch.view.frames import Frames
    from shadowwatch.watch import Watch
    from shadowwatch.web.config import Web

    with reading(arguments.file) as reader:
        watch = Watch(reader.facts, reader.name_of)
        status = Status(watch.facts, watch.facts.policy, None, None)
        here = Here(watch, lambda: status)
        frames = Frames(here)
        batches = reader.whole_batches()
        # What pages tell of is the whole recording: a look at its beginning, and one at its end.
        for batch in islice(batches, 1):
            watch.take(batch)
            frames.look()
        for batch in batches:
            watch.take(batch)
    if arguments.listen:
        if reader.fault:
            print(f"shadowwatch: {reader.fault}", file=sys.stderr)
        frame = frames.look()
        recorded = replace(frame, position=frame.seconds, length=frame.seconds, fault=str(reader.fault or ""))
        # The clock is the recorded host's, and all is read: it is ready, and as healthy as it will ever be.
        pages = Pages(here, recorded).answer
        server = serve(watch, open_listener(arguments.listen), pages, Web(), seen_ns=time.monotonic_ns)
        print(f"shadowwatch: http://{server.address}/; stop with Ctrl-C", flush=True)
        threading.Event().wait()
    sys.stdout.buffer.write(exposition(watch))
    sys.stdout.flush()
    if watch.difference:
        print(f"shadowwatch: an audit found a difference: {watch.difference}", file=sys.stderr)
    if reader.fault:
        raise reader.fault
    return 0
