# SPDX-License-Identifier: Apache-2.0
"""From looks to frames: what each tells of, live and forth and back in a replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowwatch.capture.format import Writer, pack, reading
from shadowwatch.capture.replay import Replay
from shadowwatch.event.abi import Batch
from shadowwatch.snapshot import Snapshot, VmDetail
from shadowwatch.source import Status
from shadowwatch.view.columns import COLUMNS, SPARK, choose
from shadowwatch.view.frames import Frames
from shadowwatch.view.screen import Frame, draw
from shadowwatch.view.state import State
from shadowwatch.watch import Watch
from tests.unit import lively
from tests.unit.daemon import STATUS
from tests.unit.lively import LivelyDaemon, looked
from tests.unit.story import FACTS, Story

#: All of them but the ticks.
STATE = State(choose([key for key in COLUMNS if not key.endswith("trend")]), "recent", replayed=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A lively capture."""
    return str(lively.capture(tmp_path_factory.mktemp("frames") / "a.capture"))


@pytest.fixture
def replay(path: str) -> Iterator[Replay]:
    """It as a source."""
    with reading(path) as reader:
        yield Replay(reader)


def screen(frame: Frame) -> list[str]:
    """What a person sees of it."""
    return [line.plain for line in draw(frame, STATE, None, 300, 20).lines]


def test_the_first_look_knows_no_rate_and_says_so() -> None:
    """Not that nothing happens: counters are a dash, the sentence says that it measures, and there is no tick."""
    _, frame = looked(looks=1)
    assert frame.seconds == 0
    _, events, said, *_ = screen(frame)
    assert "– events/s" in events
    assert said == "Measuring: rates come with the next update."
    (row, *_) = frame.rows
    assert COLUMNS["reclaimed"].text(row, STATE.units) == "–"
    assert row.ticks == ()


def test_a_look_tells_of_the_time_since_the_one_before() -> None:
    """By the clock of the events: a second of four batches."""
    daemon = LivelyDaemon()
    frames = Frames(daemon)
    first, later = daemon.look(frames), daemon.look(frames)
    assert later.seconds == 1.0
    assert later.events == later.now.received - first.now.received > 1000
    assert [row.before for row in later.rows] == [row.vm for row in first.rows]
    assert later.cpu == pytest.approx(0.03)


def test_a_look_at_which_no_time_has_passed_is_the_one_before() -> None:
    """The daemon looks at the ring some twenty times a second; who asks more often hears the same."""
    daemon = LivelyDaemon()
    frames = Frames(daemon)
    daemon.look(frames)
    later = daemon.look(frames)
    assert frames.look() is later


def test_ticks_are_the_last_looks(replay: Replay) -> None:
    """No more than a sparkline has room for; those of a VM that is gone are gone."""
    frames = Frames(replay)
    for number in range(1, 20):
        frame = frames.at(number / 2, 0.5)
    (row, *_) = frame.rows
    assert len(row.ticks) == SPARK
    assert {tick.zaps for tick in row.ticks} == {216}
    assert [tick.now_ns for tick in row.ticks] == [10**9 + number * 5 * 10**8 for number in range(20 - SPARK, 20)]


@given(
    there=st.floats(0, 10),
    ways=st.lists(st.floats(0, 10), min_size=1, max_size=4),
    step=st.sampled_from([0.25, 1.0, 3.0]),
)
def test_a_replay_shows_the_same_wherever_it_was_before(
    path: str, there: float, ways: list[float], step: float
) -> None:
    """Played there by steps, or come back to from anywhere: sentence, rates and totals are the same."""
    with reading(path) as reader:
        replay = Replay(reader)
        frames = Frames(replay)
        for steps in range(3, 0, -1):
            frames.at(there - steps * step, step)
        first = frames.at(there, step)
        for way in ways:
            frames.at(way, step)
        again = frames.at(there, step)
        assert screen(again) == screen(first)
        assert again.seconds == first.seconds
        assert [replace(row, ticks=()) for row in again.rows] == [replace(row, ticks=()) for row in first.rows]


def test_the_ticks_of_what_is_later_go_with_a_step_back(replay: Replay) -> None:
    """What was seen before stays, as far as it was not pushed out."""
    frames = Frames(replay)
    seen = [frames.at(number / 2, 0.5) for number in range(1, 18)]
    for number in (16, 15, 14):
        back = frames.at(number / 2, 0.5)
    then = seen[13].rows[0].ticks
    assert back.rows[0].ticks == then[3:]
    assert len(then) == SPARK


