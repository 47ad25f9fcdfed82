# SPDX-License-Identifier: Apache-2.0
"""Files that somebody names: whatever is there, reading it ends and takes little memory, and a new one is whole."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from shadowwatch.errors import ShadowwatchError, clipped

#: All authorities of the world, in PEM, are half a mebibyte.
LARGEST = 4 << 20


def contents(path: str, most: int = LARGEST) -> bytes:
    """What is in a regular file, or in /dev/null, of at most so many bytes; ShadowwatchError with the cure for others.

    A FIFO is not waited for.
    """
    shown = clipped(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode) and path != os.devnull:
                raise ShadowwatchError(f"cannot read {shown}: it is not a regular file; name one that is")
            with open(descriptor, "rb", closefd=False) as file:
                content = file.read(most + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ShadowwatchError(f"cannot read {shown}: {error.strerror}; check its path, owner and mode") from None
    except ValueError:  # a NUL, or half a character
        raise ShadowwatchError(f"cannot read {shown!r}: no file can have this name; name another") from None
    if len(content) > most:
        raise ShadowwatchError(f"cannot read {shown}: it has more than {most >> 10:,} KiB; make it smaller")
    return content


def put(path: str, content: bytes, mode: int) -> None:
    """Have a new file with this content take the place of whatever is there, whole or not at all; OSError if not."""
    import tempfile  # the daemon reads files and has no use for it

    descriptor, made = tempfile.mkstemp(prefix=".shadowwatch-", dir=os.path.dirname(path) or ".")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, mode)
        os.replace(made, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(made)
        raise
