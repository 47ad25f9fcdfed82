# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch simulate`: what it prints, and what it refuses."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shadowwatch.capture.format import reading
from shadowwatch.simulate.policies import POLICIES, SENSIBLE
from shadowwatch.simulate.run import simulated
from shadowwatch.view import simulate as view
from tests.captures import CAPTURES
from tests.golden import HERE, matches
from tests.unit.test_record import Terminal

ROOT = Path(__file__).parents[2]


def simulate(*words: str, folder: Path = CAPTURES["stock"].parent) -> subprocess.CompletedProcess[str]:
    """Run the command beside the captures."""
    command = [sys.executable, "-m", "shadowwatch", "simulate", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_table_says_what_each_policy_would_have_done() -> None:
    """Golden: the one in force each to each, the others with their bounds, and how to read it."""
    done = simulate("stock.capture")
    assert (done.returncode, done.stderr) == (0, "")
    matches("simulate.txt", done.stdout)


def test_the_document_shows_the_table_as_it_is() -> None:
    """With each policy that is estimated by default."""
    table = (HERE / "simulate.txt").read_text().partition("\n\n")[0]
    shown = "".join(f"{line.rstrip()}\n" for line in table.splitlines())
    assert f"```text\n{shown}```\n" in (ROOT / "docs" / "policies.md").read_text()


def test_json_has_every_figure_of_every_policy_asked_for() -> None:
    """For scripts: the VM's name and pid, and each estimate as it is."""
    made = json.loads(simulate("debian.capture", "--policy", "parents", "--policy", "newest", "--json").stdout)
    (vm,) = made["vms"]
    assert vm["vm"] == "zipf"
    assert list(vm["policies"]) == ["parents", "newest"]
    with reading(str(CAPTURES["debian"])) as reader:
        (of,) = simulated(reader, ["parents"], lambda _: None).vms.values()
    assert vm["policies"]["parents"] == of["parents"]._asdict()


def test_newest_is_not_estimated_but_where_it_was_in_force() -> None:
    """A page that goes at once may be wanted any number of times: there is no bound to tell."""
    shown = simulate("stock.capture", "--policy", "newest").stdout
    assert "no estimate" in next(line for line in shown.splitlines() if "newest" in line)
    assert "newest" not in SENSIBLE
    assert "newest" in POLICIES


@pytest.mark.parametrize("width", [20, 80])
def test_a_narrow_terminal_takes_nothing_from_the_figures(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines go on in the next one: what is cut would be what was asked for."""
    monkeypatch.setenv("COLUMNS", str(width))
    with reading(str(CAPTURES["stock"])) as reader:
        result = simulated(reader, ["parents"], lambda _: None)
    out, terminal = io.StringIO(), Terminal()
    view.as_text("a", result, out)
    view.as_text("a", result, terminal)
    shown = re.sub("\x1b\\[[0-9;]*m", "", terminal.getvalue())
    assert {"2,564", "−22%", "−26%", "−1%", "2,910", "−16%"} <= set(shown.split())
    assert set(shown.split()) == set(out.getvalue().split())


def test_a_long_name_takes_nothing_from_the_figures() -> None:
    """A pipe has no width."""
    with reading(str(CAPTURES["stock"])) as reader:
        result = simulated(reader, ["parents"], lambda _: None)
    called = "web" * 30
    result = replace(result, vms={(called, pid): of for (_, pid), of in result.vms.items()})
    out = io.StringIO()
    view.as_text("a", result, out)
    assert "…" not in out.getvalue()
    assert f"\n{called} as recorded " in out.getvalue()


def test_a_cut_capture_is_estimated_up_to_the_cut(tmp_path: Path) -> None:
    """What there is, the cut as one line, and an exit status that tells."""
    (tmp_path / "cut.capture").write_bytes(CAPTURES["stock"].read_bytes()[:100_000])
    done = simulate("cut.capture", folder=tmp_path)
    assert done.returncode == 1
    assert "cut.capture is cut off after" in done.stderr
    assert "zipf" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("stock.capture", "--policy", "parnts"), "there is no reclaim policy parnts; did you mean parents?"),
        (("stock.capture", "--vm", "web"), "there is no VM web that allocated shadow pages; choose from zipf (pid"),
        (("none",), "cannot read none: No such file or directory; check the path"),
    ],
)
def test_what_cannot_be_is_one_line(words: tuple[str, ...], said: str) -> None:
    """A policy, a VM or a file that there is not."""
    done = simulate(*words)
    assert done.returncode == 1
    assert done.stderr.startswith(f"shadowwatch: {said}")
    assert done.stderr.count("\n") == 1


def test_a_long_capture_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, and it is gone at the end."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(view, "_LONG", 1000)
    out = Terminal()
    with reading(str(CAPTURES["stock"])) as reader, view.bar(reader.size, out) as bar:
        simulated(reader, ["stock"], lambda events: bar(reader.place()[0], events))
    assert "simulating" in out.getvalue()
    assert "100%" in out.getvalue()