def test_stepping_and_playing_on_reads_nothing_again(tmp_path: Path) -> None:
    """The seconds of a long capture are no whole numbers of nanoseconds, and yet a step on is none back."""
    path = tmp_path / "long"
    story, writer = Story(), Writer(path.open("wb"), "long", FACTS)
    story.alloc(1)
    for seconds in (2, 100_000):
        writer.write(pack(Batch(seconds * 10**9, 0, 0, b"" if seconds > 2 else story.records())), [(4711, "web1")])
    writer.close()
    with reading(str(path)) as reader:
        replay = Replay(reader)
        frames = Frames(replay)
        frames.at(86_400.123456789, 1.0)
        watch = replay._watch
        for number in range(500):
            step = 1 / (3 + number)
            frame = frames.at(replay.position + step, step)
            assert frame.seconds == pytest.approx(step, abs=1e-8)
        assert replay._watch is watch


@pytest.mark.parametrize("there", [4.0, 9.0, 10.0])
def test_a_damaged_capture_ends_where_the_damage_is(there: float, tmp_path: Path) -> None:
    """Nothing is known of the time behind it: rates are those of a capture that was cut at the same place."""
    content = lively.capture(tmp_path / "whole").read_bytes()
    with reading(str(tmp_path / "whole")) as reader:
        next(batch for batch in reader.batches() if batch.now_ns == 4 * 10**9)
        end = reader.position
    (tmp_path / "cut").write_bytes(content[:end])
    (tmp_path / "damaged").write_bytes(content[: end + 40] + bytes([content[end + 40] ^ 1]) + content[end + 41 :])
    shown = []
    for name in ("cut", "damaged"):
        with reading(str(tmp_path / name)) as reader:
            replay = Replay(reader)
            frame = Frames(replay).at(there, 1.0)
            assert "after" in frame.fault
            shown.append((frame.seconds, frame.now, screen(replace(frame, fault=""))))
            assert replay.position == replay.length == 3.0
    assert shown[0][0] == 1.0
    assert shown[1] == shown[0]


def test_in_an_idle_stretch_no_rate_stays(tmp_path: Path) -> None:
    """A capture has no batch of an idle host, but time goes on there."""
    path = tmp_path / "idle"
    story, writer = Story(), Writer(path.open("wb"), "idle", FACTS)
    for number in range(1, 200):
        story.alloc(number)
        story.reclaim()
        story.zap(number)
    writer.write(pack(Batch(10**9, 0, 0, b"")))
    writer.write(pack(Batch(story.ns, 0, 0, story.records())), [(4711, "web1")])
    writer.write(pack(Batch(60 * 10**9, 0, 0, b"")))
    writer.close()
    with reading(str(path)) as reader:
        replay = Replay(reader)
        frames = Frames(replay)
        assert "web1 thrashes" in screen(frames.at(1.0, 1.0))[2]
        assert screen(frames.at(11.0, 10.0))[2] == "KVM reclaims no shadow pages now."


class Restarted:
    """A source with one VM, which ends between two looks and starts again: same name, same address, another process."""

    replay = None

    def __init__(self) -> None:
        self.watch = Watch(FACTS, lambda pid: "web1")
        self.happen(1, 10)

    def happen(self, pid: int, pages: int) -> Story:
        """A VM allocates so many pages."""
        story = Story(pid=pid)
        story.ns += pid * 10**9
        for page in range(1, pages + 1):
            story.alloc(page)
        self.watch.take(Batch(story.ns, 0, 0, story.records()))
        self.story = story
        return story

    def restart(self) -> None:
        """It ends, and the next one has fewer pages."""
        self.story.events.clear()
        self.story.destroy()
        self.watch.take(Batch(self.story.ns, 0, 0, self.story.records()))
        self.happen(2, 3)

    def status(self) -> Status:
        """Of a daemon."""
        return STATUS

    def snapshot(self) -> Snapshot:
        """As it is now."""
        return self.watch.snapshot()

    def detail(self, name: str) -> VmDetail | None:
        """Nobody asks."""
        raise AssertionError(name)


def test_a_vm_that_starts_again_is_compared_with_nothing() -> None:
    """Its counts begin at 0: no rate is below 0, whatever the one before of its name and address had."""
    source = Restarted()
    frames = Frames(source)
    frames.look()
    source.restart()
    (row,) = frames.look().rows
    assert (row.vm.pid, row.before) == (2, None)
    assert row.change(lambda vm: sum(vm.allocations.values())) == 3
