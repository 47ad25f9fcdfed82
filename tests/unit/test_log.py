# SPDX-License-Identifier: Apache-2.0
"""What the service says, to whom, and how much of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from shadowwatch.service.log import BURST, SECONDS, Level, Limit

SAY = """
import sys
from shadowwatch.service import log
log.JOURNAL = sys.argv[1]
log.say("all is well", vm="web\\n1")
log.say("all is not", log.Level.ERROR)
"""


def said(journal: Path, stream: str | None = None) -> subprocess.CompletedProcess[str]:
    """Two lines, from a process whose standard error is a pipe that JOURNAL_STREAM speaks of, or something else."""
    reader, writer = os.pipe()
    about = os.fstat(writer)
    stream = f"{about.st_dev}:{about.st_ino}" if stream is None else stream
    with os.fdopen(reader) as errors, os.fdopen(writer, "w") as err:
        done = subprocess.run(
            [sys.executable, "-c", SAY, str(journal)],
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            check=True,
            env={**os.environ, "JOURNAL_STREAM": stream},
        )
        err.close()
        done.stderr = errors.read()
    return done


def test_the_journal_gets_one_entry_with_fields(tmp_path: Path) -> None:
    """Priority, message and VM, a newline in which begins no field; and nothing goes to standard output as well."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        done = said(tmp_path / "journal")
        assert journal.recv(4096).decode().splitlines() == [
            "MESSAGE=all is well",
            "PRIORITY=6",
            "SYSLOG_IDENTIFIER=shadowwatch",
            "SHADOWWATCH_VM=web 1",
        ]
        assert journal.recv(4096).decode().splitlines()[:2] == ["MESSAGE=all is not", "PRIORITY=3"]
    assert (done.stdout, done.stderr) == ("", "")


def test_without_a_journal_lines_go_to_standard_output_and_errors_to_standard_error(tmp_path: Path) -> None:
    """Whether it is gone, or was that of a service which started this one."""
    for done in (said(tmp_path / "gone"), said(tmp_path / "gone", "1:2")):
        assert (done.stdout, done.stderr) == ("shadowwatch: all is well\n", "shadowwatch: all is not\n")


def test_too_many_lines_are_left_out_and_counted() -> None:
    """A burst passes, then one each half minute; an error always does."""
    now = 0.0
    limit = Limit(lambda: now)
    passed = [limit.pass_on("x", Level.WARNING) for _ in range(BURST + 5)]
    assert passed == ["x"] * BURST + [""] * 5
    assert limit.pass_on("y", Level.ERROR) == "y (lines left out before this one: 5)"
    assert limit.pass_on("x", Level.INFO) == ""
    now = SECONDS
    assert limit.pass_on("x", Level.INFO) == "x (lines left out before this one: 1)"
    assert limit.pass_on("x", Level.INFO) == ""
    now = 1000 * SECONDS
    assert [limit.pass_on("x", Level.INFO) for _ in range(BURST + 1)].count("") == 1
