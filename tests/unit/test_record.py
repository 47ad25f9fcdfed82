# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch record` through the running daemon: when it ends, and what it says."""

from __future__ import annotations

import io
import os
import signal
import threading
from pathlib import Path

import pytest

from shadowwatch.capture.format import reading
from shadowwatch.cli import main
from shadowwatch.control.client import Live
from shadowwatch.control.record import create, paths, record
from shadowwatch.errors import ShadowwatchError
from shadowwatch.view.progress import ProgressLine
from tests.unit.daemon import Daemon, looking

SILENT = ProgressLine(io.StringIO()).show


class Terminal(io.StringIO):
    """What a terminal is sent."""

    def isatty(self) -> bool:
        """It is one."""
        return True


def test_it_ends_when_the_time_is_over(daemon: Daemon, live: Live, tmp_path: Path) -> None:
    """The file is whole and says as much as the last progress; the terminal has shown it."""
    path = str(tmp_path / "a.capture")
    loop = looking(daemon)
    terminal = Terminal()
    line = ProgressLine(terminal)
    done = record(live, [(create(path), path)], None, 1.0, line.show)
    line.end()
    loop.join(10)
    assert (done.records, done.path) == (3, path)
    assert terminal.getvalue().startswith(f"\r{0} s, ")
    assert terminal.getvalue().endswith(f" in {path}\n")
    with reading(path) as reader:
        assert len(list(reader.batches())) > 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_by_a_signal_and_the_file_is_whole(
    number: signal.Signals, daemon: Daemon, live: Live, tmp_path: Path
) -> None:
    """Nothing is printed but what the caller prints, and signals are as they were."""
    path = str(tmp_path / "a.capture")
    before = signal.getsignal(number)
    loop = looking(daemon)

    def tell() -> None:
        assert daemon.asked.wait(10)
        os.kill(os.getpid(), number)

    threading.Thread(target=tell).start()
    assert record(live, [(create(path), path)], None, None, SILENT).records == 3
    loop.join(10)
    assert signal.getsignal(number) is before
    with reading(path) as reader:
        assert len(list(reader.batches())) > 1


def test_what_the_daemon_cannot_write_is_said(daemon: Daemon, live: Live) -> None:
    """In the daemon's words, as the asker's error."""
    loop = looking(daemon)
    with pytest.raises(ShadowwatchError, match="cannot go on writing /dev/full"):
        record(live, [(create("/dev/full"), "/dev/full")], None, 0.0, SILENT)
    loop.join(10)


@pytest.mark.parametrize("flags", [["--difference", "/d"], ["--ring-mib", "8"], ["--audit-interval", "1"]])
def test_settings_are_the_daemons_own(
    flags: list[str], daemon: Daemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who gives others hears that they are of no use here, before a recording is made without them."""
    assert main(["record", str(tmp_path / "a"), "--socket", daemon.path, "--seconds", "0.1", *flags]) == 1
    said = f"shadowwatch: the running daemon has settings of its own; leave {flags[0]} out, or add --standalone\n"
    assert capsys.readouterr() == ("", said)
    assert not (tmp_path / "a").exists()


def test_several_files_have_numbers() -> None:
    """One has the name that was given."""
    assert paths("a.capture", 1) == ("a.capture",)
    assert paths("a.capture", 3) == ("a.capture.1", "a.capture.2", "a.capture.3")


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """Before anything is asked of the daemon."""
    with pytest.raises(ShadowwatchError, match=r"cannot write .*/no/a: No such file or directory; choose another"):
        create(str(tmp_path / "no" / "a"))


def test_a_shorter_line_leaves_nothing_of_a_longer_one() -> None:
    """The terminal's line is overwritten to its old end."""
    terminal = Terminal()
    line = ProgressLine(terminal)
    line.end()
    assert terminal.getvalue() == ""
    line.show("longer")
    line.show("short")
    line.end()
    assert terminal.getvalue() == "\rlonger\rshort \n"
