# SPDX-License-Identifier: Apache-2.0
"""Files that commands write what they made into."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from shadowwatch.errors import ShadowwatchError
from shadowwatch.file import put


def check(path: str) -> None:
    """ShadowwatchError when nothing can be written there, which is better known before the work is done."""
    try:
        os.stat(os.path.join(os.path.dirname(path), "."))
    except OSError as error:
        raise _refused(path, error) from None


def write(path: str, content: bytes) -> None:
    """Write all of it there; ShadowwatchError when that fails, and a file that was there is as it was."""
    try:
        mode = _mode(path)
        if mode is None:
            Path(path).write_bytes(content)
        else:
            put(path, content, mode)
    except OSError as error:
        raise _refused(path, error) from None


def _mode(path: str) -> int | None:
    """The mode of a file to put there; None where it is to be written in place.

    That is what no other file can stand for, such as a pipe or a link to standard output, what has another owner, who
    would lose it, and what is in a folder that takes no new file.
    """
    if not os.access(os.path.dirname(path) or ".", os.W_OK):
        return None
    try:
        before = os.lstat(path)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
    own = stat.S_ISREG(before.st_mode) and before.st_uid == os.geteuid()
    return stat.S_IMODE(before.st_mode) if own else None


def _refused(path: str, error: OSError) -> ShadowwatchError:
    return ShadowwatchError(f"cannot write {path}: {error.strerror}; choose another place")
