# SPDX-License-Identifier: Apache-2.0
"""Recording through the running daemon: the files are the asker's, the events the daemon's."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from shadowwatch.capture.recording import RecordingProgress
from shadowwatch.control.client import Live
from shadowwatch.errors import ShadowwatchError


def paths(path: str, files: int) -> tuple[str, ...]:
    """The file of this path, or several with numbers behind it."""
    return (path,) if files == 1 else tuple(f"{path}.{number}" for number in range(1, files + 1))


def create(path: str, keep: bool = False) -> int:
    """Open a file to be written, emptied unless what is in it is to be kept; ShadowwatchError when it cannot be."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (0 if keep else os.O_TRUNC), 0o644)
    except OSError as error:
        raise ShadowwatchError(f"cannot write {path}: {error.strerror}; choose another place") from None


def record(
    live: Live,
    files: Sequence[tuple[int, str]],
    most: int | None,
    seconds: float | None,
    show: Callable[[RecordingProgress], object],
) -> RecordingProgress:
    """Record until the time or the room is over or a signal comes; `show` hears each second how far that is.

    ShadowwatchError when the daemon cannot go on.
    """
    end = None if seconds is None else time.monotonic() + seconds
    last: RecordingProgress | None = None
    with _signals() as signals:
        asked = False
        for progress in live.record(files, most):
            if not last:
                print(f"shadowwatch: recording to {progress.path}; stop with Ctrl-C", flush=True)
            last = progress
            show(progress)
            if not asked and (signals or (end is not None and time.monotonic() >= end)):
                asked = True
                live.stop_recording()
    assert last  # one always comes
    if last.error:
        raise ShadowwatchError(last.error)
    return last


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of ending by them."""
    caught: list[int] = []

    def catch(number: int, _: FrameType | None) -> None:
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
