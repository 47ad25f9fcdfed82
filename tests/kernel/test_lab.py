# SPDX-License-Identifier: Apache-2.0
"""The lab itself: what it says when it hangs or dies, and that nothing of it is left, whatever ended it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.lab.errors import LabError
from tests.lab.machine import CHECKOUT, Lab

#: For a lab to say that it hangs.
HANG_SECONDS = 60.0
#: For what a killed run had started to end: xdist's workers wait some seconds for their tests first.
GONE_SECONDS = 60.0

#: A test with a lab and a terminal, which says so and then waits.
WAITING = """
import time
from pathlib import Path
from tests.lab.snapshot import ready
from tests.tmux import Tmux

def test_waits(tmp_path: Path) -> None:
    tmux = Tmux(tmp_path, ["sleep", "1000"])
    with ready("bare", kvm="stock") as lab:
        started = Path({started!r})
        started.with_suffix(".new").write_text(f"{{lab.out.parent}} {{tmp_path}}")
        started.with_suffix(".new").rename(started)
        lab.run("sleep 1000", timeout=1000)
"""


def test_a_lab_that_dies_says_why(bare: Lab) -> None:
    """A panic of its kernel is in the error, and whoever asks it next is told at once."""
    with pytest.raises(LabError, match="sysrq triggered crash"):
        bare.run("echo c >/proc/sysrq-trigger; sleep 1000")
    with pytest.raises(LabError, match="this lab is closed"):
        bare.run("true")


@pytest.mark.soak
def test_a_lab_that_hangs_says_so_within_a_minute(bare: Lab) -> None:
    """With what the emulator was doing: here it stands still."""
    command = bare.popen("sleep 1000")
    assert bare._emulator
    bare._emulator._qmp.command("stop")
    begun = time.monotonic()
    with pytest.raises(LabError, match=r"stopped answering: QEMU's status is paused, it takes \d+% of a core, .*RIP="):
        bare.run("true")
    assert time.monotonic() - begun < HANG_SECONDS
    assert command.wait(timeout=10)


@contextmanager
def waiting(folder: Path, *options: str) -> Iterator[tuple[psutil.Process, list[psutil.Process], list[Path]]]:
    """A run of pytest in the middle of a test, all that it started, and the folders of it."""
    started = folder / "started"
    test = folder / "test_waiting.py"
    test.write_text(WAITING.format(started=str(started)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(test)]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with (folder / "said").open("w") as said:
        pytest_ = subprocess.Popen(command, cwd=folder, env=environment, stdout=said, stderr=said)
    try:
        while not started.exists():
            assert pytest_.poll() is None, (folder / "said").read_text()
            time.sleep(0.1)
        process = psutil.Process(pytest_.pid)
        yield process, process.children(recursive=True), [Path(path) for path in started.read_text().split()]
    finally:
        pytest_.kill()
        pytest_.wait()


@pytest.mark.parametrize(
    ("options", "number"),
    [
        pytest.param([], signal.SIGINT, id="alone-interrupted"),
        pytest.param([], signal.SIGKILL, id="alone-killed", marks=pytest.mark.soak),
        pytest.param(["-n", "1"], signal.SIGINT, id="xdist-interrupted", marks=pytest.mark.soak),
        pytest.param(["-n", "1"], signal.SIGKILL, id="xdist-killed"),
    ],
)
def test_nothing_is_left_of_a_run_that_was_interrupted(tmp_path: Path, options: list[str], number: int) -> None:
    """No emulator, no ssh, no terminal and no folder of the lab, after Ctrl-C and after kill -9."""
    with waiting(tmp_path, *options) as (process, started, (folder, _)):
        assert any("qemu" in each.name() for each in started)
        assert any("tmux" in each.name() for each in started)
        assert folder.exists()
        process.send_signal(number)
        process.wait(GONE_SECONDS)
        left = psutil.wait_procs(started, timeout=GONE_SECONDS)[1]
        assert [each.cmdline() for each in left] == []
        deadline = time.monotonic() + GONE_SECONDS
        while folder.exists():
            assert time.monotonic() < deadline, f"{folder} is left"
            time.sleep(0.1)
