# SPDX-License-Identifier: Apache-2.0
"""Every command with standard streams that are full, closed, not read or for another alphabet, and with odd sizes."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from shadowwatch.capture.series import read
from shadowwatch.cli import parser
from tests.captures import CAPTURES
from tests.unit.forged import PLOT, READERS, capture, data, frame, name
from tests.unit.forged import run as in_process
from tests.unit.story import Story

#: Letters that neither ASCII nor Latin-1 has, and bytes that are no UTF-8, as the command line gives them.
CALLED = "Büro-Ω-\udcff"

#: What makes each command print, on any host.
WORDS = {
    "doctor": "doctor",
    "run": "run --config.check --config {}.toml",
    "top": "top --once --config {}.toml --replay {}",
    "tree": "tree 4711 --replay {}",
    "record": "record --help",
    "info": "info {}",
    "replay": "replay {}",
    "plot": "plot -o {}.svg {}",
    "simulate": "simulate {}",
    "audit": "audit --help",
    "cost": "cost --help",
}


#: Those that have failed most, each in a way of its own.
OFTEN = ("doctor", "simulate", "top", "tree")


@dataclass(frozen=True)
class Streams:
    """What a shell makes of the streams, the environment, and what is said on standard error then.

    Nobody reads standard output unless it is `read`.
    """

    shell: str
    said: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    read: bool = True


REFUSED = "shadowwatch: cannot write to standard output: {}; send it to another place\n"
STREAMS = {
    "full": Streams(">/dev/full", REFUSED.format("No space left on device")),
    "closed": Streams("<&- >&-", REFUSED.format("Bad file descriptor")),
    "no reader": Streams("", "", read=False),
    "Latin-1, no standard error": Streams("2>&-", None, {"PYTHONIOENCODING": "latin-1"}),
    "ASCII, no standard input": Streams("<&-", None, {"PYTHONIOENCODING": "ascii"}),
    "C locale, full standard error": Streams("2>/dev/full", None, {"LC_ALL": "C", "PYTHONUTF8": "0"}),
    "no width": Streams("", None, {"COLUMNS": "0", "LINES": "0"}),
    "a width that is no number": Streams("", None, {"COLUMNS": "²", "LINES": "-1"}),
    "a width of all memory": Streams("", None, {"COLUMNS": "9" * 12}),
}


def commands() -> set[str]:
    """Those of the parser."""
    (choices,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return set(choices.choices)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of a VM with such a name, in a place with such a one."""
    story = Story()
    story.alloc(1, level=2)
    story.alloc(2)
    story.link(1, 0, 2)
    story.zap(1, level=2)
    path = tmp_path_factory.mktemp("streams") / "Büro"
    Path(f"{path}.toml").write_text("")
    frames = [name(4711, CALLED), data(story.records(), story.ns), frame(b"LAST", b"4")]
    path.write_bytes(capture(frames))
    return path


