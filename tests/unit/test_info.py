# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch info`: what is in a capture."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shadowwatch.capture.contents import contents
from shadowwatch.capture.format import Writer, pack
from shadowwatch.event.abi import Batch
from shadowwatch.mmu import model
from shadowwatch.view.info import show
from shadowwatch.watch import Watch
from tests.captures import CAPTURES
from tests.golden import matches
from tests.unit.forged import capture, data, frame, name
from tests.unit.forged import run as in_process
from tests.unit.story import FACTS, Story
from tests.unit.test_record import Terminal


def info(path: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command beside the file."""
    command = [sys.executable, "-m", "shadowwatch", "info", path]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_whole_capture_is_told_on_one_screen() -> None:
    """Golden: the host, its KVM, how long, how many events of which kind, the VMs and what came of them."""
    done = info("parents.capture", CAPTURES["parents"].parent)
    assert (done.returncode, done.stderr) == (0, "")
    matches("info.txt", done.stdout)
    assert done.stdout.count("\n") <= 24


def test_a_cut_capture_is_told_up_to_the_cut(tmp_path: Path) -> None:
    """What there is, where it ends, and by the exit code that it is not whole."""
    (tmp_path / "cut.capture").write_bytes(CAPTURES["stock"].read_bytes()[:100_000])
    done = info("cut.capture", tmp_path)
    assert done.returncode == 1
    assert "cut.capture is cut off after" in done.stdout
    assert "zipf" in done.stdout


def test_in_a_pipe_a_sentence_is_one_line(tmp_path: Path) -> None:
    """However long the path is that it names: scripts look for it, whatever COLUMNS says."""
    (tmp_path / "cut.capture").write_bytes(CAPTURES["stock"].read_bytes()[:100_000])
    long = f"{'./' * 100}cut.capture"
    (line,) = (line for line in info(long, tmp_path).stdout.splitlines() if line.startswith("ends"))
    assert line.split(maxsplit=1)[1].startswith(f"{long} is cut off after ")
    assert line.rstrip().endswith(" to have all")


def test_a_narrow_terminal_takes_nothing_from_the_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headings and a table of VMs that has many figures: lines go on in the next one."""
    monkeypatch.setenv("COLUMNS", "30")
    terminal = Terminal()
    show(contents(str(CAPTURES["stock"])), terminal)
    shown = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue())
    assert "…" not in shown
    assert {"allocated", "recently", "3,526", "3,469", "1,015", "ended"} <= set(shown.split())


def test_what_is_no_capture_is_one_sentence(tmp_path: Path) -> None:
    """Nothing there, and something else."""
    (tmp_path / "text").write_text("hello")
    assert "cannot read none: No such file or directory; check the path" in info("none", tmp_path).stderr
    assert "text is not a shadowwatch capture" in info("text", tmp_path).stderr


def test_a_name_in_brackets_is_shown_as_it_is(tmp_path: Path) -> None:
    """It is no instruction to the printer."""
    story = Story()
    story.alloc(1)
    watch = Watch(FACTS, lambda pid: "web[bold]1[/]")
    path = tmp_path / "a.capture"
    writer = Writer(path.open("wb"), str(path), FACTS)
    writer.write(pack(batch := Batch(story.ns, 0, 0, story.records())), watch.take(batch))
    writer.close()
    assert "web[bold]1[/]" in info("a.capture", tmp_path).stdout


def lives(pids: list[int], gap_ns: int = 10**9) -> list[bytes]:
    """VMs that are all called web1, one after the other: each allocates two pages, and ends."""
    frames, ns = [], 10**9
    for pid in pids:
        story = Story(pid=pid)
        story.ns = ns
        story.alloc(1)
        story.alloc(2)
        story.destroy()
        frames += [name(pid, "web1"), data(story.records(), story.ns)]
        ns = story.ns + gap_ns
    return [*frames, data(b"", ns), frame(b"LAST", b"%d" % (3 * len(pids)))]


def test_every_vm_is_there_that_was(tmp_path: Path) -> None:
    """Also one that another has taken the name of, and those that the daemon had forgotten before the end."""
    path = tmp_path / "a"
    path.write_bytes(capture(lives([7, 8], gap_ns=10**12)))
    code, out, _ = in_process("info {}", path)
    assert code == 0
    assert re.findall(r"^(web1\S*) +(\d+) .* ended *$", out, re.M) == [("web1", "7"), ("web1-8", "8")]


def test_those_are_counted_for_which_there_is_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of very many that ended the last are shown."""
    monkeypatch.setattr(model, "KEEP_MOST", 3)
    path = tmp_path / "a"
    path.write_bytes(capture(lives(list(range(7, 20)))))
    _, out, _ = in_process("info {}", path)
    assert len(re.findall(r" ended *$", out, re.M)) == 3
    assert out.endswith("10 more ended before these\n")


def test_a_capture_without_events_has_no_share_of_them(tmp_path: Path) -> None:
    """It was 244,000% of what there is not."""
    path = tmp_path / "a"
    path.write_bytes(capture([data(b"", 10**9), frame(b"LAST", b"0")]))
    code, out, _ = in_process("info {}", path)
    assert code == 0
    assert "%" not in out
    assert not [line for line in out.partition("\n\n")[0].splitlines() if not line.strip()]
    assert out.endswith("\n\nno VM was running\n")
