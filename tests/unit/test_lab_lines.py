# SPDX-License-Identifier: Apache-2.0
"""Lines of a process that may be late."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.lab.lines import line_within

SECONDS = 30.0


@pytest.fixture
def heir() -> Iterator[subprocess.Popen[str]]:
    """A process that says a line and then nothing, and whose child has its pipe, too."""
    line = "sleep 1000 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", line], stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        yield process
        os.killpg(process.pid, signal.SIGKILL)


def test_a_line_that_is_there_is_returned(heir: subprocess.Popen[str]) -> None:
    """The process goes on."""
    assert line_within(SECONDS, heir, heir.stdout).strip().isdigit()
    assert heir.poll() is None


def test_a_late_process_is_ended_and_nobody_waits_for_who_has_its_pipe(heir: subprocess.Popen[str]) -> None:
    """As ssh's master connection has the pipes of what runs over it."""
    line_within(SECONDS, heir, heir.stdout)
    assert line_within(0.1, heir, heir.stdout) == ""
    assert heir.wait() == -signal.SIGKILL


def test_the_end_of_a_process_is_an_empty_line() -> None:
    """It ended by itself."""
    with subprocess.Popen(["true"], stdout=subprocess.PIPE, text=True) as process:
        assert line_within(SECONDS, process, process.stdout) == ""
        assert process.wait() == 0
