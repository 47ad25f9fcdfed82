# SPDX-License-Identifier: Apache-2.0
"""Captures that are made and changed at random: every reader ends with figures or with one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowwatch.event.abi import FIELDS, Batch, Event, Kind, decode, encode
from shadowwatch.event.facts import PAGING
from tests.unit import lively
from tests.unit.forged import READERS, capture, data, facts, frame, name, read
from tests.unit.story import FUNCTIONS, Story

pytestmark = pytest.mark.soak

NUMBERS = [field for field, _ in FIELDS if field != "pad"]
#: Addresses that mean something to one another, so that random events are about the same pages.
PAGES = st.integers(0, 12)
SPTES = st.builds(lambda page, index: Story.spt(page) + 8 * index, PAGES, st.integers(0, 3))
CALLERS = st.sampled_from([start + 1 for _, start, _ in FUNCTIONS] + [0, 0xFFFF_FFFF])
WIDE = {code: st.integers(0, (1 << 8 * size) - 1) for code, size in (("Q", 8), ("I", 4), ("B", 1))}
LIKELY: dict[str, st.SearchStrategy[int]] = {
    "kvm": st.sampled_from([0, 0x1000, 0x2000, 0x3000]),
    "spt": PAGES.map(Story.spt),
    "parent_pte": SPTES,
    "gfn": PAGES | PAGES.map(lambda page: page << 12),
    "seq": st.integers(0, 300),
    "role": st.integers(0, 5) | st.integers(0, 5).map(lambda level: level | 1 << 17 | 1 << 11),
    "pid": st.sampled_from([4711, 0, 7]),
    "limit": st.integers(0, 40),
    "used": st.integers(0, 12),
    "caller": CALLERS,
    "walk": st.integers(0, 2),
    "kind": st.sampled_from(list(map(int, Kind))),
    "flags": st.integers(0, 15),
}
EVENTS = st.builds(
    Event,
    **{
        field: st.one_of(LIKELY.get(field, WIDE[code]), LIKELY.get(field, WIDE[code]), WIDE[code])
        for field, code in FIELDS
        if field != "pad"
    },
)


@st.composite
def numbered(draw: st.DrawFn) -> list[Event]:
    """Events of VMs with the numbers that they should have, but for a few."""
    last: dict[int, int] = {}
    events = []
    for event in draw(st.lists(EVENTS, max_size=80)):
        if draw(st.integers(0, 30)):
            last[event.kvm] = last.get(event.kvm, 0) + (event.kind <= Kind.DESTROY)
            event = event._replace(seq=last[event.kvm])
        events.append(event)
    return events


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FACTS_CHANGED = st.dictionaries(st.sampled_from(list(json.loads(facts()))), JSON, max_size=2).map(
    lambda changed: facts(**changed)
)
TOLD = st.just(facts()) | st.sampled_from([facts(paging=paging, midway=True) for paging in PAGING]) | FACTS_CHANGED
FRAMES = st.one_of(
    st.builds(
        lambda events, now_ns: data(b"".join(map(encode, events)), now_ns),
        numbered(),
        st.integers(0, 10**10) | WIDE["Q"],
    ),
    st.builds(name, st.sampled_from([4711, 0, 7]), st.text(max_size=12)),
    st.builds(lambda value: frame(b"NAME", json.dumps(value).encode()), JSON),
    st.builds(lambda value: frame(b"LAST", json.dumps(value).encode()), JSON),
    st.builds(frame, st.sampled_from([b"DATA", b"NAME", b"LAST", b"FACT"]), st.binary(max_size=60), WIDE["Q"]),
    st.builds(data, st.binary(max_size=300), WIDE["Q"]),
)


def all_read(content: bytes, path: Path) -> None:
    """Have each reader read it."""
    path.write_bytes(content)
    for reader in READERS:
        code, out, errors = read(reader, path)
        assert (code, len(errors.splitlines())) in ((0, 0), (1, 1), (1, 0)), (reader, errors)
        assert all(letter.isprintable() or letter == "\n" for letter in out + errors), reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this module's."""
    return tmp_path_factory.mktemp("fuzz")


@given(frames=st.lists(FRAMES, max_size=6), told=TOLD, ordered=st.booleans())
def test_whatever_is_in_a_capture_is_read_or_refused(
    frames: list[bytes], told: bytes, ordered: bool, folder: Path
) -> None:
    """Frames of any content with checksums that are right."""
    if ordered:  # by their clocks, which are what most faults hide behind
        frames = sorted(frames, key=lambda made: made[8:16][::-1])
    all_read(capture([name(4711, "web1"), *frames], told), folder / "made")


@given(changes=st.lists(st.tuples(st.integers(0, 10**9), st.integers(1, 255)), max_size=6), cut=st.integers(0, 10**9))
def test_bytes_that_changed_on_a_disk_are_read_or_refused(
    changes: list[tuple[int, int]], cut: int, folder: Path
) -> None:
    """Anywhere in what a daemon wrote, and its end may be missing."""
    whole = folder / "whole"
    if not whole.exists():
        lively.capture(whole)
    content = bytearray(whole.read_bytes())
    for place, change in changes:
        content[place % len(content)] ^= change
    all_read(bytes(content[: cut % (len(content) + 1)] if cut % 3 == 0 else content), folder / "changed")


@cache
def some_batches() -> Sequence[Batch]:
    """The first of a lively host."""
    return lively.batches()[:6]


@given(changes=st.lists(st.tuples(st.integers(0, 10**9), st.sampled_from(NUMBERS)), max_size=12), to=st.data())
def test_events_that_changed_are_read(changes: list[tuple[int, str]], to: st.DataObject, folder: Path) -> None:
    """Fields of a lively host's events, in frames that are right."""
    codes = dict(FIELDS)
    frames = [name(1, "web1")]
    for number, batch in enumerate(some_batches()):
        events = [Event(*fields) for fields in decode(batch.records)[0]]
        for place, field in changes[number::6]:
            at = place % len(events)
            value = to.draw(LIKELY.get(field, WIDE[codes[field]]) | WIDE[codes[field]])
            events[at] = events[at]._replace(**{field: value})
        frames.append(data(b"".join(map(encode, events)), batch.now_ns))
    all_read(capture(frames), folder / "events")
