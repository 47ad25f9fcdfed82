# SPDX-License-Identifier: Apache-2.0
"""What people see, kept as files; SHADOWWATCH_GOLDEN=write writes them, to be looked at in the diff."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent


def matches(name: str | Path, text: str) -> None:
    """Assert that the text is what the file of this name holds, here or at a path of its own."""
    path = HERE / name
    if os.environ.get("SHADOWWATCH_GOLDEN") == "write":
        path.write_text(text)
    assert path.read_text() == text
