# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch top`: look, draw, listen to keys; or once, for scripts."""

from __future__ import annotations

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TextIO

from rich.console import Console

from shadowwatch.source import Source
from shadowwatch.view import whole
from shadowwatch.view.advice import advice
from shadowwatch.view.columns import Row
from shadowwatch.view.frames import Frames
from shadowwatch.view.screen import Frame, draw, table
from shadowwatch.view.state import State, ordered, pressed
from shadowwatch.view.terminal import opened

Wait = Callable[[float], None]

#: What a key does, in words and in deed.
More = tuple[str, Callable[[], None]]
NO_MORE: Mapping[str, More] = {}


def interactive(source: Source, state: State, out: TextIO, keyboard: int, more: Mapping[str, More] = NO_MORE) -> None:
    """Until the person ends it; `more` are keys besides its own."""
    state = replace(state, more=tuple((key, help) for key, (help, _) in more.items()))
    console = Console(file=out, highlight=False)
    frames, replay = Frames(source), source.replay
    with opened(console, keyboard) as terminal:
        frame = frames.at(replay.position, state.interval) if replay else frames.look()
        due = time.monotonic()
        detail, shown = None, ""
        while not state.over:
            width, height = terminal.size
            if state.vm != shown:
                detail, shown = source.detail(state.vm) if state.vm else None, state.vm
            drawn = draw(frame, state, detail, width, height)
            terminal.show(drawn.lines)
            state = replace(state, scroll=drawn.scroll)
            position, moved = replay.position if replay else 0.0, False
            for key in terminal.keys(due + state.interval):
                if key in more and not state.asking and not state.help:
                    more[key][1]()
                names = [row.vm.name for row in ordered(frame.rows, state)]
                state = pressed(state, key, names, drawn.room)
                if state.seek is not None:
                    position, moved = max(0.0, state.seek + (0.0 if state.absolute else position)), True
                    state = replace(state, seek=None)
            now, step = time.monotonic(), state.interval
            if not moved and now >= due + state.interval:
                step = (now - due) * state.speed
                position, due = position + step, now
                moved = not state.paused and not (replay and replay.position == replay.length)
            if moved:
                frame = frames.at(position, step) if replay else frames.look()
                due, shown = now, ""


def once(source: Source, state: State, at: float | None, wait: Wait = time.sleep) -> Frame:
    """One frame of two looks, an interval apart; of a capture, what there was until `at` (its end if None)."""
    frames = Frames(source)
    if replay := source.replay:
        end = replay.length if at is None else at
        return frames.at(end, end)
    frames.look()
    wait(state.interval)
    return frames.look()


def as_text(frame: Frame, state: State, out: TextIO) -> None:
    """The table alone, without colours where they are not wanted; on a terminal no wider than that."""
    console = whole.console(out)
    for line in table(frame, state, console.width, len(frame.rows) + 1, cursor=False):
        line.rstrip()
        console.print(line, soft_wrap=True)


def as_json(frame: Frame, state: State, out: TextIO) -> None:
    """A list of objects, one for each VM, keys as the columns'; counters are per second.

    Beside them `advice`: the limit that would end most refaults, the share that it spares, the bytes that it takes
    more, and QEMU's option for it; null when there is nothing to end.
    """
    json.dump([{**_values(row, state), "advice": _advice(row)} for row in ordered(frame.rows, state)], out, indent=1)
    out.write("\n")


def as_csv(frame: Frame, state: State, out: TextIO) -> None:
    """The same as lines."""
    writer = csv.DictWriter(out, [column.key for column in state.columns], lineterminator="\n")
    writer.writeheader()
    writer.writerows(_values(row, state) for row in ordered(frame.rows, state))


def _advice(row: Row) -> dict[str, float | str] | None:
    advised = advice(row)
    return {**advised._asdict(), "qemu": advised.option} if advised else None


def _values(row: Row, state: State) -> dict[str, float | str]:
    return {column.key: column.value(row) for column in state.columns}


def has_terminal(out: TextIO) -> bool:
    """Whether a person can be shown a screen and asked for keys."""
    return out.isatty() and sys.stdin.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
