# SPDX-License-Identifier: Apache-2.0
"""A capture as a source: forth, back, and to where it breaks off."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shadowwatch.event.capture import reading
from shadowwatch.source import Replay
from shadowwatch.watch import Watch
from tests.captures import CAPTURES
from tests.unit import lively
from tests.unit.story import FACTS

LENGTH = lively.SECONDS - lively.STEP_NS / 1e9


def played_to(position: float) -> Watch:
    """A watch that took what there was until then."""
    watch = Watch(FACTS, lively.name_of)
    for batch in lively.batches():
        if batch.now_ns <= 10**9 + round(position * 1e9):
            watch.take(batch)
    return watch


@settings(deadline=None, max_examples=30)
@given(places=st.lists(st.floats(-1, 12), max_size=8), every=st.sampled_from([1, 500, 10**9]))
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
            assert replay.snapshot() == expected.snapshot()
            assert replay.detail("web1") == expected.detail("web1")


def test_copies_are_few_however_long_it_is(tmp_path: Path) -> None:
    """When there are too many, every other one goes, and fewer are made."""
    with reading(str(lively.capture(tmp_path / "a"))) as reader:
        replay = Replay(reader)
        replay._every = 1
        replay.COPIES = 4
        replay.seek(LENGTH)
        assert 1 < len(replay._copies) <= 4
        assert replay._copies[0][0] == 0.0
        replay.seek(3.0)
        assert replay.snapshot() == played_to(3.0).snapshot()


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
