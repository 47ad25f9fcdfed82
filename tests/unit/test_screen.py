# SPDX-License-Identifier: Apache-2.0
"""What top draws, kept as golden files under a frozen clock."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from shadowwatch.capture.format import reading
from shadowwatch.capture.replay import Replay
from shadowwatch.view.columns import COLUMNS, DEFAULT, Units, choose
from shadowwatch.view.frames import Frames
from shadowwatch.view.insight import insight
from shadowwatch.view.screen import Drawn, Frame, draw, fitting
from shadowwatch.view.state import Pane, State, pressed
from tests.captures import CAPTURES
from tests.golden import matches
from tests.unit import sentences
from tests.unit.lively import LivelyDaemon, looked
from tests.unit.story import FACTS

STATE = State(choose(DEFAULT), "recent")


def screen(frame: Frame, state: State, width: int, height: int, daemon: LivelyDaemon | None = None) -> str:
    """The screen as text; it has just this size."""
    detail = daemon.detail(state.vm) if daemon and state.vm else None
    lines = draw(frame, state, detail, width, height).lines
    assert len(lines) == height
    assert all(line.cell_len <= width for line in lines)
    return "".join(f"{line.plain.rstrip()}\n" for line in lines)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (160, 24), (40, 20)])
def test_the_table_in_each_size(width: int, height: int) -> None:
    """Golden: what does not fit is left out, from the last column on."""
    matches(f"top-{width}x{height}.txt", screen(looked()[1], STATE, width, height))


@pytest.mark.parametrize("replayed", [False, True])
def test_a_narrow_terminal_shows_that_nothing_moves(replayed: bool) -> None:
    """And what counters count: what the daemon takes is cut off before that."""
    frame = replace(looked()[1], position=1234.5, length=2345.6) if replayed else looked()[1]
    assert frame.cpu is not None
    state = replace(STATE, paused=True, replayed=replayed, units=Units.CHANGE)
    shown = screen(frame, state, 60, 24).splitlines()[1]
    assert shown.startswith("paused  4 VMs  ")
    assert "  since the last up" in shown
    assert screen(frame, state, 40, 24).splitlines()[1].startswith("paused  4 VMs  1,344 events/s  0 lost  ")


@pytest.mark.parametrize("state", [STATE, replace(STATE, help=True), replace(STATE, vm="web1")])
def test_no_terminal_is_too_small(state: State) -> None:
    """What has no room is not shown, and nothing breaks while somebody drags the window's edge."""
    daemon, frame = looked()
    for width in (1, 7, 20):
        for height in (1, 2, 5, 8):
            assert screen(frame, state, width, height, daemon).count("\n") == height


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


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (200, 50)])
@pytest.mark.parametrize("state", [replace(STATE, help=True), *(replace(STATE, vm="web1", pane=pane) for pane in Pane)])
def test_every_line_is_come_by_when_pages_are_turned(state: State, size: tuple[int, int]) -> None:
    """Down to the end by pages, up again by lines: nothing is passed over, and no key is without effect."""
    daemon, frame = looked()
    detail = daemon.detail("web1")

    def lines(drawn: Drawn) -> list[str]:
        return [line.plain for line in drawn.lines[-1 - drawn.room : -1]]

    def after(key: str) -> Drawn:
        moved = pressed(state, key, [], draw(frame, state, detail, *size).room)
        return draw(frame, moved, detail, *size)

    seen: list[str] = []
    drawn = draw(frame, state, detail, *size)
    while drawn.scroll + drawn.room > len(seen) >= drawn.scroll:
        seen[drawn.scroll :] = lines(drawn)
        state = replace(state, scroll=drawn.scroll)
        drawn = after("pagedown")
    whole = lines(draw(frame, state, detail, size[0], 1000))
    assert [line for line in seen if line] == [line for line in whole if line]
    assert after("end").scroll == state.scroll
    for scroll in range(state.scroll - 1, -1, -1):
        state = replace(state, scroll=after("up").scroll)
        assert state.scroll == scroll


def test_what_is_not_per_second_is_not_headed_so() -> None:
    """And the line above says what it is."""
    _, frame = looked()
    for units, heading, said in (
        (Units.RATE, "reclaim/s  recent/s▼", "0 lost  daemon "),
        (Units.CHANGE, "reclaim  recent▼", "0 lost  since the last update  daemon "),
        (Units.TOTAL, "reclaim  recent▼", "0 lost  in all  daemon "),
    ):
        shown = screen(frame, replace(STATE, units=units), 120, 24)
        assert heading in shown
        assert said in shown


def test_80_columns_are_enough() -> None:
    """For the keys below, and for what goes next in a tree, which stands behind roles where there is room for them."""
    daemon, frame = looked()
    for state in (STATE, replace(STATE, replayed=True), replace(STATE, replayed=True, vm="web1")):
        assert "…" not in screen(frame, state, 80, 24, daemon).splitlines()[-1]
    with reading(str(CAPTURES["stock"])) as reader:
        replay = Replay(reader)
        frame, detail = Frames(replay).at(1.0, 1.0), replay.detail("zipf")
    for width, role in ((80, False), (116, True)):
        lines = [line.plain for line in draw(frame, replace(STATE, vm="zipf"), detail, width, 100).lines]
        assert any("efer_nx" in line for line in lines) == role
        assert any("← next" in line for line in lines)


@pytest.mark.parametrize("name", sentences.looks())
def test_no_sentence_is_cut_off_at_80_columns_and_24_lines(name: str) -> None:
    """Nor its cure with it, of a VM that has a UUID for its name and loses a lot of time."""
    rows, status = sentences.looks()[name]
    uuid = "7e1c4a52-93d0-4c57-9a0e-2f6b8d1c5e03"
    rows = [replace(row, vm=row.vm._replace(name=uuid, reclaim_ns=(2 * 10**9, 4 * 10**9))) for row in rows]
    shown = screen(replace(looked()[1], rows=rows, status=status), STATE, 80, 24).splitlines()[2:]
    assert " ".join(shown[: shown.index("")]) == insight(rows, status)


def test_the_open_vm_may_be_gone() -> None:
    """That is said, and the way back works."""
    daemon, frame = looked()
    assert "nobody is gone." in screen(frame, replace(STATE, vm="nobody"), 80, 24, daemon)


def test_the_cursor_is_always_on_the_screen() -> None:
    """Of a thousand VMs, wherever it goes."""
    _, frame = looked(idle=998, looks=2)
    state = replace(STATE, sort="name", descending=False)
    for name in ("db1", "idle500", "web1"):
        lines = draw(frame, replace(state, chosen=name), None, 120, 20).lines
        (under,) = (line for line in lines if "reverse" in str(line.style))
        assert under.plain.startswith(name)


@pytest.mark.soak
def test_a_thousand_vms_cost_little_more_than_fifty() -> None:
    """Only the rows on the screen are made: the time grows by sorting alone."""
    times = {}
    for idle in (48, 998):
        _, frame = looked(idle=idle, looks=2)
        best = 1.0
        for _ in range(10):
            begun = time.process_time()
            draw(frame, STATE, None, 120, 40)
            best = min(best, time.process_time() - begun)
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
    assert "bold red" in str(draw(lossy, STATE, None, 120, 24).lines[1].style)
    assert "bold red" not in str(draw(frame, STATE, None, 120, 24).lines[1].style)
    (web1,) = (line for line in draw(frame, STATE, None, 120, 24).lines if line.plain.startswith("web1  "))
    assert any(span.style == "bold red" for span in web1.spans)
