# SPDX-License-Identifier: Apache-2.0
"""README keeps up with the code."""

from __future__ import annotations

import re
from pathlib import Path

from shadowwatch.cli import parser
from shadowwatch.metrics.declarations import DAEMON_METRICS, VM_METRICS
from tests.lab.document import sections

README = (Path(__file__).parents[2] / "README.md").read_text()
MAKEFILE = (Path(__file__).parents[2] / "Makefile").read_text()


def test_every_metric_has_its_row() -> None:
    """Name, labels and help as declared, in the order of the declarations."""
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|$", README, re.MULTILINE)
    expected = []
    for metric in (*VM_METRICS, *DAEMON_METRICS):
        suffix = "_total" if metric.type == "counter" else ""
        labels = (*(("vm",) if metric in VM_METRICS else ()), *metric.labels)
        expected.append((metric.name + suffix, ", ".join(labels), metric.help))
    assert rows == expected


def test_every_command_is_shown() -> None:
    """And no other."""
    commands = next(action for action in parser()._actions if action.choices)
    assert commands.choices
    assert set(re.findall(r"^[#$] shadowwatch (\w+)", README, re.MULTILINE)) == set(commands.choices)


def test_the_install_is_the_one_that_a_test_runs() -> None:
    """README begins on a host as docs/install.md does."""
    steps = sections(Path(__file__).parents[2] / "docs/install.md")["The package"]
    shown = re.search(r"^On a KVM host of your own.*?```console\n(.*?)```", README, re.MULTILINE | re.DOTALL)
    assert shown
    lines = [re.split(r"  +#", line)[0] for line in shown[1].splitlines()]
    assert lines[:3] == [f"# {step.command}" for step in steps[:3]]


def test_every_make_target_that_is_named_exists() -> None:
    """`make x` in README is a target."""
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"make (\w+)", README))
    assert {"run", "test", "lab", "bench"} <= named <= targets


def test_every_file_that_is_named_exists() -> None:
    """Paths in backticks."""
    root = Path(__file__).parents[2]
    paths = [path for path in re.findall(r"`([\w./-]+/[\w./-]*)`", README) if not path.startswith("/")]
    assert len(paths) > 8
    assert [path for path in paths if not (root / path).exists()] == []


def test_the_screens_are_those_that_were_taken() -> None:
    """Each of docs/top-*.txt stands in README as `make screens` left it."""
    screens = sorted((Path(__file__).parents[2] / "docs").glob("top-*.txt"))
    assert len(screens) == 3
    for screen in screens:
        assert f"```text\n{screen.read_text()}```\n" in README, screen.name
