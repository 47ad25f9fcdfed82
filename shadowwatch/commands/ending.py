# SPDX-License-Identifier: Apache-2.0
"""An end by a signal that still gives back what was taken: a terminal, a daemon of one's own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def unwinding() -> Iterator[None]:
    """Have SIGTERM and SIGHUP raise SystemExit with the status that a shell gives to the signal; the first one."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def end(number: int, _: FrameType | None) -> None:
        # A second one must not interrupt the giving back.
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
