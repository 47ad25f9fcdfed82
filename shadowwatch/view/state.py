# SPDX-License-Identifier: Apache-2.0
"""What `shadowwatch top` is at, and what each key makes of it: pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from shadowwatch.view.columns import Column, Row, Units

#: How a text that was pasted begins as a key.
PASTED = "pasted "

INTERVALS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0)
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 64.0)


class Pane(Enum):
    """What is shown of one VM."""

    TREE = "tree"
    HISTOGRAMS = "histograms"
    ZAPS = "zaps"


@dataclass(frozen=True, slots=True)
class State:
    """`vm` is the one that is open, "" while all are shown; `chosen` the one under the cursor, "" the first.

    `asking` is what a prompt is for ("filter" or "jump"), with what was typed in `typed`. `seek` is how far a replay
    is to be moved, in seconds, or with `absolute` where to: the loop takes it. `more` are keys of whoever runs the
    loop, and what they do.
    """

    columns: tuple[Column, ...]
    sort: str
    descending: bool = True
    chosen: str = ""
    vm: str = ""
    pane: Pane = Pane.TREE
    scroll: int = 0
    filter: str = ""
    asking: str = ""
    typed: str = ""
    units: Units = Units.RATE
    interval: float = 1.0
    speed: float = 1.0
    replayed: bool = False
    paused: bool = False
    help: bool = False
    over: bool = False
    seek: float | None = None
    absolute: bool = False
    more: tuple[tuple[str, str], ...] = ()


def ordered(rows: Sequence[Row], state: State) -> list[Row]:
    """The rows that the filter lets through, in their order."""
    wanted = state.filter.lower()
    value = next(column.value for column in state.columns if column.key == state.sort)
    found = [row for row in rows if wanted in row.vm.name.lower()]
    found.sort(key=lambda row: row.vm.name)
    found.sort(key=value, reverse=state.descending)
    return found


def pressed(state: State, key: str, names: Sequence[str], height: int) -> State:
    """The state after a key; `names` are the VMs as they stand on the screen, `height` is the lines to move in."""
    if key == "ctrl-c":
        return replace(state, over=True)
    if state.asking:
        return _typed(state, key)
    move = _moves(height).get(key)
    if state.help:
        if move is None:
            return replace(state, help=False, scroll=0)
        return replace(state, scroll=max(0, state.scroll + move))
    for keys in (_ANYWHERE, _IN_REPLAY if state.replayed else _LIVE, _IN_VM if state.vm else _IN_TABLE):
        if key in keys:
            return keys[key][1](state)
    if state.vm and move is not None:
        return replace(state, scroll=max(0, state.scroll + move))
    if not names:
        return state
    place = names.index(state.chosen) if state.chosen in names else 0
    if move is not None:
        return replace(state, chosen=names[min(max(place + move, 0), len(names) - 1)])
    return replace(state, vm=names[place], scroll=0) if key in _OPEN and not state.vm else state


def _moves(height: int) -> Mapping[str, int]:
    page = max(1, height - 1)
    return {
        "up": -1,
        "k": -1,
        "down": 1,
        "j": 1,
        "pageup": -page,
        "pagedown": page,
        "home": -(1 << 30),
        "g": -(1 << 30),
        "end": 1 << 30,
        "G": 1 << 30,
    }


def _typed(state: State, key: str) -> State:
    if key == "escape":
        return replace(state, asking="", typed="", filter="" if state.asking == "filter" else state.filter)
    if key == "enter":
        done = replace(state, asking="", typed="")
        if state.asking == "filter":
            return replace(done, filter=state.typed)
        try:
            return replace(done, seek=max(0.0, float(state.typed)), absolute=True)
        except ValueError:
            return done
    added = key.removeprefix(PASTED) if len(key) == 1 or key.startswith(PASTED) else ""
    typed = state.typed[:-1] if key == "backspace" else state.typed + added
    # The filter works while it is typed.
    return replace(state, typed=typed, filter=typed if state.asking == "filter" else state.filter)


Change = Callable[[State], State]


def _sort(step: int) -> Change:
    def change(state: State) -> State:
        keys = [column.key for column in state.columns]
        return replace(state, sort=keys[(keys.index(state.sort) + step) % len(keys)])

    return change


def _beside(values: Sequence[float], now: float, step: int) -> float:
    """The value so many places from the one that is nearest to this."""
    place = min(range(len(values)), key=lambda number: abs(values[number] - now))
    return values[min(max(place + step, 0), len(values) - 1)]


def _interval(step: int) -> Change:
    return lambda state: replace(state, interval=_beside(INTERVALS, state.interval, step))


def _speed(step: int) -> Change:
    return lambda state: replace(state, speed=_beside(SPEEDS, state.speed, step))


def _seek(step: int) -> Change:
    return lambda state: replace(state, paused=True, seek=step * state.interval, absolute=False)


def _units(state: State) -> State:
    units = list(Units)
    return replace(state, units=units[(units.index(state.units) + 1) % len(units)])


def _pane(step: int) -> Change:
    def change(state: State) -> State:
        panes = list(Pane)
        return replace(state, pane=panes[(panes.index(state.pane) + step) % len(panes)], scroll=0)

    return change


def _close(state: State) -> State:
    return replace(state, vm="", scroll=0)


#: key -> what help says of it ("" when another key says it), and what it does.
Keys = Mapping[str, tuple[str, Change]]

_ANYWHERE: Keys = {
    "?": ("this help", lambda state: replace(state, help=True, scroll=0)),
    "h": ("", lambda state: replace(state, help=True, scroll=0)),
    " ": ("pause or resume", lambda state: replace(state, paused=not state.paused)),
    "u": ("counters per second, since the last update, in all", _units),
}
_OPEN = ("enter", "right")
_IN_TABLE: Keys = {
    "/": ("show only VMs with this in their name", lambda state: replace(state, asking="filter", typed=state.filter)),
    ">": ("sort by the next column", _sort(1)),
    "<": ("sort by the previous column", _sort(-1)),
    "r": ("reverse the order", lambda state: replace(state, descending=not state.descending)),
    "escape": ("", lambda state: replace(state, filter="")),
    "q": ("quit; back from a VM", lambda state: replace(state, over=True)),
}
_IN_VM: Keys = {
    "tab": ("tree, histograms, last zaps of a VM", _pane(1)),
    "right": ("", _pane(1)),
    "shift-tab": ("", _pane(-1)),
    "escape": ("", _close),
    "left": ("", _close),
    "q": ("", _close),
}
_LIVE: Keys = {
    "+": ("update more often", _interval(-1)),
    "-": ("update less often", _interval(1)),
    "t": ("update once, and pause", lambda state: replace(state, paused=True, seek=0.0)),
}
_IN_REPLAY: Keys = {
    "+": ("play faster", _speed(1)),
    "-": ("play slower", _speed(-1)),
    "t": ("a step forward", _seek(1)),
    "T": ("a step back", _seek(-1)),
    "J": ("jump to a time, in seconds", lambda state: replace(state, asking="jump", typed="")),
}


def keys_help(replayed: bool) -> list[tuple[str, str]]:
    """Every key and what it does, for people."""
    moves = [("arrows, j, k, PgUp, PgDn, Home, End", "move"), ("Enter", "open the VM under the cursor")]
    keys = (_IN_TABLE, _IN_VM, _ANYWHERE, _IN_REPLAY if replayed else _LIVE)
    named = {" ": "space", "tab": "Tab"}
    return moves + [(named.get(key, key), help) for each in keys for key, (help, _) in each.items() if help]
