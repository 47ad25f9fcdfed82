# SPDX-License-Identifier: Apache-2.0
"""The lab from the command line: build it, look around in it, or run one command in it."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import NoReturn, get_args

from tests.lab import show
from tests.lab.cache import Progress
from tests.lab.errors import LabError
from tests.lab.guest import RealGuest
from tests.lab.hosts import DEFAULT, HOSTS, Kvm
from tests.lab.machine import Lab, Mode, Policy, build
from tests.lab.workload import WORKLOADS, Vmm, Workload

REAL_GUEST = "real-linux"
PAUSE_MS = 100  # between the rounds of a workload that is only there to be looked at


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says and return the exit status."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    options = _parser().parse_args(argv)
    progress = _stopwatch()
    try:
        if options.action == "build":
            build(options.host, options.kvm, progress)
            return 0
        if options.action == "run":
            return show.run(progress)
        return _use(options, progress)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _parser() -> argparse.ArgumentParser:
    kind = argparse.ArgumentParser(add_help=False)
    kind.add_argument("--host", choices=list(HOSTS), default=DEFAULT, help="whose Linux (%(default)s)")
    kind.add_argument("--kvm", choices=get_args(Kvm), default="patched", help="whose KVM (%(default)s)")
    machine = argparse.ArgumentParser(add_help=False, parents=[kind])
    machine.add_argument("--mode", choices=get_args(Mode), default="shadow", help="which pages KVM lists (%(default)s)")
    machine.add_argument("--policy", choices=get_args(Policy), help="how the patched KVM reclaims")
    machine.add_argument("--workload", choices=[*WORKLOADS, REAL_GUEST], help="a guest to run in the background")
    machine.add_argument("--pages", type=int, default=64, help="shadow pages that guest may have (%(default)s)")
    machine.add_argument("--memory", default="3G", help="of the lab itself (%(default)s)")
    machine.add_argument("--processors", type=int, default=1, help="of the lab itself (%(default)s)")
    machine.add_argument("--icount", action="store_true", help="with a clock that counts instructions")

    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("build", parents=[kind], help="make what the lab needs and is not in the cache")
    actions.add_parser("run", help="boot a lab, watch guests in it, and publish the metrics on this machine")
    actions.add_parser("shell", parents=[machine], help="boot a lab and give a root shell in it")
    execute = actions.add_parser("exec", parents=[machine], help="boot a lab and run one command in it")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD", help="a line for the lab's shell")
    return parser


def _use(options: argparse.Namespace, progress: Progress) -> int:
    """Boot a lab, and run the person's command in it, or a shell."""
    if options.policy and options.kvm != "patched":
        raise LabError("only the patched KVM has a choice of policies: leave --policy out, or say --kvm patched")
    command = " ".join(options.command) if options.action == "exec" else None
    if command == "":
        raise LabError("exec needs a command: python -m tests.lab exec uname -r")
    with ExitStack() as open_now:
        lab = open_now.enter_context(
            Lab.boot(
                host=options.host,
                kvm=options.kvm,
                mode=options.mode,
                memory=options.memory,
                processors=options.processors,
                icount=options.icount,
                progress=progress,
            )
        )
        if options.policy:
            lab.policy(options.policy)
        if options.workload == REAL_GUEST:
            open_now.enter_context(RealGuest(lab, pages=options.pages, endless=True))
        elif options.workload:
            pattern = WORKLOADS[options.workload].pattern
            workload = Workload(options.workload, pattern, pages=options.pages)
            open_now.enter_context(Vmm(lab, workload, rounds=0, pause_ms=PAUSE_MS))
        return lab.interact(command)


def _stopwatch() -> Progress:
    """Return what prints progress with the seconds since now."""
    begun = time.monotonic()

    def progress(what: str) -> None:
        # In one piece: a lab is built in two threads.
        sys.stderr.write(f"[{time.monotonic() - begun:3.0f} s] {what}\n")

    return progress


def _end(number: int, _: object) -> NoReturn:
    """Leave by the way that closes the lab."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
