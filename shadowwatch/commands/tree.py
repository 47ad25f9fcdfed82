# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch tree`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import closing
from os.path import splitext
from typing import TYPE_CHECKING

from shadowwatch.commands.arguments import Commands, add_socket, of_a_capture, of_one_source, seconds
from shadowwatch.commands.output import check, write
from shadowwatch.errors import ShadowwatchError

if TYPE_CHECKING:
    from shadowwatch.event.facts import Facts
    from shadowwatch.mmu.role import RoleLayout
    from shadowwatch.snapshot import VmDetail


FORMATS = ("text", "json", "dot", "svg")


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("tree", help="print a VM's shadow pages, once")
    parser.add_argument("vm", metavar="VM", help="its name or its pid")
    parser.add_argument("--replay", metavar="FILE", help="take it from a capture instead of the running daemon")
    parser.add_argument(
        "--at", metavar="S", type=seconds, help="as it was S seconds after the capture began (default: its end)"
    )
    parser.add_argument("--format", choices=FORMATS, help="(default: as the name of -o FILE ends, else text)")
    parser.add_argument("-o", "--output", metavar="FILE", help="write there instead of printing")
    add_socket(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print it, or write it to a file; of a capture that breaks off, and then say so."""
    from shadowwatch.mmu.role import RoleLayout

    of_a_capture(arguments.at, arguments.replay)
    of_one_source(arguments.replay, arguments.socket)
    fault: ShadowwatchError | None = None
    if arguments.output is not None:
        check(arguments.output)
    if arguments.replay is None:
        detail, facts = _live(arguments.vm, arguments.socket)
    else:
        detail, facts, fault = _replayed(arguments.vm, arguments.replay, arguments.at)
    form = arguments.format or _form_of(arguments.output or "")
    content = _drawn(detail, RoleLayout(facts.role), form)
    if arguments.output is None:
        sys.stdout.write(content)
    else:
        write(arguments.output, content.encode())
    if fault:
        raise fault
    return 0


def _form_of(path: str) -> str:
    """What a file of this name is expected to hold."""
    form = splitext(path)[1].lower().removeprefix(".")
    return form if form in FORMATS else "text"


def _live(vm: str, socket: str) -> tuple[VmDetail, Facts]:
    """Of the running daemon; ShadowwatchError when there is none, or no such VM."""
    from shadowwatch.control.client import connect
    from shadowwatch.mmu.pick import pick

    with closing(connect(socket, instead="--replay")) as live:
        facts = live.status().facts
        return _there(live.detail(pick(live.snapshot().vms, vm).name), vm), facts


def _replayed(vm: str, path: str, at: float | None) -> tuple[VmDetail, Facts, ShadowwatchError | None]:
    """Of a capture, `at` seconds after it began or at its end, and why it broke off before that.

    ShadowwatchError when it is none or has no such VM.
    """
    from shadowwatch.capture.format import reading
    from shadowwatch.capture.replay import Replay
    from shadowwatch.mmu.pick import pick

    with reading(path) as reader:
        replay = Replay(reader, copies=1)
        replay.seek(replay.length if at is None else at)
    vms = replay.snapshot().vms
    if reader.fault and not vms:
        raise reader.fault
    return _there(replay.detail(pick(vms, vm).name), vm), reader.facts, reader.fault


def _there(detail: VmDetail | None, vm: str) -> VmDetail:
    if detail is None:
        raise ShadowwatchError(f"VM {vm} has just ended; choose another")
    return detail


def _drawn(detail: VmDetail, roles: RoleLayout, form: str) -> str:
    from shadowwatch.view.tree import dot, text, tree

    if form == "json":
        return json.dumps(tree(detail, roles), indent=1) + "\n"
    lines = text if form == "text" else dot
    content = "".join(f"{line}\n" for line in lines(detail, roles))
    return _svg(content) if form == "svg" else content


def _svg(lines: str) -> str:
    try:
        done = subprocess.run(["dot", "-Tsvg"], input=lines, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ShadowwatchError("an SVG of the tree needs Graphviz's dot; `apt install graphviz`") from None
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0]
        raise ShadowwatchError(f"Graphviz's dot failed: {said}; see with --format dot what it was given")
    return done.stdout
