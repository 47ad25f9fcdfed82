# SPDX-License-Identifier: Apache-2.0
"""An end by a signal, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from shadowwatch.commands.ending import unwinding
number = int(sys.argv[1])
with unwinding():
    try:
        os.kill(os.getpid(), number)
        print("went on")
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        print("given back")
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""


def ended(number: int, *before: str) -> subprocess.CompletedProcess[str]:
    """The program after this signal."""
    command = [*before, sys.executable, "-c", PROGRAM, str(number)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_was_taken_is_given_back(number: int) -> None:
    """Also when a second signal comes meanwhile; the status is that of the first one."""
    # Whoever runs this may itself have been started by nohup.
    done = ended(number, "env", "--default-signal=HUP,TERM")
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "given back\n", "")


def test_what_nohup_ignores_stays_ignored() -> None:
    """The other signal ends it."""
    done = ended(signal.SIGHUP, "nohup")
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "went on\n")
