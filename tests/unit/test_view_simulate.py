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
from tests.unit import forged
from tests.unit.forged import data, frame, name
from tests.unit.story import Story
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
    made = json.loads(simulate("debian.capture", "--policy", "parents,newest", "--json").stdout)
    (vm,) = made["vms"]
    assert vm["vm"] == "zipf"
    assert list(vm["policies"]) == ["parents", "newest"]
    with reading(str(CAPTURES["debian"])) as reader:
        (of,) = simulated(reader, ["parents"], lambda _: None).vms.values()
    assert vm["policies"]["parents"] == of["parents"]._asdict()


def test_limits_add_up_as_policies_do() -> None:
    """Given once with commas, or one by one: of two flags the first had no effect."""
    asked = ("stock.capture", "--json", "--policy", "parents", "--limit")
    (vm,) = json.loads(simulate(*asked, "96,2x", "--limit", "3x").stdout)["vms"]
    assert list(vm["policies"]) == ["parents", "parents@96", "parents@2x", "parents@3x"]
    (vm,) = json.loads(simulate(*asked, "2x").stdout)["vms"]
    assert list(vm["policies"]) == ["parents", "parents@2x"]


def test_newest_is_not_estimated_but_where_it_was_in_force() -> None:
    """A page that goes at once may be wanted any number of times: there is no bound to tell."""
    shown = simulate("stock.capture", "--policy", "newest").stdout
    assert "no estimate" in next(line for line in shown.splitlines() if "newest" in line)
    assert "\nOf newest there is no estimate: a page that it zaps as soon as a fault has built it may be" in shown
    assert "Of newest" not in simulate("stock.capture").stdout
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


def lived(pid: int, faults: int, ns: int, kvm: int = 0x1000) -> Story:
    """A VM that has so many page faults, then ends."""
    story = Story(kvm=kvm, pid=pid)
    story.ns = ns
    story.alloc(1, level=2)
    for number in range(faults):
        story.alloc(2 + number)
        story.link(1, number, 2 + number)
    story.destroy()
    return story


@pytest.mark.parametrize(
    ("kvms", "pids", "called", "names"),
    [
        pytest.param((0x1000, 0x2000), (7, 7), ("web1", "web1"), ["web1", "web1-7"], id="one process has both"),
        pytest.param((0x1000, 0x1000), (7, 7), ("web1", "db1"), ["web1", "db1"], id="pid and address come again"),
        pytest.param((0x1000, 0x1000), (7, 8), ("web1", "web1"), ["web1", "web1-8"], id="it is started again"),
        pytest.param((0x1000, 0x2000), (7, 8), ("", "a" * 200), ["7", "a" * 127 + "…"], id="odd names"),
    ],
)
def test_each_vm_has_its_own_estimate_and_the_name_that_info_has(
    kvms: tuple[int, int], pids: tuple[int, int], called: tuple[str, str], names: list[str], tmp_path: Path
) -> None:
    """Whatever they have in common; `--vm` takes that name."""
    path, ns = tmp_path / "a", 10**9
    frames = []
    for kvm, pid, each, faults in zip(kvms, pids, called, (3, 5), strict=True):
        story = lived(pid, faults, ns, kvm)
        ns = story.ns
        frames += [name(pid, each), data(story.records(), ns)]
    path.write_bytes(forged.capture([*frames, frame(b"LAST", b"20")]))
    code, out, _ = forged.run("simulate --json --policy stock {}", path)
    vms = json.loads(out)["vms"]
    assert (code, [vm["vm"] for vm in vms]) == (0, names)
    assert [vm["policies"]["stock"]["recorded_faults"] for vm in vms] == [3, 5]
    code, out, _ = forged.run(f"simulate --json --policy stock --vm {names[1]} {{}}", path)
    assert [vm["vm"] for vm in json.loads(out)["vms"]] == names[1:]


def test_a_limit_that_kvm_does_not_take_is_said_to_be_raised() -> None:
    """Once for each VM and multiple, however many policies there are; the table shows what the lowest limit does."""
    policies = ("--policy", "stock", "--policy", "parents")
    done = simulate("stock.capture", *policies, "--limit", "0.5x,64,0.9x,2x")
    assert done.stderr == "shadowwatch: KVM takes no limit below 64, which stands for 0.5x of zipf, 0.9x of zipf\n"
    assert done.returncode == 0
    assert simulate("stock.capture", *policies, "--limit", "1x,64").stderr == ""


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
        (("stock.capture", "--policy", "parnts"), "there is no reclaim policy parnts; did you mean parents\n"),
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
