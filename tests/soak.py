# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin for `make soak`: what takes long or measures time, and each property with many examples.

What has passed is written down, so that a run that was stopped goes on there, as long as no file has changed since.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import is_hypothesis_test

from tests.lab.cache import default_root

ROOT = Path(__file__).parents[1]


class Journal:
    """The tests that have passed with these files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.passed = set(path.read_text().splitlines()) if path.exists() else set()

    def add(self, test: str) -> None:
        """Write down that a test has passed."""
        with self.path.open("a") as file:
            print(test, file=file)


class Soak:
    """Chooses the tests, leaves out those that have passed, and writes down those that pass."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._failed: set[str] = set()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep what is for a soak and has not passed yet."""
        chosen = [item for item in items if _is_for_soak(item)]
        left = [item for item in chosen if item.nodeid not in self._journal.passed]
        config.hook.pytest_deselected(items=[item for item in items if item not in left])
        items[:] = left
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter:
            line = f"soak: {len(left)} of {len(chosen)} tests"
            if len(left) < len(chosen):
                line += f", the others have passed before; to do these again: rm {self._journal.path}"
            reporter.write_line(line)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Write down a test that passed from its setup to its teardown."""
        if not report.passed:
            self._failed.add(report.nodeid)
        elif report.when == "teardown" and report.nodeid not in self._failed:
            self._journal.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Call it a success when nothing was left to do."""
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED and self._journal.passed:
            session.exitstatus = pytest.ExitCode.OK


def pytest_configure(config: pytest.Config) -> None:
    """Take part in this run."""
    config.pluginmanager.register(Soak(Journal(default_root().parent / "soak" / f"{_files()}.txt")))


def _is_for_soak(item: pytest.Item) -> bool:
    return item.get_closest_marker("soak") is not None or is_hypothesis_test(getattr(item, "obj", None))


def _files() -> str:
    """Return a short name of the checkout's files as they are."""
    digest = hashlib.sha256()
    for command in (["git", "rev-parse", "HEAD"], ["git", "diff", "HEAD"]):
        digest.update(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    return digest.hexdigest()[:12]
