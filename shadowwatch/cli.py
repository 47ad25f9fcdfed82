# SPDX-License-Identifier: Apache-2.0
"""The command line: parse, run, print the cure."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import threading
from collections.abc import Sequence

from shadowwatch import __version__
from shadowwatch.errors import ShadowwatchError

LISTEN = "127.0.0.1:9790"
RING_MIB = 4
#: A step of a walk must fit in.
RING_LEAST = 0.0625
#: They end a wait for the kvm module.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _wait_for_kvm() -> None:
    """Return when the kvm module is loaded; who starts before it need not start again."""
    from shadowwatch.notify import notify
    from shadowwatch.probe.checks import require_all_but_kvm
    from shadowwatch.probe.host import gather, kvm_is_loaded

    if kvm_is_loaded():
        return
    require_all_but_kvm(gather())
    print("shadowwatch: waiting for the kvm module to be loaded", flush=True)
    notify("READY=1\nSTATUS=waiting for the kvm module to be loaded")
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    while not kvm_is_loaded():
        if signal.sigtimedwait(STOP_SIGNALS, 1.0):
            raise KeyboardInterrupt
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _collect(
    arguments: argparse.Namespace,
    *,
    captures: Sequence[str] = (),
    most: int | None = None,
    metrics_path: str = "",
    socket_path: str = "",
    audits: int = 0,
) -> int:
    """Attach, then exec: returns only by an error."""
    from shadowwatch.control import listen
    from shadowwatch.facts import Facts
    from shadowwatch.metrics.exporter import split_address
    from shadowwatch.probe.attach import attach
    from shadowwatch.probe.checks import losses, paging, require
    from shadowwatch.probe.handover import Handover, execute, unprivileged_user
    from shadowwatch.probe.host import gather
    from shadowwatch.record import create

    if arguments.listen:
        split_address(arguments.listen)
    host = gather()
    plan = require(host)
    for loss in losses(plan):
        print(f"shadowwatch: {loss}", flush=True)
    user = unprivileged_user(arguments.user)
    group = None if user.pw_name == "nobody" else user.pw_gid
    control = listen(socket_path, group).detach() if socket_path else -1
    files = tuple((create(path), path) for path in captures)
    metrics = create(metrics_path) if metrics_path else -1
    difference = create(arguments.difference) if arguments.difference else -1
    attached = attach(plan, int(arguments.ring_mib * (1 << 20)))
    facts = Facts(
        host=platform.node(),
        kernel=host.release,
        policy=host.parameters.get("kvm.reclaim_policy", ""),
        probes={each.point: each.symbol for each in plan.attachments if each.program},
        role=host.role,
        functions=host.functions,
        paging=paging(host),
        recent_seconds=arguments.recent_seconds,
    )
    handover = Handover(
        ring=attached.ring,
        ring_size=attached.ring_size,
        counters=attached.counters,
        requests=attached.requests,
        facts=facts.to_json(),
        listen=arguments.listen,
        audit_seconds=arguments.audit_interval,
        audits=audits,
        difference=difference,
        difference_path=arguments.difference,
        captures=files,
        capture_most=most,
        control=control,
        metrics=metrics,
        seconds=getattr(arguments, "seconds", None),
    )
    execute(handover, attached.links, user)


def _run(arguments: argparse.Namespace) -> int:
    _wait_for_kvm()
    return _collect(arguments, socket_path=arguments.socket)


def _record(arguments: argparse.Namespace) -> int:
    from shadowwatch import record
    from shadowwatch.live import NoDaemonError, connect
    from shadowwatch.progress import ProgressLine

    most = None if arguments.max_mib is None else int(arguments.max_mib * (1 << 20))
    captures = record.paths(arguments.file, arguments.files)
    if arguments.files > 1 and most is None:
        raise ShadowwatchError("--files are filled in turn, so they need --max-mib N, the size of each")
    try:
        live = None if arguments.standalone else connect(arguments.socket)
    except NoDaemonError:
        live = None
    if live is None:
        return _collect(arguments, captures=captures, most=most, metrics_path=arguments.metrics)
    if arguments.metrics:
        raise ShadowwatchError("the running daemon serves its metrics itself; leave --metrics out, or add --standalone")
    files = [(record.create(path), path) for path in captures]
    done = record.record(live, files, most, arguments.seconds, ProgressLine(sys.stderr))
    print(f"shadowwatch: {done}")
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from shadowwatch.view.info import show

    return 0 if show(arguments.file, sys.stdout) else 1


def _audit(arguments: argparse.Namespace) -> int:
    return _collect(arguments, audits=arguments.rounds)


def _replay(arguments: argparse.Namespace) -> int:
    from shadowwatch.event.capture import reading
    from shadowwatch.metrics.collector import exposition
    from shadowwatch.metrics.exporter import serve
    from shadowwatch.watch import Watch

    fault = None
    with reading(arguments.file) as reader:
        watch = Watch(reader.facts, reader.name_of)
        try:
            for batch in reader.batches():
                watch.take(batch)
        except ShadowwatchError as error:
            fault = error
    if arguments.listen:
        if fault:
            print(f"shadowwatch: {fault}", file=sys.stderr)
        print(f"shadowwatch: http://{serve(watch, arguments.listen)}/, Ctrl-C ends it", flush=True)
        threading.Event().wait()
    sys.stdout.buffer.write(exposition(watch))
    sys.stdout.flush()
    if watch.difference:
        print(f"shadowwatch: an audit found a difference: {watch.difference}", file=sys.stderr)
    if fault:
        raise fault
    return 0


def _tree(arguments: argparse.Namespace) -> int:
    from shadowwatch.view.print_tree import print_live, print_replayed

    if arguments.replay is None:
        print_live(arguments.vm, arguments.socket, arguments.format, arguments.output)
    else:
        print_replayed(arguments.vm, arguments.replay, arguments.at, arguments.format, arguments.output)
    return 0


def _plot(arguments: argparse.Namespace) -> int:
    from shadowwatch.series import read
    from shadowwatch.view.plot import check_suffix, plot, require_matplotlib, saw_tooth

    check_suffix(arguments.output)
    require_matplotlib()
    columns = [read(path, arguments.vm) for path in filter(None, (arguments.file, arguments.other))]
    plot(columns, arguments.output)
    for series in columns:
        print(f"{series.path}: {saw_tooth(series)}")
    faults = [series.fault for series in columns if series.fault]
    for fault in faults:
        print(f"shadowwatch: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _top(arguments: argparse.Namespace) -> int:
    from contextlib import ExitStack

    from shadowwatch import live
    from shadowwatch.config import read_config
    from shadowwatch.event.capture import reading
    from shadowwatch.source import Replay, Source
    from shadowwatch.view import columns, top
    from shadowwatch.view.state import State

    keys = arguments.columns.split(",") if arguments.columns else read_config(arguments.config).top_columns
    chosen = columns.choose(keys or columns.DEFAULT)
    sort = columns.choose([arguments.sort])[0].key if arguments.sort else "recent"
    if sort not in (column.key for column in chosen):
        sort = chosen[0].key
    state = State(
        chosen,
        sort,
        filter=arguments.filter,
        vm=arguments.vm,
        interval=arguments.interval,
        speed=arguments.speed,
        replayed=bool(arguments.replay),
    )
    with ExitStack() as open_now:
        source: Source
        if arguments.replay:
            source = Replay(open_now.enter_context(reading(arguments.replay)))
            source.seek(arguments.at or 0.0)
        elif arguments.standalone:
            source = open_now.enter_context(live.standalone())
        else:
            source = live.connect(arguments.socket)
        scripted = arguments.json or arguments.csv or arguments.once
        if not scripted and top.has_terminal(sys.stdout):
            top.interactive(source, state, sys.stdout, sys.stdin.fileno())
            return 0
        frame = top.once(source, state, arguments.at)
        show = top.as_json if arguments.json else top.as_csv if arguments.csv else top.as_text
        show(frame, state, sys.stdout)
        if frame.fault:
            raise ShadowwatchError(frame.fault)
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from shadowwatch.probe.host import gather
    from shadowwatch.probe.plan import make_plan
    from shadowwatch.view.doctor import show

    host = gather()
    return 0 if show(host, make_plan(host), sys.stdout) else 1


def _add_collecting(parser: argparse.ArgumentParser, audit_interval: float | None = None) -> None:
    parser.add_argument(
        "--recent-seconds",
        metavar="S",
        type=_positive,
        help="a directory is recently parented for this long, instead of for one list-length of allocations",
    )
    parser.add_argument("--user", metavar="NAME", help="run as this user (default shadowwatch, else nobody)")
    parser.add_argument(
        "--ring-mib",
        metavar="N",
        type=_mebibytes,
        default=RING_MIB,
        help=f"size of the event ring (default {RING_MIB})",
    )
    parser.add_argument(
        "--audit-interval",
        metavar="S",
        type=_positive,
        default=audit_interval,
        help="compare the model with the kernel's own lists each time so many seconds have gone by"
        + (f" (default {audit_interval:g})" if audit_interval else " (default: never)"),
    )
    parser.add_argument(
        "--difference",
        metavar="FILE",
        default="",
        help="write what led to the first difference there, to be replayed; the file stays empty without one",
    )


def _add_listening(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--listen", metavar="HOST:PORT", default=LISTEN, help=f"serve metrics there (default {LISTEN})")


def _add_socket(parser: argparse.ArgumentParser) -> None:
    from shadowwatch.control import SOCKET

    parser.add_argument("--socket", metavar="PATH", default=SOCKET, help=f"the daemon's socket (default {SOCKET})")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def _mebibytes(text: str) -> float:
    value = float(text)
    if not RING_LEAST <= value <= 512:
        raise argparse.ArgumentTypeError(f"{text} is not between {RING_LEAST} and 512")
    return value


def _files(text: str) -> int:
    from shadowwatch.control import MOST_FILES

    value = _whole(text)
    if value > MOST_FILES:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_FILES}")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def parser() -> argparse.ArgumentParser:
    """The one definition of the command line."""
    top = argparse.ArgumentParser(
        prog="shadowwatch",
        description="Watch KVM reclaim shadow pages: which directories it zaps that had just been given a child.",
    )
    top.add_argument("--version", action="version", version=f"shadowwatch {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="watch this host and serve metrics (root)")
    _add_listening(run)
    _add_socket(run)
    _add_collecting(run)
    run.set_defaults(command=_run)

    record = commands.add_parser("record", help="keep all events in a file, from the running daemon or else alone")
    record.add_argument("file", metavar="FILE", help="the capture to write")
    record.add_argument("--max-mib", metavar="N", type=_positive, help="end when the file has this size")
    record.add_argument(
        "--files",
        metavar="K",
        type=_files,
        default=1,
        help="fill FILE.1 to FILE.K in turn, N MiB each, and begin anew with the first",
    )
    record.add_argument("--standalone", action="store_true", help="collect the events anew, as without a daemon (root)")
    _add_socket(record)
    record.add_argument("--metrics", metavar="FILE", default="", help="at the end, write the metrics there")
    record.add_argument("--seconds", metavar="S", type=_positive, help="end after this time (default: when told to)")
    _add_listening(record)
    _add_collecting(record)
    record.set_defaults(command=_record)

    audit = commands.add_parser("audit", help="compare the model with the kernel's own lists, and end (root)")
    audit.add_argument("--rounds", metavar="N", type=_whole, default=2, help="audits of each VM (default 2)")
    _add_collecting(audit, audit_interval=1.0)
    audit.set_defaults(command=_audit, listen="")

    info = commands.add_parser("info", help="say what is in a capture")
    info.add_argument("file", metavar="FILE", help="the capture to read")
    info.set_defaults(command=_info)

    replay = commands.add_parser("replay", help="print the metrics that a capture leads to")
    replay.add_argument("file", metavar="FILE", help="the capture to read")
    replay.add_argument("--listen", metavar="HOST:PORT", help="serve them instead of printing them")
    replay.set_defaults(command=_replay)

    screen = commands.add_parser("top", help="show all VMs live, and what they mean")
    screen.add_argument("--replay", metavar="FILE", help="play a capture instead")
    screen.add_argument("--speed", metavar="X", type=_positive, default=1.0, help="play so much faster (default 1)")
    screen.add_argument("--at", metavar="S", type=_seconds, help="begin S seconds into it; with --once, end there")
    screen.add_argument("--standalone", action="store_true", help="collect the events anew, without a daemon (root)")
    screen.add_argument("--interval", metavar="S", type=_positive, default=1.0, help="between two looks (default 1)")
    screen.add_argument("--once", action="store_true", help="print the table once, as into a pipe")
    screen.add_argument("--json", action="store_true", help="print it as JSON, once")
    screen.add_argument("--csv", action="store_true", help="print it as CSV, once")
    screen.add_argument("--columns", metavar="KEYS", default="", help="which, in which order, with commas between")
    screen.add_argument("--sort", metavar="KEY", default="", help="the column to sort by (default recent)")
    screen.add_argument("--filter", metavar="TEXT", default="", help="only VMs with this in their name")
    screen.add_argument("--vm", metavar="NAME", default="", help="open this VM at once")
    screen.add_argument("--config", metavar="FILE", help="take the columns from there (default /etc/shadowwatch.toml)")
    _add_socket(screen)
    screen.set_defaults(command=_top)

    tree = commands.add_parser("tree", help="print a VM's shadow pages, once")
    tree.add_argument("vm", metavar="VM", help="its name or its pid")
    tree.add_argument("--replay", metavar="FILE", help="take it from a capture instead of the running daemon")
    tree.add_argument(
        "--at", metavar="S", type=_seconds, help="as it was S seconds after the capture began (default: its end)"
    )
    tree.add_argument("--format", choices=("text", "json", "dot", "svg"), default="text", help="(default text)")
    tree.add_argument("-o", "--output", metavar="FILE", help="write there instead of printing")
    _add_socket(tree)
    tree.set_defaults(command=_tree)

    plot = commands.add_parser("plot", help="draw a capture over time, or two side by side")
    plot.add_argument("file", metavar="CAPTURE", help="the capture to draw")
    plot.add_argument("other", metavar="CAPTURE", nargs="?", help="another one, beside it on the same axes")
    plot.add_argument("-o", "--output", metavar="FILE", required=True, help="the picture to write, .svg or .png")
    plot.add_argument("--vm", metavar="NAME", help="its name or its pid (default: the only one with shadow pages)")
    plot.set_defaults(command=_plot)

    doctor = commands.add_parser("doctor", help="say what this host offers and lacks, with the cure")
    doctor.set_defaults(command=_doctor)
    return top


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = parser().parse_args(words)
    try:
        code: int = arguments.command(arguments)
    except ShadowwatchError as error:
        print(f"shadowwatch: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader of our output went away, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    return code
