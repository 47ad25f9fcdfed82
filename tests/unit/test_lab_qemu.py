# SPDX-License-Identifier: Apache-2.0
"""The lab's QEMU, as it is put into the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab.qemu import ONCE, TWICE, deliver_once


@pytest.mark.parametrize(
    ("code", "found"),
    [(b"before" + TWICE + b"after", True), (b"another build", False), (TWICE + b"and" + TWICE, False)],
)
def test_only_the_code_that_is_known_is_changed(code: bytes, found: bool, tmp_path: Path) -> None:
    """One instruction, for one that does nothing and is as long."""
    program = tmp_path / "qemu"
    program.write_bytes(code)
    assert deliver_once(program) is found
    assert program.read_bytes() == (b"before" + ONCE + b"after" if found else code)
    assert len(ONCE) == len(TWICE)
    assert ONCE[6:] == TWICE[6:]
