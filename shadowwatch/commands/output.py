# SPDX-License-Identifier: Apache-2.0
"""Files that commands write what they made into."""

from __future__ import annotations

from pathlib import Path

from shadowwatch.errors import ShadowwatchError


def write(path: str, content: bytes) -> None:
    """Write all of it there; ShadowwatchError when that fails."""
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise ShadowwatchError(f"cannot write {path}: {error.strerror}; choose another place") from None
