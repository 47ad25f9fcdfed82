# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch plot` and `shadowwatch tree` as a person runs them, and what they draw."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

import pytest

from shadowwatch.capture.format import MAGIC
from shadowwatch.capture.series import read
from shadowwatch.event.abi import UNCOUNTED
from shadowwatch.view.plot import picture, saw_tooth, suffix_of
from tests import pictures
from tests.captures import CAPTURES
from tests.unit.daemon import Daemon
from tests.unit.story import FACTS
from tests.unit.test_cli import shadowwatch
from tests.unit.test_series import saw, write

STOCK, PARENTS = str(CAPTURES["stock"]), str(CAPTURES["parents"])


def texts(path: Path) -> set[str]:
    """All texts of an SVG, which must be well-formed."""
    root = ElementTree.fromstring(path.read_bytes())  # noqa: S314 - our own file
    return {" ".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The picture of both captures, and what was said of it, by the command in a process of its own."""
    path = tmp_path_factory.mktemp("both") / "before-after.svg"
    done = shadowwatch("plot", STOCK, PARENTS, "-o", str(path))
    assert (done.returncode, done.stderr) == (0, "")
    return path, done.stdout


def test_two_captures_make_one_picture_of_both(both: tuple[Path, str]) -> None:
    """Both titles, every panel's words, both captions; the same captions on standard output."""
    path, output = both
    said = re.findall(
        r"^(\S+): VM zipf: (a reclaim takes \S+ page tables out of a root's reach \(mean\)),"
        r" saw-tooth of \S+ guest pages from crest to trough \(mean\), (.*)$",
        output,
        re.M,
    )
    assert [capture for capture, _, _ in said] == [STOCK, PARENTS]
    shown = texts(path)
    for words in ("reclaim_policy=stock, Linux 6.1", "reclaim_policy=parents, Linux 6.1", "VM zipf"):
        assert any(words in text for text in shown), words
    for words in (
        "a root leads to",
        "guest pages mapped",
        "shadow pages,",
        "zaps by cause",
        "by reclaim (per s)",
        "refaults under such",
        "at zap by reclaim",
        "level 4",
        "orphans",
        "quota",
        "recently parented",
        "96",
        "newest",
        "oldest",
        *(turns for _, _, turns in said),
    ):
        assert words in shown, words


def test_the_same_captures_make_the_same_bytes(tmp_path: Path, both: tuple[Path, str]) -> None:
    """So that a picture can be committed: no date, no chance in its names, and another process draws the same."""
    path, _ = both
    pictures.make(tmp_path)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert path.stat().st_size < 600_000
    assert (tmp_path / "tree.txt").read_text() == (pictures.DOCS / "tree.txt").read_text()


def outlines(svg: str) -> list[tuple[str | None, ...]]:
    """The groups, lines and texts of an SVG, without styles and names that are made up."""
    elements = ElementTree.fromstring(svg).iter()  # noqa: S314 - our own file
    tags = {f"{{http://www.w3.org/2000/svg}}{tag}": tag for tag in ("g", "path", "text")}
    return [
        (tags[element.tag], element.get("id") if tags[element.tag] == "g" else None, element.get("d"), element.text)
        for element in elements
        if element.tag in tags
    ]


def test_the_picture_in_docs_is_what_the_captures_lead_to(both: tuple[Path, str]) -> None:
    """But for compressed images, which may differ with the library that packs them, and another matplotlib's styles."""
    path, _ = both
    drawn, kept = (
        re.sub(r'base64,[^"]*', "", (folder / path.name).read_text()) for folder in (path.parent, pictures.DOCS)
    )
    assert outlines(drawn) == outlines(kept)
    if f"Matplotlib v{version('matplotlib')}," in kept:
        assert drawn == kept


def test_a_png_is_a_png_of_a_readable_size() -> None:
    """Its header tells: 1,350 pixels across, for 900 on a page."""
    content = picture([read(STOCK, bins=60)], suffix_of("a.PNG"))
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", content[16:24]) == (1350, 1650)


def test_what_the_kernel_does_not_count_is_said_in_the_panel(tmp_path: Path) -> None:
    """Neither an empty panel nor a line at 0; and a stock KVM is called that."""
    events = [event._replace(mapped=UNCOUNTED) for event in saw().events]
    series = read(write(tmp_path / "a.capture", events, facts=replace(FACTS, policy="")))
    (tmp_path / "a.svg").write_bytes(picture([series], ".svg"))
    assert "this kernel does not count them" in texts(tmp_path / "a.svg")
    assert any("stock KVM, Linux 6.1.0-test" in text for text in texts(tmp_path / "a.svg"))
    assert saw_tooth(series).endswith("(mean), this kernel does not count the guest pages that are mapped")


def test_without_matplotlib_one_line_has_the_cure(tmp_path: Path) -> None:
    """It is an extra, and everything else works without."""
    code = (
        "import sys; sys.modules['matplotlib'] = None; from shadowwatch.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "plot", STOCK, "-o", str(tmp_path / "a.svg")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "shadowwatch: drawing needs matplotlib; `pip install 'shadowwatch[plot]'` or `apt install python3-matplotlib`\n"
    )


@pytest.mark.parametrize("command", ["plot", "tree"])
def test_a_cut_capture_is_shown_to_the_cut_and_said_to_be(command: str, tmp_path: Path) -> None:
    """The picture or the tree is there, one sentence on standard error, exit code 1."""
    cut = tmp_path / "cut.capture"
    cut.write_bytes(CAPTURES["stock"].read_bytes()[:100_000])
    made = tmp_path / "made.svg"
    words = {
        "plot": ("plot", str(cut), "-o", str(made)),
        "tree": ("tree", "zipf", "--replay", str(cut), "-o", str(made)),
    }
    done = shadowwatch(*words[command])
    assert done.returncode == 1
    assert re.fullmatch(rf"shadowwatch: {cut} is cut off after \d,\d\d\d events;.*\n", done.stderr)
    assert made.stat().st_size > 1000


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ("plot", STOCK, "-o", "a.pdf"),
            "a.pdf is not a kind of picture that can be drawn; end its name in .svg or .png",
        ),
        (("plot", "none", "-o", "/no/such/a.svg"), "cannot write /no/such/a.svg: No such file or directory; choose"),
        (("plot", STOCK, "-o", "/dev/null/a.svg"), "cannot write /dev/null/a.svg: Not a directory; choose"),
        (("plot", "none", "-o", "a.svg"), "cannot read none: No such file or directory; check the path"),
        (("plot", STOCK, "--vm", "mail", "-o", "a.svg"), "there is no VM mail; choose from "),
        (("tree", "mail", "--replay", STOCK), "there is no VM mail; choose from "),
        (("tree", "zipf", "--replay", STOCK, "--at", "0"), "there is no VM zipf"),
        (("tree", "zipf", "--replay", "none", "-o", "/no/such/a"), "cannot write /no/such/a: No such file"),
        (("tree", "zipf", "--socket", "/no/such"), "no daemon answers at /no/such;"),
        (("tree", "zipf", "--replay", "new.capture"), "new.capture is a capture of version 9, this shadowwatch reads"),
        (("plot", "new.capture", "-o", "a.svg"), "new.capture is a capture of version 9, this shadowwatch reads"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    words: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happened, to what, and the cure; and no picture is left behind."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new.capture").write_bytes(MAGIC + struct.pack("<I", 9))
    done = shadowwatch(*words)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"shadowwatch: {said}")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "a.svg").exists()


