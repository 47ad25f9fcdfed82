# SPDX-License-Identifier: Apache-2.0
"""README and docs/ keep up with the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from shadowwatch.cli import parser
from shadowwatch.metrics.declarations import DAEMON_METRICS, VM_METRICS
from tests import golden
from tests.lab.document import sections

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
METRICS = ROOT / "docs/metrics.md"
#: What people read first, and what it leads them to.
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_readme_is_read_at_a_sitting() -> None:
    """The rest is in docs/."""
    assert len(README.splitlines()) <= 250


def test_every_metric_has_its_row() -> None:
    """Name, labels and help as declared, in the order of the declarations; SHADOWWATCH_GOLDEN=write writes them."""
    rows = []
    for metric in (*VM_METRICS, *DAEMON_METRICS):
        suffix = "_total" if metric.type == "counter" else ""
        labels = ", ".join((*(("vm",) if metric in VM_METRICS else ()), *metric.labels))
        rows.append(f"| `{metric.name}{suffix}` | {labels} | {metric.help} |\n")
    head = METRICS.read_text().partition("| `")[0]
    golden.matches(METRICS, head + "".join(rows))


def test_every_command_is_shown() -> None:
    """And no other."""
    commands = next(action for action in parser()._actions if action.choices)
    assert commands.choices
    assert set(re.findall(r"^[#$] shadowwatch (\w+)", README, re.MULTILINE)) == set(commands.choices)


def test_the_install_is_the_one_that_a_test_runs() -> None:
    """README begins on a host as docs/install.md does."""
    steps = sections(ROOT / "docs/install.md")["The package"]
    shown = re.search(r"^On a KVM host of your own.*?```console\n(.*?)```", README, re.MULTILINE | re.DOTALL)
    assert shown
    lines = [re.split(r"  +#", line)[0] for line in shown[1].splitlines()]
    assert lines[:3] == [f"# {step.command}" for step in steps[:3]]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    """`make x`, or `# make x` in a block."""
    targets = set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))
    assert set(re.findall(r"(?:`|^# )make (\w+)", document.read_text(), re.MULTILINE)) <= targets


def test_readme_names_the_tiers_and_what_to_try() -> None:
    """By the commands that one types."""
    assert {"run", "unit", "test", "soak", "lab", "bench"} <= set(re.findall(r"make (\w+)", README))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_named_exists(document: Path) -> None:
    """Paths in backticks, which are those of the checkout, and links, which go from the document's folder."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    paths = [path for path in re.findall(r"`([\w.-]+/[\w./-]*)`", text) if path.split("/")[0] in folders]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    links = [link.partition("#")[0] for link in re.findall(r"\]\((.*?)\)", text)]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_screens_are_those_that_were_taken() -> None:
    """Each of docs/top-*.txt stands in README as `make screens` left it."""
    screens = sorted((ROOT / "docs").glob("top-*.txt"))
    assert len(screens) == 3
    for screen in screens:
        assert f"```text\n{screen.read_text()}```\n" in README, screen.name
