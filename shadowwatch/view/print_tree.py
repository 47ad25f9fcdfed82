# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch tree`: one VM's shadow pages, from the daemon or a capture, to where they are wanted."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import closing

from shadowwatch.capture.format import reading
from shadowwatch.control.client import connect
from shadowwatch.errors import ShadowwatchError
from shadowwatch.mmu.pick import pick
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.mmu.snapshot import VmDetail
from shadowwatch.source import Replay
from shadowwatch.view.tree import dot, text, tree


def print_live(vm: str, socket: str | None, form: str, output: str | None) -> None:
    """Of the running daemon; ShadowwatchError when there is none, or no such VM."""
    with closing(connect(socket)) as live:
        roles = RoleLayout(live.status().facts.role)
        detail = _there(live.detail(pick(live.snapshot().vms, vm).name), vm)
    _print(detail, roles, form, output)


def print_replayed(vm: str, path: str, at: float | None, form: str, output: str | None) -> None:
    """Of a capture, `at` seconds after it began or at its end.

    ShadowwatchError when it is none or has no such VM, and when it breaks off before that, after printing.
    """
    with reading(path) as reader:
        replay = Replay(reader, copies=1)
        replay.seek(replay.length if at is None else at)
    vms = replay.snapshot().vms
    if reader.fault and not vms:
        raise reader.fault
    _print(_there(replay.detail(pick(vms, vm).name), vm), RoleLayout(reader.facts.role), form, output)
    if reader.fault:
        raise reader.fault


def _there(detail: VmDetail | None, vm: str) -> VmDetail:
    if detail is None:
        raise ShadowwatchError(f"VM {vm} has just ended and is forgotten; look at another")
    return detail


def _print(detail: VmDetail, roles: RoleLayout, form: str, output: str | None) -> None:
    if form == "json":
        content = json.dumps(tree(detail, roles), indent=1) + "\n"
    else:
        lines = text if form == "text" else dot
        content = "".join(f"{line}\n" for line in lines(detail, roles))
    if form == "svg":
        content = _svg(content)
    if output is None:
        sys.stdout.write(content)
        return
    try:
        with open(output, "w", encoding="utf-8") as file:
            file.write(content)
    except OSError as error:
        raise ShadowwatchError(f"cannot write {output}: {error.strerror}; choose another place") from None


def _svg(lines: str) -> str:
    try:
        done = subprocess.run(["dot", "-Tsvg"], input=lines, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ShadowwatchError("an SVG of the tree needs Graphviz's dot; `apt install graphviz`") from None
    if done.returncode:
        said = done.stderr.strip().partition("\n")[0]
        raise ShadowwatchError(f"Graphviz's dot failed: {said}; take --format dot and look at what it is given")
    return done.stdout
