# SPDX-License-Identifier: Apache-2.0
"""What top draws, kept as golden files under a frozen clock."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from shadowwatch.event.capture import reading
from shadowwatch.source import Replay
from shadowwatch.view.columns import COLUMNS, DEFAULT, choose
from shadowwatch.view.frames import Frames
from shadowwatch.view.screen import Frame, draw, fitting
from shadowwatch.view.state import Pane, State
from tests.captures import CAPTURES
from tests.golden import matches
from tests.unit.lively import LivelyDaemon, looked
from tests.unit.story import FACTS

STATE = State(choose(DEFAULT), "recent")


def screen(frame: Frame, state: State, width: int, height: int, daemon: LivelyDaemon | None = None) -> str:
    """The screen as text; it has just this size."""
    detail = daemon.detail(state.vm) if daemon and state.vm else None
    lines = draw(frame, state, detail, width, height)
    assert len(lines) == height
    assert all(line.cell_len <= width for line in lines)
    return "".join(f"{line.plain.rstrip()}\n" for line in lines)


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
        frame = Frames(replay).at(1.0, 1.0)
    state = replace(STATE, replayed=True, paused=True, asking="jump", typed="12", speed=4)
    matches("top-replay.txt", screen(frame, state, 100, 12))


def test_a_host_without_shadow_pages_is_never_an_empty_screen() -> None:
    """Golden: no VM; the TDP MMU in use; a filter that nothing matches."""
    shown = []
    for facts in (FACTS, replace(FACTS, paging="tdp_mmu")):
        daemon = LivelyDaemon(facts=facts)
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
