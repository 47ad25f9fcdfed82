# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch plot`."""

from __future__ import annotations

import argparse
import sys

from shadowwatch.commands.arguments import Commands
from shadowwatch.commands.output import check, write


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("plot", help="draw a capture over time, or two side by side")
    parser.add_argument("file", metavar="CAPTURE", help="the capture to draw")
    parser.add_argument("other", metavar="CAPTURE", nargs="?", help="a second one, drawn beside it on the same axes")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the picture to write, .svg or .png")
    parser.add_argument("--vm", metavar="NAME", help="its name or its pid (default: the only one with shadow pages)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw, and say how deep the saw-tooth is."""
    from shadowwatch.capture.series import read
    from shadowwatch.view.plot import picture, require_matplotlib, saw_tooth, suffix_of

    suffix = suffix_of(arguments.output)
    check(arguments.output)
    require_matplotlib()
    columns = [read(path, arguments.vm) for path in filter(None, (arguments.file, arguments.other))]
    write(arguments.output, picture(columns, suffix))
    for series in columns:
        print(f"{series.path}: {saw_tooth(series)}")
    faults = [series.fault for series in columns if series.fault]
    for fault in faults:
        print(f"shadowwatch: {fault}", file=sys.stderr)
    return 1 if faults else 0
