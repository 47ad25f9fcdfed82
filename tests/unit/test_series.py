# SPDX-License-Identifier: Apache-2.0
"""A VM of a capture over time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from shadowwatch.capture.format import Writer, pack, reading
from shadowwatch.capture.series import SawTooth, read
from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import UNCOUNTED, Batch, Event, Kind, decode, encode
from shadowwatch.event.facts import Facts
from shadowwatch.mmu import model
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.snapshot import RECLAIM, VmSnapshot
from shadowwatch.watch import Watch
from tests.captures import CAPTURES
from tests.experiment.analysis import InReach
from tests.unit import lively
from tests.unit.story import FACTS, Story


def write(path: Path, *events: list[Event], facts: Facts = FACTS, name: str = "web") -> str:
    """A capture with these events, a batch for each list; returns its path."""
    writer = Writer(path.open("wb"), str(path), facts)
    watch = Watch(facts, lambda pid: name)
    for some in events:
        batch = Batch(some[-1].ns + 10**9, 0, 0, b"".join(map(encode, some)))
        writer.write(pack(batch), watch.take(batch))
    writer.close()
    return str(path)


def saw() -> Story:
    """Pages of a directory come, reclaim takes them, and 0, 10, 4, 12 and 2 guest pages are mapped."""
    story = Story()
    for number, mapped in enumerate((0, 10, 4, 12, 2)):
        story.mapped = mapped
        story.alloc(10 + number, level=2)
        story.alloc(30 + number)
        story.link(10 + number, 0, 30 + number)
        story.reclaim()
        story.zap(10 + number, level=2)
    return story


def whole(path: str) -> VmSnapshot:
    """The only VM with pages, by a watch that is fed in one go."""
    with reading(path) as reader:
        watch = Watch(reader.facts, reader.name_of)
        for batch in reader.batches():
            watch.take(batch)
    return next(vm for vm in watch.snapshot().vms if vm.allocations)


@pytest.mark.parametrize("name", CAPTURES)
@pytest.mark.parametrize("bins", [1, 7, 300])
def test_bins_add_up_to_what_the_whole_replay_counts(name: str, bins: int) -> None:
    """Zaps by cause, by reclaim, recently parented and by position: cut into slices, nothing is lost or doubled."""
    series, vm = read(str(CAPTURES[name]), bins=bins), whole(str(CAPTURES[name]))
    for cause in {cause for _, cause in vm.zaps}:
        assert sum(series.zaps[cause]) == sum(zaps for (_, why), zaps in vm.zaps.items() if why == cause)
    directories = sum(zaps for (level, cause), zaps in vm.zaps.items() if level > 1 and cause in RECLAIM)
    assert sum(series.directories) == directories > 100
    assert sum(series.recent) == sum(vm.recently_parented_zaps.values())
    assert sum(map(sum, series.positions)) == sum(sum(each.counts) for each in vm.zap_position.values()) > 1000
    for limited in vm.limited:
        assert sum(series.limited[limited.times]) == limited.likely
    assert sum(series.limited[1.0]) > 1000 > sum(series.limited[3.0])
    lengths = {len(series.low), len(series.high), len(series.directories), len(series.positions)}
    assert lengths == {bins} == {len(counts) for counts in series.pages.values()} | {bins}


def reclaims(path: str, kvm: int) -> list[tuple[float, int, int]]:
    """By a slow and obvious tree: when each reclaim was, and how many tables its root led to before and after it."""
    found: list[tuple[float, int, int]] = []
    tree, first_ns, before = InReach(), 0, None
    with reading(path) as reader:
        levels = RoleLayout(reader.facts.role).levels
        events = (Event._make(each) for batch in reader.batches() for each in decode(batch.records)[0])
        for event in (each for each in events if each.kvm == kvm):
            first_ns = first_ns or event.ns
            if before is not None and event.kind != Kind.ZAP:
                found[-1] = (*found[-1][:2], tree.tables())
                before = None
            if event.kind == Kind.RECLAIM:
                before = tree.tables()
                found.append(((event.ns - first_ns) / 1e9, before, before))
            tree.take(event, levels)
    return found


@pytest.mark.parametrize("name", ["stock", "parents"])
@pytest.mark.parametrize("bins", [1, 300])
def test_crests_and_troughs_are_those_of_the_first_reclaim_in_each_bin(name: str, bins: int) -> None:
    """As a second tree has them, which is walked from the root down each time."""
    path = str(CAPTURES[name])
    series = read(path, bins=bins)
    first: dict[int, tuple[int, int]] = {}
    for seconds, before, after in reclaims(path, series.vm.kvm):
        first.setdefault(min(bins - 1, int(seconds / series.width)), (before, after))
    assert {bin_: (series.crests[bin_], series.troughs[bin_]) for bin_ in first} == first
    assert series.fall == pytest.approx(sum(before - after for before, after in first.values()) / len(first))


def test_moving_parents_up_keeps_tables_in_reach() -> None:
    """In stock order a reclaim takes a root or its only directory along, and the guest has nothing left."""
    stock, parents = (read(str(CAPTURES[name])) for name in ("stock", "parents"))
    assert stock.fall > 1.2 * parents.fall
    assert stock.troughs[20:200].count(0) > 10
    assert min(parents.troughs[20:200]) > 20


def test_extremes_are_those_of_the_events(tmp_path: Path) -> None:
    """However few the bins, the lowest and the highest figure is kept; empty bins carry the last one on."""
    path = write(tmp_path / "a.capture", saw().events)
    one = read(path, bins=1)
    assert (one.low, one.high) == ((0,), (12,))
    many = read(path, bins=1000)
    assert set(many.low) == {0, 10, 4, 12, 2}
    assert many.low == many.high
    assert many.seconds == pytest.approx(0.024)


def test_pages_are_those_at_the_end_of_each_bin(tmp_path: Path) -> None:
    """One more table stays with each round, as an orphan; the directories are gone."""
    series = read(write(tmp_path / "a.capture", saw().events), bins=5)
    assert series.pages[1] == (1, 2, 3, 4, 5)
    assert series.orphans == (1, 2, 3, 4, 5)
    assert series.directories == (1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("values", "amplitude", "turns"),
    [
        ((), 0.0, 0),
        ((5, 5, 5), 0.0, 0),
        ((0, 1, 2, 9), 0.0, 0),
        ((0, 10, 4, 12, 2), (10 + 6 + 8) / 3, 3),
        ((0, 3, 6, 2, 5, 5, 1), (6 + 4 + 3) / 3, 3),
    ],
)
def test_a_saw_tooth_is_measured(values: tuple[int, ...], amplitude: float, turns: int) -> None:
    """By hand: the mean of the ways from extreme to extreme, and how often the direction changes."""
    tooth = SawTooth()
    for value in values:
        tooth.take(value)
    assert tooth.amplitude == pytest.approx(amplitude)
    assert tooth.turns == turns


def test_a_kernel_that_does_not_count_mapped_pages_has_none(tmp_path: Path) -> None:
    """None is not 0."""
    story = saw()
    events = [event._replace(mapped=UNCOUNTED) for event in story.events]
    series = read(write(tmp_path / "a.capture", events), bins=4)
    assert series.low == series.high == (None,) * 4
    assert series.turns == 0


def test_a_vm_that_ended_long_before_is_still_drawn(tmp_path: Path) -> None:
    """The daemon forgets it after five minutes, a capture does not; and other VMs do not mix in."""
    first, second = saw(), Story(kvm=0x2000, pid=20)
    first.destroy()
    second.ns = 10**13
    second.mapped = 999
    second.alloc(1)
    path = write(tmp_path / "a.capture", first.events, second.events)
    with pytest.raises(
        ShadowwatchError, match=r"more than one VM with shadow pages; choose with --vm from web .*web-20"
    ):
        read(path)
    series = read(path, "4711", bins=10)
    assert max(high for high in series.high if high is not None) == 12
    assert series.vm.ended
    assert {sum(counts) for counts in series.zaps.values()} == {5}


@pytest.mark.parametrize("pid", [4711, 20])
@pytest.mark.parametrize("together", [False, True])
def test_a_vm_at_the_address_of_one_that_ended_is_drawn_by_itself(pid: int, together: bool, tmp_path: Path) -> None:
    """As one that is started again, in the same process or another; each has its own events and time."""
    first, second = saw(), saw()
    first.destroy()
    second.mapped = 999
    second.alloc(1)
    shift = 10**12
    later = [event._replace(ns=event.ns + shift, pid=pid) for event in second.events]
    parts = [first.events + later] if together else [first.events, later]
    path = write(tmp_path / "a.capture", *parts)
    alone = read(write(tmp_path / "b.capture", first.events), bins=10)
    old, new = read(path, "web", bins=10), read(path, f"web-{pid}", bins=10)
    assert (old.seconds, old.fall, old.turns) == (alone.seconds, alone.fall, alone.turns)
    assert (old.low, old.high, old.zaps, old.pages) == (alone.low, alone.high, alone.zaps, alone.pages)
    assert new.seconds == pytest.approx(0.025)
    assert (new.fall, new.high[-1], old.vm.ended, new.vm.ended) == (alone.fall, 999, True, False)


def test_very_many_vms_are_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that the model has forgotten are left out, and the last of an address is found all the same."""
    monkeypatch.setattr(model, "KEEP_MOST", 3)
    monkeypatch.setattr("shadowwatch.capture.series._MOST_SPANS", 8)
    parts = []
    for number in range(30):
        story = Story(pid=100 + number)
        story.ns = 10**9 + number * 10**9
        story.mapped = number
        story.alloc(1)
        story.destroy()
        parts.append(story.events)
    path = write(tmp_path / "a.capture", *parts)
    assert read(path, "129", bins=1).high == (29,)
    assert read(path, "128", bins=1).high == (28,)


