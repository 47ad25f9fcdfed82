# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from typing import TypeAlias

from shadowwatch.control import MOST_FILES, SOCKET

LISTEN = "127.0.0.1:9790"
RING_MIB = 4
#: A step of a walk must fit in.
RING_LEAST = 0.0625

#: Where each command adds itself.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_collecting(parser: argparse.ArgumentParser, audit_interval: float | None = None) -> None:
    """Add what all have that attach probes."""
    parser.add_argument(
        "--recent-seconds",
        metavar="S",
        type=positive,
        help="a directory is recently parented for this long, instead of for one list-length of allocations",
    )
    parser.add_argument("--user", metavar="NAME", help="run as this user (default shadowwatch, else nobody)")
    parser.add_argument(
        "--ring-mib",
        metavar="N",
        type=mebibytes,
        default=RING_MIB,
        help=f"size of the event ring (default {RING_MIB})",
    )
    parser.add_argument(
        "--audit-interval",
        metavar="S",
        type=positive,
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


def add_listening(parser: argparse.ArgumentParser) -> None:
    """Add --listen."""
    parser.add_argument("--listen", metavar="HOST:PORT", default=LISTEN, help=f"serve metrics there (default {LISTEN})")


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Add --socket."""
    parser.add_argument("--socket", metavar="PATH", default=SOCKET, help=f"the daemon's socket (default {SOCKET})")


def positive(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def seconds(text: str) -> float:
    """A time, 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def mebibytes(text: str) -> float:
    """A size of the ring."""
    value = float(text)
    if not RING_LEAST <= value <= 512:
        raise argparse.ArgumentTypeError(f"{text} is not between {RING_LEAST} and 512")
    return value


def files(text: str) -> int:
    """A number of files."""
    value = whole(text)
    if value > MOST_FILES:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_FILES}")
    return value


def whole(text: str) -> int:
    """A whole number, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value
