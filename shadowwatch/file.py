# SPDX-License-Identifier: Apache-2.0
"""Files that somebody names in a configuration: whatever they are, reading them ends, and takes little memory."""

from __future__ import annotations

import os
import stat

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
        raise ShadowwatchError(f"cannot read {shown}: it has more than {most >> 10} KiB; make it smaller")
    return content
