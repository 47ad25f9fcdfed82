# SPDX-License-Identifier: Apache-2.0
"""Captures as nobody records them, with checksums that are right, and whoever reads captures."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from shadowwatch.capture.format import MAGIC, VERSION
from shadowwatch.cli import main
from tests.unit.story import FACTS

#: What reads a capture at {}.
READERS = {
    "info": "info {}",
    "replay": "replay {}",
    "top": "top --once --json --replay {}",
    "top at": "top --once --at 1 --replay {}",
    "tree": "tree web1 --replay {}",
    "tree at": "tree web1 --format json --at 0.1 --replay {}",
    "simulate": "simulate {}",
}

#: The same, but slow.
PLOT = "plot --vm web1 -o {}.svg {}"


def frame(kind: bytes, payload: bytes, now_ns: int = 0, lost: int = 0) -> bytes:
    """One frame."""
    head = struct.pack("<4sIQQQ", kind, len(payload), now_ns, lost, 0)
    return head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload


def facts(**changed: Any) -> bytes:
    """FACTS but for these."""
    return json.dumps(json.loads(FACTS.to_json()) | changed).encode()


def data(records: bytes, now_ns: int) -> bytes:
    """A batch."""
    return frame(b"DATA", zlib.compress(records, 9), now_ns)


def name(pid: int, called: str) -> bytes:
    """A name."""
    return frame(b"NAME", json.dumps([pid, called]).encode())


def capture(frames: Iterable[bytes], told: bytes | None = None) -> bytes:
    """A whole file of these frames, without its last one."""
    start = MAGIC + struct.pack("<I", VERSION) + frame(b"FACT", facts() if told is None else told)
    return start + b"".join(frames)


def read(reader: str, path: Path) -> tuple[int, str, str]:
    """Run one of READERS: its code, and what it printed on standard output and standard error."""
    return run(READERS[reader], path)


def run(words: str, path: Path) -> tuple[int, str, str]:
    """Run a command in this process, likewise."""
    out, errors = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with redirect_stdout(out), redirect_stderr(errors):
        code = main(words.replace("{}", str(path)).split())
    out.seek(0)
    return code, out.read(), errors.getvalue()
