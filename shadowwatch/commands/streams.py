# SPDX-License-Identifier: Apache-2.0
"""Standard streams as the world leaves them: closed, full, without a reader, or for another alphabet."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from select import select
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: Wider, nobody looks at it.
_WIDEST = 10_000


class _Kept(io.FileIO):
    """A descriptor that goes on being open, and what it refused last."""

    fault: OSError | None = None

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some of it, and wait for room where somebody has made that an error."""
        try:
            while (written := super().write(data)) is None:
                select([], [self], [])
        except OSError as error:
            self.fault = error
            raise
        return written


class _Lossy(_Kept):
    """The same, but what is refused is lost: there is no place to say so."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write some of it, or take it for written."""
        with suppress(OSError):
            return super().write(data)
        return memoryview(data).nbytes


class Output:
    """Standard output from here on; standard error beside it, which never fails."""

    def __init__(self) -> None:
        """Have no file take the place of a stream that was closed, and letters that a terminal lacks be replaced."""
        _fill_closed()
        self._raw: _Kept | None = None
        # Whoever has put something else there, as tests do, knows what it does.
        if sys.stdout is sys.__stdout__:
            self._raw = _Kept(1)
            sys.stdout = _text(self._raw, sys.stdout)
        if sys.stderr is sys.__stderr__:
            sys.stderr = _text(_Lossy(2), sys.stderr)
        if sys.stdin is None:
            sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)

    def refused(self, error: OSError) -> bool:
        """Whether this is what standard output refused to take; the rest of it is dropped then."""
        if self._raw is None or error is not self._raw.fault:
            return False
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return True


def _fill_closed() -> None:
    """Open what is closed, so that writing fails as it did before."""
    for descriptor, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest number


def _text(raw: _Kept, before: TextIO | None) -> TextIO:
    encoding = before.encoding if before else "utf-8"
    # PYTHONUNBUFFERED makes it write through instead.
    at_once = isinstance(before, io.TextIOWrapper) and (before.line_buffering or before.write_through)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, "replace", line_buffering=at_once)


def forget_odd_sizes() -> None:
    """Of what the environment says of the terminal's size, take only what can be one."""
    for name in ("COLUMNS", "LINES"):
        size = os.environ.get(name, "1")
        if not (size.isascii() and size.isdigit() and 0 < int(size[:9]) < _WIDEST):
            del os.environ[name]
