# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch simulate`."""

from __future__ import annotations

import argparse
import sys

from shadowwatch.commands.arguments import Commands


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser(
        "simulate", help="estimate how other reclaim policies and limits would have done in a recorded run"
    )
    parser.add_argument("file", metavar="CAPTURE", help="the capture to read, from any KVM")
    parser.add_argument(
        "--policy",
        metavar="NAME",
        type=lambda text: text.split(","),
        action="extend",
        help="as KVM calls them, such as parents,mapped (default: all but newest)",
    )
    parser.add_argument(
        "--limit",
        metavar="PAGES",
        type=lambda text: text.split(","),
        action="extend",
        default=[],
        help="under these limits, too, in shadow pages or times the VM's own: 96,128,2x",
    )
    parser.add_argument("--vm", metavar="NAME", help="only this one, by its name or its pid (default: all)")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Simulate and print; 1 when the capture is cut or damaged."""
    from shadowwatch.capture.format import reading
    from shadowwatch.simulate.policies import choose
    from shadowwatch.simulate.run import simulated
    from shadowwatch.view import simulate as view

    policies = choose(arguments.policy, arguments.limit)
    with reading(arguments.file) as reader, view.bar(reader.size, sys.stderr) as bar:
        result = simulated(reader, policies, lambda events: bar(reader.position, events))
    result = result.only(arguments.vm)
    show = view.as_json if arguments.json else view.as_text
    show(arguments.file, result, sys.stdout)
    for said in filter(None, (result.lowest(), result.fault)):
        print(f"shadowwatch: {said}", file=sys.stderr)
    return 1 if result.fault else 0
