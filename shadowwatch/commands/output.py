# SPDX-License-Identifier: Apache-2.0
"""Files that commands write what they made into."""

from __future__ import annotations

import os
from pathlib import Path

from shadowwatch.errors import ShadowwatchError


def check(path: str) -> None:
    """ShadowwatchError when nothing can be written there, which is better known before the work is done."""
    try:
        os.stat(os.path.join(os.path.dirname(path), "."))
    except OSError as error:
        raise _refused(path, error) from None


def write(path: str, content: bytes) -> None:
    """Write all of it there; ShadowwatchError when that fails."""
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise _refused(path, error) from None


def _refused(path: str, error: OSError) -> ShadowwatchError:
    return ShadowwatchError(f"cannot write {path}: {error.strerror}; choose another place")