def run(words: Sequence[str], streams: Streams) -> subprocess.CompletedProcess[bytes]:
    """Run a command with these streams."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {streams.shell}', "sh", sys.executable, "-m", "shadowwatch", *words],
        env={**os.environ, **streams.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if streams.read else writer,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writer)
    return done


@cache
def plain(command: str, path: Path) -> subprocess.CompletedProcess[bytes]:
    """The command with nothing in its way."""
    return run(words(command, path), Streams(""))


def words(command: str, path: Path) -> list[str]:
    """What is asked of it."""
    return WORDS[command].replace("{}", str(path)).split()


def pairs() -> Iterator[Any]:
    """Every command and every kind of streams; those that have failed most on each commit, all in a soak."""
    for command in sorted(commands()):
        for how in STREAMS:
            often = command == "info" or (how in ("full", "closed") and command in OFTEN)
            yield pytest.param(command, how, marks=() if often else pytest.mark.soak)


@pytest.mark.parametrize(("command", "how"), list(pairs()))
def test_no_stream_ends_a_command_by_a_traceback(command: str, how: str, path: Path) -> None:
    """What standard output refuses is one line and 1; all else is printed, with replacements for what has no letter."""
    streams = STREAMS[how]
    done = run(words(command, path), streams)
    if streams.said is not None:
        assert (done.returncode, done.stderr.decode()) == (1, streams.said)
        assert not done.stdout
        return
    expected = plain(command, path)
    assert (expected.stderr, bool(expected.stdout)) == (b"", True)
    assert (done.returncode, done.stderr) == (expected.returncode, b"")
    assert len(done.stdout.splitlines()) == len(expected.stdout.splitlines())
    if command != "replay":  # its format is UTF-8
        done.stdout.decode(streams.environment.get("PYTHONIOENCODING", "utf-8"))


def test_what_a_terminal_lacks_is_replaced(path: Path) -> None:
    """A name keeps the letters that there are."""
    for encoding, shown in (
        ("ascii", b"B?ro-?-?"),
        ("latin-1", "Büro-?-?".encode("latin-1")),
        ("utf-8", b"\xce\xa9-?"),
    ):
        assert shown in run(words("info", path), Streams("", None, {"PYTHONIOENCODING": encoding})).stdout


def test_a_fault_that_cannot_be_said_is_still_a_fault() -> None:
    """Standard error is full or closed: the exit status tells."""
    for shell in ("2>/dev/full", "2>&-", ">&- 2>&-"):
        done = run(["info", "/no/such"], Streams(shell))
        assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_is_said_is_heard_at_once(unbuffered: str) -> None:
    """On standard error always, and on standard output, too, where PYTHONUNBUFFERED asks for it, as images do."""
    script = (
        "import os, sys; from shadowwatch.commands.streams import Output; Output();"
        " print('out'); print('error', file=sys.stderr); os._exit(0)"
    )
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("out\n" if unbuffered else "", "error\n")


def test_a_pipe_that_would_block_is_waited_for(path: Path) -> None:
    """Whoever has the other end, or shares this one, may have made it so: nothing is lost by it."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    os.set_blocking(reader, True)
    got: list[bytes] = []

    def take() -> None:
        while piece := os.read(reader, 1000):
            got.append(piece)

    process = subprocess.Popen([sys.executable, "-m", "shadowwatch", "replay", str(path)], stdout=writer)
    os.close(writer)
    thread = threading.Thread(target=take)
    thread.start()
    assert process.wait(60) == 0
    thread.join(60)
    os.close(reader)
    assert b"".join(got) == plain("replay", path).stdout


@pytest.mark.parametrize("words", [*READERS.values(), pytest.param(PLOT, marks=pytest.mark.soak)])
def test_a_capture_from_a_pipe_is_read_as_a_file_is(words: str, path: Path, tmp_path: Path) -> None:
    """By whoever reads it, and also by whoever reads it twice."""
    words = words.replace("web1", "4711").replace("{}.svg", f"{tmp_path}/a.svg")
    reader, writer = os.pipe()
    os.write(writer, path.read_bytes())
    os.close(writer)
    pipe = Path(f"/dev/fd/{reader}")
    code, out, errors = in_process(words, pipe)
    os.close(reader)
    from_file = in_process(words, path)
    assert (code, errors) == (from_file[0], from_file[2]) == (0, "")
    assert out.split() == from_file[1].replace(str(path), str(pipe)).split()


def test_a_pipe_that_there_is_no_room_for_is_one_line() -> None:
    """It is kept in a file, since readers go back: that is what is in the way, and not the pipe."""
    done = subprocess.run(
        ["sh", "-c", f"ulimit -f 8; cat {CAPTURES['stock']} | {sys.executable} -m shadowwatch info /dev/stdin"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "shadowwatch: cannot keep what comes from /dev/stdin: File too large; make room in /tmp,"
        " or set TMPDIR to a folder with some\n",
    )


@pytest.mark.parametrize(("content", "said"), [(b"x" * 60_000, "is not a shadowwatch capture"), (b"", "is empty")])
def test_what_comes_from_a_pipe_and_is_no_capture_is_refused(content: bytes, said: str) -> None:
    """However much of it there is: no more than its beginning is read."""
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    code, out, errors = in_process("info {}", Path(f"/dev/fd/{reader}"))
    left = len(os.read(reader, 1 << 20))
    os.close(reader)
    assert (code, out, left >= len(content) - 8192) == (1, "", True)
    assert said in errors


def test_a_series_of_a_pipe_is_that_of_a_file(path: Path) -> None:
    """It is read twice."""
    reader, writer = os.pipe()
    os.write(writer, path.read_bytes())
    os.close(writer)
    series = read(f"/dev/fd/{reader}")
    os.close(reader)
    assert replace(series, path=str(path)) == read(str(path))
