# SPDX-License-Identifier: Apache-2.0
"""A configuration read again while the daemon runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shadowwatch.config import settle
from shadowwatch.daemon.reload import Reload
from shadowwatch.event.abi import Batch
from shadowwatch.watch import Watch
from tests.unit.story import FACTS, Story


class Running:
    """Settings that began as the defaults, and what a reload made of them."""

    def __init__(self, path: Path, **given: Any) -> None:
        self.path = path
        self.changed: dict[str, Any] = {}
        settings = settle("run", {}, given)
        changes = {name: lambda value, name=name: self.changed.update({name: value}) for name in LIVE}
        self._reload = Reload(str(path), settings, given, changes)

    def read(self, text: str) -> None:
        """The file now has this, and SIGHUP came."""
        self.path.write_text(text)
        self._reload.turn()


LIVE = ("recent_seconds", "audit_interval")


def test_what_can_change_changes_and_the_rest_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with the cure; one that is no longer in the file is the default again."""
    running = Running(tmp_path / "a.toml")
    running.read('[run]\naudit-interval = 60\nring-mib = 8\nuser = "nobody"\n')
    assert running.changed == {"audit_interval": 60.0, "recent_seconds": None}
    said = capsys.readouterr().out
    assert said == (
        f"shadowwatch: read {running.path} again: audit-interval is 60; for ring-mib, user restart shadowwatch\n"
    )
    running.changed.clear()
    running.read("")
    assert running.changed == {"audit_interval": None, "recent_seconds": None}
    assert capsys.readouterr().out == f"shadowwatch: read {running.path} again: audit-interval is the default\n"


def test_a_file_that_is_not_right_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even what is right in it."""
    running = Running(tmp_path / "a.toml")
    running.read('[run]\naudit-interval = 60\nrecent-seconds = "x"\n')
    assert running.changed == {}
    assert capsys.readouterr().out == (
        f"shadowwatch: {running.path}: [run] recent-seconds = 'x' is not a number above 0 and at most 1,000,000,000;"
        " all settings stay as they are\n"
    )


def test_a_flag_wins_after_a_reload_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was given for as long as the daemon runs."""
    running = Running(tmp_path / "a.toml", audit_interval=5.0)
    running.read("[run]\naudit-interval = 60\n")
    assert running.changed["audit_interval"] == 5.0
    assert capsys.readouterr().out.endswith("again: no setting changed\n")


def test_a_changed_threshold_counts_from_then_on_and_keeps_the_model() -> None:
    """Two directories zapped 5 s after a child came: recent by list-length, not within 1 s; the pages stay."""
    story = Story()
    watch = Watch(FACTS, str)

    def parent_and_zap(page: int) -> None:
        story.alloc(page, level=2)
        story.alloc(page + 1)
        story.link(page, 0, page + 1)
        story.ns += 5 * 10**9
        story.zap(page, level=2)
        watch.take(Batch(story.ns, 0, 0, story.records()))
        story.events.clear()

    parent_and_zap(1)
    watch.set_recent(1.0)
    assert watch.facts.recent_seconds == 1.0
    parent_and_zap(3)
    watch.set_recent(None)
    parent_and_zap(5)
    (vm,) = watch.snapshot().vms
    assert vm.recently_parented_zaps == {2: 2}
    assert (sum(vm.pages.values()), vm.exact) == (3, True)
