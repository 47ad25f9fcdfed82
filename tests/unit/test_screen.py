# SPDX-License-Identifier: Apache-2.0
"""What top draws, kept as golden files under a frozen clock."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from shadowwatch.event.capture import reading
from shadowwatch.facts import Facts
from shadowwatch.mmu.snapshot import Snapshot, VmDetail
from shadowwatch.source import Replay, Status
from shadowwatch.view.columns import COLUMNS, DEFAULT, Row, choose
from shadowwatch.view.frames import Frames
from shadowwatch.view.screen import Frame, draw, fitting
from shadowwatch.view.state import Pane, State
from shadowwatch.watch import Watch
from tests.captures import CAPTURES
from tests.golden import matches
from tests.unit import lively
from tests.unit.story import FACTS

STATE = State(choose(DEFAULT), "recent")


class Daemon:
    """A source with a daemon's processor time, which looks at one watch before and after."""

    def __init__(self, idle: int = 2, facts: Facts = FACTS) -> None:
        self.replay = None
        self.looks = 0
        self.facts = facts
        self.watch = Watch(facts, lively.name_of)
        self.batches = list(lively.batches(idle))

    def status(self) -> Status:
        """Three percent of a core."""
        return Status(self.facts, self.facts.policy, self.looks * 30_000_000, 31 << 20)

    def look(self, frames: Frames, batches: int = 4) -> Frame:
        """Some more batches, and a frame."""
        for batch in self.batches[self.looks * 4 : self.looks * 4 + batches]:
            self.watch.take(batch)
        self.looks += 1
        return frames.look()

    def snapshot(self) -> Snapshot:
        """Of the watch."""
        return self.watch.snapshot()

    def detail(self, name: str) -> VmDetail | None:
        """Of the watch."""
        return self.watch.detail(name)


def screen(frame: Frame, state: State, width: int, height: int, daemon: Daemon | None = None) -> str:
    """The screen as text; it has just this size."""
    detail = daemon.detail(state.vm) if daemon and state.vm else None
    lines = draw(frame, state, detail, width, height)
    assert len(lines) == height
    assert all(line.cell_len <= width for line in lines)
    return "".join(f"{line.plain.rstrip()}\n" for line in lines)


def looked(idle: int = 2, facts: Facts = FACTS, looks: int = 8) -> tuple[Daemon, Frame]:
    """A daemon and its last frame."""
    daemon = Daemon(idle, facts)
    frames = Frames(daemon)
    for _ in range(looks):
        frame = daemon.look(frames)
    return daemon, frame


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (160, 24), (40, 20)])
def test_the_table_in_each_size(width: int, height: int) -> None:
    """Golden: what does not fit is left out, from the last column on."""
    matches(f"top-{width}x{height}.txt", screen(looked()[1], STATE, width, height))


@pytest.mark.parametrize("pane", Pane, ids=lambda pane: pane.value)
def test_one_vm(pane: Pane) -> None:
    """Golden: its tree, its histograms, its last zaps."""
    daemon, frame = looked()
    matches(f"top-vm-{pane.value}.txt", screen(frame, replace(STATE, vm="web1", pane=pane), 120, 30, daemon))


def test_help() -> None:
    """Golden: every key and every column."""
    matches("top-help.txt", screen(looked()[1], replace(STATE, help=True), 100, 46))


def test_a_replay_says_where_it_is() -> None:
    """Golden: position, length, speed, paused, and a prompt."""
    with reading(str(CAPTURES["parents"])) as reader:
        replay = Replay(reader)
        frames = Frames(replay)
        frames.look()
        replay.seek(1.0)
        frame = frames.look()
    state = replace(STATE, replayed=True, paused=True, asking="jump", typed="12", speed=4)
    matches("top-replay.txt", screen(frame, state, 100, 12))


def test_a_host_without_shadow_pages_is_never_an_empty_screen() -> None:
    """Golden: no VM; the TDP MMU in use; a filter that nothing matches."""
    shown = []
    for facts in (FACTS, replace(FACTS, paging="tdp_mmu")):
        daemon = Daemon(facts=facts)
        shown.append(screen(Frames(daemon).look(), STATE, 80, 8))
    shown.append(screen(looked()[1], replace(STATE, filter="nobody"), 80, 10))
    matches("top-empty.txt", "\n".join(shown))


def test_the_open_vm_may_be_gone() -> None:
    """That is said, and the way back works."""
    daemon, frame = looked()
    assert "nobody is gone." in screen(frame, replace(STATE, vm="nobody"), 80, 24, daemon)


def test_the_cursor_is_always_on_the_screen() -> None:
    """Of a thousand VMs, wherever it goes."""
    _, frame = looked(idle=998, looks=2)
    state = replace(STATE, sort="name", descending=False)
    for name in ("db1", "idle500", "web1"):
        lines = draw(frame, replace(state, chosen=name), None, 120, 20)
        (under,) = (line for line in lines if "reverse" in str(line.style))
        assert under.plain.startswith(name)


def test_a_thousand_vms_cost_little_more_than_fifty() -> None:
    """Only the rows on the screen are made: the time grows by sorting alone."""
    times = {}
    for idle in (48, 998):
        _, frame = looked(idle=idle, looks=2)
        best = 1.0
        for _ in range(10):
            begun = time.perf_counter()
            draw(frame, STATE, None, 120, 40)
            best = min(best, time.perf_counter() - begun)
        times[idle] = best
    assert times[998] < 6 * times[48]


def test_columns_fit_into_the_width() -> None:
    """With a gap between them; the first stays whatever the width."""
    columns = [COLUMNS["name"], COLUMNS["pages"], COLUMNS["limit"]]
    assert fitting(columns, [4, 5, 5], 18) == 3
    assert fitting(columns, [4, 5, 5], 17) == 2
    assert fitting(columns, [4, 5, 5], 3) == 1


def test_losses_are_in_red_and_so_is_what_one_looks_for() -> None:
    """Colour says it too."""
    _, frame = looked()
    lossy = replace(frame, now=replace(frame.now, lost=3))
    assert "bold red" in str(draw(lossy, STATE, None, 120, 24)[1].style)
    assert "bold red" not in str(draw(frame, STATE, None, 120, 24)[1].style)
    (web1,) = (line for line in draw(frame, STATE, None, 120, 24) if line.plain.startswith("web1  "))
    assert any(span.style == "bold red" for span in web1.spans)


def test_rows_of_a_vm_that_went_and_came_are_not_mixed_up(tmp_path: Path) -> None:
    """A replay that goes back has no frame before; one that stands still keeps its figures."""
    with reading(str(lively.capture(tmp_path / "a"))) as reader:
        replay = Replay(reader)
        frames = Frames(replay)
        replay.seek(5.0)
        frames.look()
        replay.seek(6.0)
        later = frames.look()
        assert later.seconds == 1.0
        assert frames.look().rows == later.rows
        replay.seek(3.0)
        back = frames.look()
        assert (back.seconds, back.events) == (0.0, 0)
        assert all(isinstance(row, Row) and row.before is None for row in back.rows)
