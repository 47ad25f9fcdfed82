# SPDX-License-Identifier: Apache-2.0
"""A VM of many pages, with roles as a real kernel sets them: what its events and a walk of its list are."""

from __future__ import annotations

from collections.abc import Iterator

from shadowwatch.event.abi import STEP_RECORDS, Event, Flags, Kind, encode
from tests.unit.story import Story

#: access=7, efer_nx, cr0_wp: no word that Python keeps one object of.
ROLE = 0x7 << 8 | 1 << 13 | 1 << 14
TABLES = 64


def big(pages: int, moves: bool = False) -> Story:
    """Directories of 64 tables each, and half as many other tables that came and went, and are remembered.

    With moves each child is older than its parents, as on a KVM that moves these.
    """
    story = Story()
    story.alloc(0, level=ROLE | 4)
    for number in range(1, pages // (TABLES + 1)):
        story.alloc(number, level=ROLE | 2)
        story.link(0, number % 512, number)
        for table in range(TABLES):
            page = pages + number * TABLES + table
            story.alloc(page, level=ROLE | 1)
            story.link(number, table, page)
        if moves:
            story.move(0)
            story.move(number)
    for number in range(story.used // 2):
        story.alloc(10 * pages + number, level=ROLE | 1)
        story.zap(10 * pages + number, level=ROLE | 1)
    return story


def walk(story: Story) -> bytes:
    """A whole walk over its list."""
    listed: dict[int, Event] = {}
    parents: dict[int, int] = {}
    for event in story.events:
        if event.kind == Kind.ALLOC:
            listed[event.spt] = event
        elif event.kind == Kind.MOVE:
            listed[event.spt] = listed.pop(event.spt)
        elif event.kind == Kind.ZAP:
            del listed[event.spt]
        elif event.kind == Kind.LINK:
            parents[event.spt] = event.parent_pte
    pages = list(listed.values())
    steps = [pages[start : start + STEP_RECORDS] for start in range(0, len(pages), STEP_RECORDS)]
    return b"".join(map(encode, _walk(story, steps, parents)))


def _walk(story: Story, steps: list[list[Event]], parents: dict[int, int]) -> Iterator[Event]:
    for number, step in enumerate(steps):
        flags = Flags.FIRST * (number == 0) | Flags.LAST * (number == len(steps) - 1)
        yield Event(story.kvm, story.ns, seq=story.seq, used=len(step), walk=1, kind=Kind.STEP, flags=flags)
        for page in step:
            pte = parents.get(page.spt, 0)
            yield Event(
                story.kvm, 0, spt=page.spt, parent_pte=pte, gfn=page.gfn, role=page.role, walk=1, kind=Kind.PAGE
            )
