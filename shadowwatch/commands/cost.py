# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch cost`."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from shadowwatch.commands.arguments import Commands, add_socket, given
from shadowwatch.config import POSITIVE
from shadowwatch.errors import ShadowwatchError

if TYPE_CHECKING:
    from shadowwatch.snapshot import VmSnapshot


def add(commands: Commands) -> None:
    """Add it to the command line."""
    parser = commands.add_parser("cost", help="measure what page faults and reclaim take, for some seconds (root)")
    parser.add_argument(
        "vm", metavar="VM", type=given, nargs="?", help="only this one, by its name or its pid (default: all)"
    )
    parser.add_argument(
        "--seconds", metavar="S", type=POSITIVE, default=10.0, help="measure for so long, or until Ctrl-C (default 10)"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    add_socket(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print, and leave the host's figures for the daemon."""
    import platform
    import time
    from dataclasses import replace

    from shadowwatch.commands.ending import unwinding
    from shadowwatch.cost import Cost, figures, store
    from shadowwatch.probe.checks import losses, require
    from shadowwatch.probe.cost import make_cost_plan, measure
    from shadowwatch.probe.host import gather
    from shadowwatch.view import cost as view

    host = gather()
    require(host)
    plan = make_cost_plan(host)
    alive = known(arguments.socket)
    pid = pid_of(arguments.vm, alive, arguments.socket) if arguments.vm else 0
    for loss in losses(plan):
        print(f"shadowwatch: {loss}", file=sys.stderr)
    span = [0.0, 0.0]

    def wait() -> None:
        print(f"shadowwatch: measuring for {arguments.seconds:g} s, Ctrl-C ends it", file=sys.stderr, flush=True)
        span[0] = time.monotonic()
        try:
            time.sleep(arguments.seconds)
        except KeyboardInterrupt:
            pass
        finally:
            span[1] = time.monotonic()

    with unwinding():
        vms, missed = measure(plan, pid, wait)
    names = {vm.pid: vm.name for vm in alive or ()}
    seconds = span[1] - span[0]
    if not vms:
        whose = f"VM {arguments.vm}" if pid else "no VM"
        raise ShadowwatchError(
            f"{whose} had {'no' if pid else 'a'} page fault for KVM's shadow pages in {seconds:.1f} s;"
            " measure while it works, or for longer"
        )
    cost = Cost(
        host=platform.node(),
        kernel=host.release,
        measured=time.time(),
        seconds=seconds,
        missed=missed,
        vms=tuple(replace(vm, name=names.get(vm.pid, vm.name)) for vm in vms),
        reclaim_known=any(each.point == "reclaim" for each in plan.attachments),
    )
    show = view.as_json if arguments.json else view.as_text
    show(cost, sys.stdout)
    if found := figures(cost):
        store(found)
    return 0


def known(socket: str) -> list[VmSnapshot] | None:
    """The VMs that live, as the daemon knows them; None without one."""
    from contextlib import closing

    from shadowwatch.control.client import NoDaemonError, connect

    try:
        with closing(connect(socket)) as live:
            return [vm for vm in live.snapshot().vms if not vm.ended]
    except NoDaemonError:
        return None


def pid_of(wanted: str, alive: list[VmSnapshot] | None, socket: str) -> int:
    """The pid of the VM that is meant; ShadowwatchError when there is none."""
    import os

    from shadowwatch.mmu.pick import pick

    if alive is not None:
        return pick(alive, wanted).pid
    if not wanted.isdecimal():
        raise ShadowwatchError(
            f"no daemon at {socket} that knows the VM {wanted}; give its pid, or start one with"
            " `systemctl start shadowwatch`"
        )
    if not os.path.exists(f"/proc/{int(wanted)}"):
        raise ShadowwatchError(f"there is no process {wanted}; give the pid of a VM that runs")
    return int(wanted)
