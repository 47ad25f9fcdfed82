# SPDX-License-Identifier: Apache-2.0
"""What the lab starts on this machine ends with it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.lab.command import beside, output
from tests.lab.errors import LabError


def test_work_beside_ends_with_what_it_is_beside(tmp_path: Path) -> None:
    """An error in the block ends a tool of the work, what that has started, and the work itself."""
    alive, after = tmp_path / "alive", tmp_path / "after"
    alive.touch()

    def work() -> None:
        # The lock is held by what the shell starts, too.
        output(["flock", alive, "sh", "-c", f"sleep 600 & echo >{tmp_path}/started; wait"])
        after.touch()

    with pytest.raises(KeyboardInterrupt), beside(work) as done:  # noqa: PT012
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt
    assert isinstance(done.exception(), LabError)
    assert not after.exists()
    output(["flock", "--timeout", "5", alive, "true"])


def test_work_beside_gives_what_it_made() -> None:
    """And its error, to who asks for that."""
    with beside(lambda: output(["echo", "made"])) as made, beside(lambda: output(["false"])) as failed:
        pass
    assert made.result() == "made\n"
    with pytest.raises(LabError, match="false exited 1"):
        failed.result()