def test_a_tree_at_a_time_has_the_pages_of_then() -> None:
    """Half a second in there are pages; in the end the VM has ended, and they are gone."""
    then = json.loads(shadowwatch("tree", "zipf", "--replay", STOCK, "--at", "0.42", "--format", "json").stdout)
    assert 10 < len(then["pages"]) <= 64
    assert then["vm"]["ended"] is False
    assert all(page["parented_seconds"] is None or page["parented_seconds"] >= 0 for page in then["pages"])
    end = json.loads(shadowwatch("tree", "zipf", "--replay", STOCK, "--format", "json").stdout)
    assert end["vm"]["ended"] is True
    assert end["pages"] == []


def test_a_tree_as_svg_is_drawn_by_graphviz() -> None:
    """Where there is none, one line has the cure."""
    words = ("tree", "zipf", "--replay", STOCK, "--at", "0.42", "--format", "svg")
    command = [sys.executable, "-m", "shadowwatch", *words]
    without = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PATH": "/no/such"}
    )
    assert (without.returncode, without.stdout) == (1, "")
    assert without.stderr == "shadowwatch: an SVG of the tree needs Graphviz's dot; `apt install graphviz`\n"
    done = shadowwatch(*words)
    assert (done.returncode, done.stderr) == (0, "")
    ElementTree.fromstring(done.stdout.partition("<svg")[1] + done.stdout.partition("<svg")[2])  # noqa: S314
    assert done.stdout.count('class="node"') > 10


@pytest.mark.parametrize(
    ("file", "begins"),
    [("a.svg", "<?xml"), ("a.JSON", "{"), ("a.dot", "digraph"), ("a.txt", "zipf, pid"), ("a", "zipf")],
)
def test_a_tree_is_what_the_name_of_its_file_says(file: str, begins: str, tmp_path: Path) -> None:
    """Unless --format says another; what was called .svg was text."""
    words = ("tree", "zipf", "--replay", STOCK, "--at", "0.42", "-o", str(tmp_path / file))
    assert shadowwatch(*words).returncode == 0
    assert (tmp_path / file).read_text().startswith(begins)
    assert shadowwatch(*words, "--format", "dot").returncode == 0
    assert (tmp_path / file).read_text().startswith("digraph")


def test_a_tree_comes_from_the_running_daemon(daemon: Daemon) -> None:
    """By name or by pid, over its socket; a VM that it does not have is refused with those that it has."""
    by_name, by_pid = (shadowwatch("tree", vm, "--socket", daemon.path) for vm in ("web1", "4711"))
    assert (by_name.returncode, by_name.stderr) == (0, "")
    assert by_name.stdout == by_pid.stdout
    assert by_name.stdout.startswith("web1, pid 4711, exact; 3 pages, limit 64;")
    other = shadowwatch("tree", "mail", "--socket", daemon.path)
    assert (other.returncode, other.stderr) == (1, "shadowwatch: there is no VM mail; choose from web1 (pid 4711)\n")
