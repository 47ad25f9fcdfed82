# SPDX-License-Identifier: Apache-2.0
"""What `shadowwatch top` draws: pure, from a frame and a state to the lines of a screen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from shadowwatch.errors import counted
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.snapshot import Cause, Distribution, Snapshot, VmDetail, VmSnapshot
from shadowwatch.source import Status
from shadowwatch.view import tree
from shadowwatch.view.advice import spared
from shadowwatch.view.columns import Column, Row, Units, bar
from shadowwatch.view.insight import insight
from shadowwatch.view.state import Pane, State, keys_help, ordered

GAP = 2

#: What the columns and the sentence above them take for known.
WORDS = (
    ("shadow page", "a page table that KVM builds from one of the guest's, for the processor to use instead"),
    ("level", "1 maps guest memory, 2 and above point to shadow pages one level down"),
    ("directory", "a shadow page above level 1; those that it points to are its children"),
    ("zap", "to empty a shadow page and take it out of use; what it mapped has to be faulted in again"),
    ("reclaim", "zaps from the old end of the list of a VM's pages, because the VM has reached its limit"),
)


@dataclass(frozen=True, slots=True)
class Frame:
    """One look: what the source said, and what it said at the look before, `seconds` earlier.

    `position` and `length` are a replay's, in seconds; `cpu` is the share of a core that the daemon had.
    """

    status: Status
    now: Snapshot
    rows: Sequence[Row]
    seconds: float
    events: int
    cpu: float | None = None
    position: float | None = None
    length: float = 0.0
    fault: str = ""


class Drawn(NamedTuple):
    """The lines of a screen; `room` of them are for what can be scrolled, the first of that is number `scroll`."""

    lines: list[Text]
    room: int
    scroll: int


def draw(frame: Frame, state: State, detail: VmDetail | None, width: int, height: int) -> Drawn:
    """A screen of this size, `detail` is the open VM."""
    head = [*_header(frame, state, width, height), Text()]
    room, scroll = max(1, height - len(head) - 1), 0
    if state.help or state.vm:
        above, body = ([], _help(state, width)) if state.help else _vm(frame, state, detail, width)
        room = max(1, room - len(above))
        # Nobody can scroll beyond the end.
        scroll = min(state.scroll, max(0, len(body) - room))
        body = [*above, *body[scroll : scroll + room]]
    else:
        body = table(frame, state, width, room)
        room = max(1, room - 1)
    lines = [*head, *body][: height - 1]
    lines += [Text()] * (height - 1 - len(lines))
    return Drawn([_cut(line, width) for line in (*lines, _footer(state))], room, scroll)


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    return line


def _header(frame: Frame, state: State, width: int, height: int) -> Iterator[Text]:
    status = frame.status
    facts = status.facts
    kvm = f"KVM patched, policy {status.policy}" if status.policy else "stock KVM"
    yield Text.assemble(
        ("shadowwatch", "bold"), f"  {facts.host}  Linux {facts.kernel}  {kvm}  {counted(len(facts.probes), 'probe')}"
    )
    living = sum(not vm.ended for vm in frame.now.vms)
    parts = [counted(living, "VM")]
    parts.append(f"{counted(round(frame.events / frame.seconds), 'event')}/s" if frame.seconds else "– events/s")
    lost = frame.now.all_lost
    parts.append(f"{lost:,} lost")
    # What a narrow terminal must not cut comes first: whether the figures move, and what they are.
    line = Text(style="bold red" if lost else "")
    if state.paused:
        line.append("paused  ", "bold yellow")
    line.append("  ".join(parts))
    if state.units is not Units.RATE:
        line.append(f"  {state.units.value}", "bold")
    if frame.position is not None:
        line.append(f"  replay {frame.position:,.1f} of {frame.length:,.1f} s, × {state.speed:g}")
    if frame.cpu is not None and status.resident is not None:
        line.append(f"  daemon {frame.cpu:.1%} of a core, {status.resident / (1 << 20):,.0f} MiB")
    yield line
    words = insight(frame.rows, status)
    if frame.fault:
        words = f"{frame.fault}. {words}"
    for shown in wrap(words, width, max_lines=max(1, height // 3), placeholder=" …", break_on_hyphens=False):
        yield Text(shown, "bold")


def _footer(state: State) -> Text:
    if state.asking:
        what = {"filter": "name contains", "jump": "seconds from the beginning"}[state.asking]
        return Text.assemble((f"{what}: ", "bold"), state.typed, ("▏", "blink"))
    if state.help:
        return Text("↑↓: scroll  any other key: back", "dim")
    # Both do not fit into 80 columns.
    sort, play = ("", "  t/T: step  J: jump") if state.replayed else ("< >: sort  ", "")
    if state.vm:
        return Text(f"?: help  Esc: back  Tab: next view  ↑↓: scroll  space: pause{play}", "dim")
    shown = f"filter: {state.filter}  " if state.filter else ""
    shown += "".join(f"{key}: {help}  " for key, help in state.more)
    return Text(f"{shown}?: help  q: quit  Enter: open  /: filter  {sort}space: pause{play}", "dim")


def fitting(columns: Sequence[Column], widths: Sequence[int], width: int) -> int:
    """How many columns, from the first on, have room; one at least."""
    used = widths[0]
    for number, each in enumerate(widths[1:], 1):
        used += GAP + each
        if used > width:
            return number
    return len(columns)


def table(frame: Frame, state: State, width: int, height: int, cursor: bool = True) -> list[Text]:
    """A heading and as many rows as there is room for, those around the one under the cursor; only these are made."""
    rows = ordered(frame.rows, state)
    if not rows:
        return [Text(f"No VM has {state.filter} in its name." if state.filter else "No VM is running.", "dim")]
    place = next((number for number, row in enumerate(rows) if row.vm.name == state.chosen), 0)
    chosen = rows[place].vm.name if cursor else ""
    first = min(max(0, place - (height - 1) // 2), max(0, len(rows) - (height - 1)))
    shown = rows[first : first + height - 1]
    cells = [[column.text(row, state.units) for column in state.columns] for row in shown]
    marks = ["▼" if state.descending else "▲" if column.key == state.sort else "" for column in state.columns]
    headings = [
        f"{column.titled(state.units)}{mark if column.key == state.sort else ''}"
        for column, mark in zip(state.columns, marks, strict=True)
    ]
    widths = [
        max(map(cell_len, (heading, *(line[number] for line in cells)))) for number, heading in enumerate(headings)
    ]
    columns = state.columns[: fitting(state.columns, widths, width)]
    lines = [_line(columns, headings, widths, "bold")]
    for row, line in zip(shown, cells, strict=True):
        lines.append(_line(columns, line, widths, "reverse" if row.vm.name == chosen else "", row))
    return lines


def _line(
    columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int], style: str, row: Row | None = None
) -> Text:
    line = Text(style=style)
    for number, column in enumerate(columns):
        if number:
            line.append(" " * GAP)
        room = widths[number]
        cell = cells[number]
        padded = set_cell_size(cell, room) if column.left else " " * (room - cell_len(cell)) + cell
        value = column.value(row) if row and column.alarm else 0
        line.append(padded, "bold red" if isinstance(value, float | int) and value > 0 else None)
    return line


def _help(state: State, width: int) -> list[Text]:
    """Every key, every column that is shown, and the words that these use, in lines of this width."""

    def explained(names: Iterable[tuple[str, str]], room: int) -> Iterator[Text]:
        room = max(2, min(room, width // 2 - 4))
        for name, help in names:
            for line in wrap(f"  {name:<{room - 1}} {help}", width, subsequent_indent=" " * (room + 2)):
                yield Text(line)

    columns = [(column.heading, column.help) for column in state.columns]
    return [
        Text("Keys", "bold"),
        *explained((*keys_help(state.replayed), *state.more), 36),
        Text(),
        Text(f"Columns; counters {state.units.value}", "bold"),
        *explained(columns, 18),
        Text(),
        Text("Words", "bold"),
        *explained(WORDS, 18),
    ]


def _vm(frame: Frame, state: State, detail: VmDetail | None, width: int) -> tuple[list[Text], list[Text]]:
    """What stays above, and what is scrolled beneath it."""
    if detail is None:
        return [], [Text(f"{state.vm} is gone.", "dim")]
    vm = detail.vm
    filled = vm.all_pages / vm.limit if vm.limit else 0.0
    head = Text.assemble(
        (vm.name, "bold"),
        f"  pid {vm.pid}  {vm.state}  {vm.all_pages:,} of {vm.limit:,} pages {bar(filled, 16)}  ",
    )
    for pane in Pane:
        head.append(f" {pane.value} ", "reverse" if pane is state.pane else "dim")
    heading, lines = drawn_pane(state.pane, detail, RoleLayout(frame.status.facts.role), width)
    return [head, Text(), *heading], lines


def drawn_pane(
    pane: Pane, detail: VmDetail, roles: RoleLayout, width: int, most: int | None = None
) -> tuple[list[Text], list[Text]]:
    """One of a VM's panes, its heading apart; of a tree's parts no more than `most` lines each."""
    if pane is Pane.TREE:
        made = [Text(line) for line in list(tree.text(detail, roles, width, most))[2:]]
        heading, lines = made[:1], made[1:]
    elif pane is Pane.HISTOGRAMS:
        heading, lines = [], _histograms(detail, width)
    else:
        heading, lines = _zaps(detail, roles)
    for line in heading:
        line.stylize("bold")
    return heading, lines


def _curve(vm: VmSnapshot, width: int) -> list[Text]:
    """Of the refaults so far, those that each of the limits that are followed would have spared."""
    if not vm.limited or not vm.limited[0].refaults:
        return [Text("  none so far", "dim")]
    as_it_is, *higher = vm.limited
    room = max(8, min(60, width - 30))
    lines = []
    for limited in higher:
        share = spared(limited.likely, as_it_is.likely)
        label = f"{vm.limit * limited.times:,.0f} (× {limited.times:g})"
        lines.append(Text(f"  {label:>14}  {share:>7.0%}  {'█' * round(share * room)}"))
    return lines


def _histograms(detail: VmDetail, width: int) -> list[Text]:
    vm = detail.vm
    lines: list[Text] = [Text("refaults that a higher limit would have spared", "bold"), *_curve(vm, width), Text()]
    for title, distributions in (
        ("allocations between the last child of a directory and its zap by reclaim", vm.parenting_age.values()),
        (
            "place on active_mmu_pages of what reclaim chose: 0 is the newest, 1 the oldest",
            vm.zap_position.values(),
        ),
        ("allocations between a zap and the allocation of the same gfn and role again", [vm.refault_distance]),
    ):
        lines += [Text(title, "bold"), *_histogram(list(distributions), width), Text()]
    return lines


def _histogram(distributions: Sequence[Distribution], width: int) -> list[Text]:
    counts = [sum(each) for each in zip(*(one.counts for one in distributions), strict=True)]
    if not any(counts):
        return [Text("  none so far", "dim")]
    bounds = [f"≤ {bound:g}" for bound in distributions[0].bounds]
    labels = [*bounds, f"> {distributions[0].bounds[-1]:g}"]
    most = max(counts)
    last = max(number for number, count in enumerate(counts) if count)
    first = min(number for number, count in enumerate(counts) if count)
    room = max(8, min(60, width - 30))
    return [
        Text(f"  {labels[number]:>12}  {count:>9,}  {'█' * round(count / most * room)}")
        for number, count in enumerate(counts)
        if first <= number <= last
    ]


def _zaps(detail: VmDetail, roles: RoleLayout) -> tuple[list[Text], list[Text]]:
    lines = []
    for zap in reversed(detail.last_zaps):
        cause = Cause(zap.cause).name.lower() + (", with its parent" if zap.recursive else "")
        words = f"{(detail.now_ns - zap.ns) / 1e9:>9.3f} s  {zap.level:>5}  {zap.gfn:>#12x}  {cause:<22}"
        line = Text(words)
        line.append(" recently parented " if zap.recent else " " * 19, "bold red" if zap.recent else None)
        line.append(f" {tree.flags(roles, zap.role)}")
        lines.append(line)
    heading = Text(f"{'ago':>11}  {'level':>5}  {'gfn':>12}  {'cause':<22}{'':19} role")
    return [heading], lines or [Text("no zap so far", "dim")]