def test_a_cut_capture_is_read_to_the_cut(tmp_path: Path) -> None:
    """What there is, and the sentence about the rest."""
    path = tmp_path / "a.capture"
    write(path, saw().events)
    path.write_bytes(path.read_bytes()[:-1])
    series = read(str(path))
    assert sum(series.directories) == 5
    assert series.fault is not None
    assert "is cut off after 25 events" in series.fault


def test_the_kinds_that_tell_mapped_pages_are_those_of_the_model() -> None:
    """Links and zaps carry no figure: their 0 is not a trough."""
    told = {event.kind for event in saw().events if event.mapped}
    assert told == {Kind.ALLOC, Kind.RECLAIM}
    assert read(str(CAPTURES["stock"]), bins=50).low[10] != 0


def test_moving_parents_up_leaves_next_to_no_orphans() -> None:
    """In stock order a directory goes before its tables, and these stay on the list, out of any root's reach."""
    stock, parents = read(str(CAPTURES["stock"])), read(str(CAPTURES["parents"]))
    assert sum(stock.orphans) / len(stock.orphans) > 10
    assert sum(parents.orphans) / len(parents.orphans) < 1


@pytest.mark.soak
def test_a_thousand_other_vms_cost_little(tmp_path: Path) -> None:
    """Only the VM that is asked for is frozen at the end of each bin: all of them take fifteen times as long."""
    seconds = {}
    for idle in (2, 998):
        path = str(lively.capture(tmp_path / f"{idle}", idle))
        best = 60.0
        for _ in range(3):
            begun = time.process_time()
            assert sum(read(path, "web1").recent) == 473
            best = min(best, time.process_time() - begun)
        seconds[idle] = best
    assert seconds[998] < 8 * seconds[2]
