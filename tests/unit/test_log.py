# SPDX-License-Identifier: Apache-2.0
"""What the service says, to whom, and how much of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from shadowwatch.service.log import BURST, SECONDS, Level, Limit, say

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


ENDS = """
import sys
from shadowwatch.service import log
log.ERROR_SECONDS = 0.1
for _ in range(15):
    log.say("all is well")
log.say("all is not", log.Level.ERROR)
sys.exit(3)
"""


def full_pipe() -> tuple[int, int]:
    """One that nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    os.set_blocking(writer, True)
    return reader, writer


@pytest.mark.parametrize("stream", ["full disk", "reader gone", "reader stuck", ">&-", "2>&-", ">&- 2>&- <&-"])
def test_a_line_that_cannot_be_written_ends_nothing(stream: str) -> None:
    """Nor does it hold anything up, and what was to be done ends with its own exit code."""
    command = [sys.executable, "-c", ENDS]
    if "&" in stream:
        command = ["sh", "-c", f'exec "$@" {stream}', "sh", *command]
    reader, writer = full_pipe()
    if stream == "reader gone":
        os.close(reader)
    out = os.open("/dev/full", os.O_WRONLY) if stream == "full disk" else writer
    assert subprocess.run(command, stdout=out, stderr=out, timeout=20).returncode == 3
    for descriptor in {reader, writer, out}:
        with suppress(OSError):
            os.close(descriptor)


def test_words_of_others_steer_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Names and keys come from anywhere; the line is one line, and not a long one."""
    say("a\x1b[2J\nb\u2028" + "c" * 10_000)
    out = capsys.readouterr().out
    assert out.startswith("shadowwatch: a?[2J b?c")
    assert len(out) < 1100
    assert out.endswith("c…\n")


def test_a_terminal_without_the_letters_gets_others(capsys: pytest.CaptureFixture[str]) -> None:
    """As one in Latin-1."""
    script = "from shadowwatch.service.log import say; say('VM Büro…')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        check=True,
        capture_output=True,
    )
    assert done.stdout == "shadowwatch: VM Büro?\n".encode("latin-1")


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
