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
    parser.add_argument("--listen", metavar="HOST:PORT", help="serve them instead of printing them")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print or serve the metrics."""
    from shadowwatch.capture.format import reading
    from shadowwatch.metrics.exporter import open_listener, serve
    from shadowwatch.metrics.text import exposition
    from shadowwatch.source import Status
    from shadowwatch.watch import Watch
    from shadowwatch.web.config import Web

    with reading(arguments.file) as reader:
        watch = Watch(reader.facts, reader.name_of)
        for batch in reader.whole_batches():
            watch.take(batch)
    if arguments.listen:
        if reader.fault:
            print(f"shadowwatch: {reader.fault}", file=sys.stderr)
        status = Status(watch.facts, watch.facts.policy, None, None)
        # The clock is the recorded host's, and all is read: it is ready, and as healthy as it will ever be.
        server = serve(watch, open_listener(arguments.listen), lambda: status, Web(), seen_ns=time.monotonic_ns)
        print(f"shadowwatch: http://{server.address}/; stop with Ctrl-C", flush=True)
        threading.Event().wait()
    sys.stdout.buffer.write(exposition(watch))
    sys.stdout.flush()
    if watch.difference:
        print(f"shadowwatch: an audit found a difference: {watch.difference}", file=sys.stderr)
    if reader.fault:
        raise reader.fault
    return 0
