# SPDX-License-Identifier: Apache-2.0
"""Files that commands write: whole or not at all, and what is no file of one's own is written as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shadowwatch.commands.output import write
from tests.captures import CAPTURES

CAPTURE = str(CAPTURES["stock"])
COMMANDS = {"plot": ("plot", CAPTURE), "tree": ("tree", "zipf", "--replay", CAPTURE, "--at", "1")}


def shadowwatch(*words: str, room: int = 1 << 30, out: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    """Run the command where no file takes more than so many bytes, as on a disk that is full."""
    code = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))"
    code += "\nfrom shadowwatch.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_cannot_be_written_is_as_it_was(command: str, tmp_path: Path) -> None:
    """Nothing is left beside it, and one line says so."""
    path = tmp_path / "a.svg"
    path.write_text("what was there before")
    done = shadowwatch(*COMMANDS[command], "-o", str(path), room=1000)
    assert done.returncode == 1
    assert done.stderr == f"shadowwatch: cannot write {path}: File too large; choose another place\n"
    assert path.read_text() == "what was there before"
    assert os.listdir(tmp_path) == ["a.svg"]


def test_a_new_file_has_the_mode_that_any_other_has(tmp_path: Path) -> None:
    """By umask, and one that takes the place of another has the mode of that one."""
    path = tmp_path / "a"
    before = os.umask(0o027)
    try:
        write(str(path), b"1")
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o604)
        write(str(path), b"2")
    finally:
        os.umask(before)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"2", 0o604)


def test_a_file_beside_one_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name alone."""
    monkeypatch.chdir(tmp_path)
    write("a", b"1")
    assert Path("a").read_bytes() == b"1"


def test_standard_output_is_written_as_it_is(tmp_path: Path) -> None:
    """Be it a pipe or a file: what the command prints comes behind it, not into a file that has gone."""
    piped = shadowwatch(*COMMANDS["tree"], "-o", "/dev/stdout").stdout
    assert piped.startswith("zipf, pid ")
    with (tmp_path / "a").open("w") as file:
        shadowwatch(*COMMANDS["tree"], "-o", "/dev/stdout", out=file.fileno())
        assert os.fstat(file.fileno()).st_nlink == 1
    assert (tmp_path / "a").read_text() == piped


def test_a_link_stays_one(tmp_path: Path) -> None:
    """The file that it points to is written."""
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"1")
    link.symlink_to(target)
    write(str(link), b"2")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"2")


def test_a_file_stays_its_owners(tmp_path: Path) -> None:
    """Root draws for others, too."""
    if os.geteuid() != 0:
        pytest.skip("root is missing, to write what belongs to somebody else")
    path = tmp_path / "a"
    path.write_bytes(b"1")
    os.chown(path, 65534, 65534)
    write(str(path), b"2")
    assert (path.read_bytes(), path.stat().st_uid) == (b"2", 65534)
