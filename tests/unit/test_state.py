# SPDX-License-Identifier: Apache-2.0
"""Keys: what each makes of what top is at."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shadowwatch.view.columns import DEFAULT, Row, Units, choose
from shadowwatch.view.state import Pane, State, keys_help, ordered, pressed
from tests.unit.lively import at_the_end

NAMES = [f"vm{number}" for number in range(100)]
STATE = State(choose(DEFAULT), "recent")
REPLAYED = replace(STATE, replayed=True)


def after(state: State, *keys: str) -> State:
    """The state after these keys, on a screen with room for ten lines."""
    for key in keys:
        state = pressed(state, key, NAMES, 10)
    return state


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [
        (["down"], "vm1"),
        (["j", "j", "k"], "vm1"),
        (["up"], "vm0"),
        (["pagedown", "pagedown", "pageup"], "vm9"),
        (["end"], "vm99"),
        (["G", "down"], "vm99"),
        (["end", "home"], "vm0"),
        (["G", "g"], "vm0"),
    ],
)
def test_the_cursor_moves_and_stays_on_the_list(keys: list[str], chosen: str) -> None:
    """By lines, pages and to the ends."""
    assert after(STATE, *keys).chosen == chosen


def test_enter_opens_what_is_under_the_cursor_and_escape_goes_back() -> None:
    """The first VM before any move; Esc, q and Left go back and do not end."""
    assert after(STATE, "enter").vm == "vm0"
    assert after(STATE, "down", "enter").vm == "vm1"
    for key in ("escape", "q", "left"):
        back = after(STATE, "enter", "down", key)
        assert (back.vm, back.scroll, back.over) == ("", 0, False)
    assert pressed(STATE, "enter", [], 10) == STATE


def test_tab_goes_through_what_is_shown_of_a_vm() -> None:
    """Around, both ways, from the top each time."""
    opened = after(STATE, "enter", "down", "down")
    assert opened.scroll == 2
    assert [after(opened, *["tab"] * times).pane for times in range(4)] == [*Pane, Pane.TREE]
    assert after(opened, "shift-tab").pane is Pane.ZAPS
    assert after(opened, "tab").scroll == 0
    assert after(STATE, "tab") == STATE


def test_q_ends_and_so_does_ctrl_c_anywhere() -> None:
    """In the table, in a VM, and while something is asked."""
    assert after(STATE, "q").over
    assert after(STATE, "enter", "ctrl-c").over
    assert after(STATE, "/", "ctrl-c").over


def test_the_filter_works_while_it_is_typed() -> None:
    """Backspace takes back, Enter keeps it, Esc drops it."""
    typing = after(STATE, "/", "w", "e", "x", "backspace")
    assert (typing.asking, typing.filter) == ("filter", "we")
    kept = after(typing, "b", "enter")
    assert (kept.asking, kept.filter) == ("", "web")
    assert after(kept, "/").typed == "web"
    assert after(typing, "escape").filter == ""
    assert after(kept, "escape").filter == ""


def test_sorting_goes_through_the_columns() -> None:
    """Both ways around, and each way up."""
    assert after(STATE, ">").sort == "share"
    assert after(STATE, *"<<<<").sort == DEFAULT[-1]
    assert after(STATE, "r").descending is False
    rows = [Row(vm, None, 1.0) for vm in at_the_end().vms]
    by_pages = replace(STATE, sort="pages")
    assert [row.vm.name for row in ordered(rows, by_pages)] == ["web1", "db1", "idle3", "idle4"]
    assert [row.vm.name for row in ordered(rows, after(by_pages, "r"))] == ["idle3", "idle4", "db1", "web1"]
    assert [row.vm.name for row in ordered(rows, replace(by_pages, filter="IDLE"))] == ["idle3", "idle4"]


def test_units_and_pause_take_turns() -> None:
    """Per second, since the last update, in all, and again."""
    assert [after(STATE, *["u"] * times).units for times in range(4)] == [*Units, Units.RATE]
    assert after(STATE, " ").paused
    assert not after(STATE, " ", " ").paused


def test_the_interval_and_the_speed_have_their_ends() -> None:
    """Live the interval changes, in a replay the speed."""
    assert after(STATE, "+").interval == 0.5
    assert after(STATE, *["+"] * 9).interval == 0.25
    assert after(STATE, *["-"] * 9).interval == 10
    assert after(REPLAYED, "+").speed == 2
    assert after(REPLAYED, *["-"] * 9).speed == 0.25
    assert after(replace(STATE, interval=0.3), "-").interval == 0.5


def test_a_replay_steps_and_jumps() -> None:
    """A step pauses; a time that is none goes nowhere; live there is one look more, and no way back."""
    forward, back = after(REPLAYED, "t"), after(REPLAYED, "T")
    assert (forward.seek, back.seek, forward.absolute, forward.paused) == (1.0, -1.0, False, True)
    jump = after(REPLAYED, "J", "1", "2", ".", "5", "enter")
    assert (jump.seek, jump.absolute) == (12.5, True)
    assert after(REPLAYED, "J", "x", "enter").seek is None
    assert (after(STATE, "t").seek, after(STATE, "t").paused) == (0.0, True)
    assert after(STATE, "T") == after(STATE, "J") == STATE


def test_help_scrolls_and_any_other_key_ends_it() -> None:
    """And does nothing else."""
    assert after(STATE, "?").help
    scrolled = after(STATE, "?", "down", "pagedown", "up")
    assert (scrolled.help, scrolled.scroll) == (True, 9)
    assert after(scrolled, "q") == STATE
    assert after(STATE, "h", "q") == STATE


def test_every_key_of_help_does_something() -> None:
    """Help is made of what keys do."""
    for state in (STATE, REPLAYED):
        named = {"space": " ", "Tab": "tab", "Enter": "enter"}
        for key, _ in keys_help(state.replayed)[1:]:
            start = after(state, "enter") if key == "Tab" else state
            assert after(start, named.get(key, key)) != start, key
