# SPDX-License-Identifier: Apache-2.0
"""A capture as a source: forth, back, and to where it breaks off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowwatch.capture.format import Writer, pack, reading
from shadowwatch.capture.replay import Replay
from shadowwatch.event.abi import RECORD, Batch, Event, decode
from shadowwatch.snapshot import Snapshot
from shadowwatch.watch import Watch
from tests.captures import CAPTURES
from tests.unit import lively
from tests.unit.story import FACTS, Story

BATCHES = lively.batches()
LENGTH = lively.SECONDS - lively.STEP_NS / 1e9


def played_to(position: float) -> Snapshot:
    """What a watch says that took what happened until then, event by event where a batch is not over."""
    watch = Watch(FACTS, lively.name_of)
    now_ns = 10**9 + round(position * 1e9)
    for batch in BATCHES:
        size = len(batch.records) if batch.now_ns <= now_ns else RECORD.size
        for start in range(0, len(batch.records), size):
            records = batch.records[start : start + size]
            # The order is that of the ring, whatever the processors' clocks say.
            if batch.now_ns > now_ns and Event(*next(decode(records)[0])).ns > now_ns:
                return at(watch.snapshot(), now_ns)
            watch.take(batch._replace(records=records))
    return at(watch.snapshot(), now_ns)


def at(now: Snapshot, now_ns: int) -> Snapshot:
    """The snapshot as of then; how late its last events were read is not what is asked."""
    return replace(now, now_ns=now_ns, behind_ns=0)


#: Anywhere, and in the middle of a batch: its events are a microsecond apart.
PLACES = st.floats(-1, 12) | st.builds(
    lambda batch, events: (batch * lively.STEP_NS - 10**8 + events * 1000) / 1e9,
    st.integers(0, 39),
    st.integers(0, 500),
)


@given(places=st.lists(PLACES, max_size=8), every=st.sampled_from([1, 500, 10**9]))
def test_wherever_it_goes_it_is_as_if_played_there(
    places: list[float], every: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Back and forth, past both ends, with many copies of the model, some, or only the beginning."""
    path = tmp_path_factory.getbasetemp() / "lively.capture"
    if not path.exists():
        lively.capture(path)
    with reading(str(path)) as reader:
        replay = Replay(reader)
        replay._every = every
        assert replay.length == LENGTH
        for place in places:
            replay.seek(place)
            expected = played_to(min(max(place, 0.0), LENGTH))
            now = replay.snapshot()
            assert at(now, now.now_ns) == expected
            detail = replay.detail("web1")
            assert detail
            assert (detail.now_ns, detail.vm) == (now.now_ns, now.vms[0])


def test_copies_are_few_however_long_it_is(tmp_path: Path) -> None:
    """When there are too many, every other one goes, and fewer are made."""
    with reading(str(lively.capture(tmp_path / "a"))) as reader:
        replay = Replay(reader, copies=4)
        replay._every = 1
        replay.seek(LENGTH)
        assert 1 < len(replay._copies) <= 4
        assert replay._copies[0][0] == 10**9
        replay.seek(3.0)
        now = replay.snapshot()
        assert at(now, now.now_ns) == played_to(3.0)


def test_the_beginning_alone_is_one_copy(tmp_path: Path) -> None:
    """Who does not go back has no other made, and can go back all the same."""
    with reading(str(lively.capture(tmp_path / "a"))) as reader:
        replay = Replay(reader, copies=1)
        replay._every = 1
        replay.seek(LENGTH)
        assert (len(replay._copies), replay._every) == (1, 1)
        replay.seek(3.0)
        now = replay.snapshot()
        assert at(now, now.now_ns) == played_to(3.0)


def test_time_goes_on_where_nothing_happens(tmp_path: Path) -> None:
    """A capture has no batch of an idle host; ages and rates are those of where the replay is all the same."""
    path = tmp_path / "idle"
    story, writer = Story(), Writer((tmp_path / "idle").open("wb"), "idle", FACTS)
    story.alloc(1, level=2)
    for now_ns in (2 * 10**9, 62 * 10**9):
        writer.write(pack(Batch(now_ns, 0, 0, story.records() if now_ns < 3 * 10**9 else b"")), [(4711, "web1")])
    writer.close()
    with reading(str(path)) as reader:
        replay = Replay(reader)
        for seconds in (0.0, 30.0, 59.5, 10.0):
            replay.seek(seconds)
            detail = replay.detail("web1")
            assert replay.snapshot().now_ns == round((2 + seconds) * 1e9)
            assert detail
            assert detail.now_ns == round((2 + seconds) * 1e9)


def test_a_cut_capture_plays_to_the_cut_and_says_so(tmp_path: Path) -> None:
    """The fault is gone when it goes back before it."""
    path = tmp_path / "cut"
    path.write_bytes(CAPTURES["stock"].read_bytes()[:100_000])
    with reading(str(path)) as reader:
        replay = Replay(reader)
        replay.seek(replay.length)
        # The last whole batch is before the cut; the next one is missed when it is asked for.
        assert "is cut off after" in replay.fault
        assert replay.snapshot().received > 1000
        replay.seek(0.0)
        assert replay.fault == ""


def test_the_status_is_that_of_the_recording(tmp_path: Path) -> None:
    """The policy then, and no daemon now."""
    with reading(str(lively.capture(tmp_path / "a", policy="parents"))) as reader:
        status = Replay(reader).status()
    assert (status.policy, status.facts.host, status.cpu_ns, status.resident) == ("parents", "kvm1", None, None)
