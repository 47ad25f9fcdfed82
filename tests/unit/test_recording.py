# SPDX-License-Identifier: Apache-2.0
"""Recordings: their limits, and files that are written in turn, each of which can be replayed by itself."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shadowwatch.capture.format import Writer, pack, reading
from shadowwatch.capture.recording import KEPT_NS, Recording
from shadowwatch.capture.replay import Replay
from shadowwatch.capture.series import read
from shadowwatch.event.abi import RECORD, Batch, Event, Kind
from shadowwatch.simulate.simulator import Simulator
from shadowwatch.snapshot import VmSnapshot
from shadowwatch.watch import Watch
from tests.unit.kernel import Kernel, facts, role_of
from tests.unit.story import Story

KVM = 0x1000
MOST = 20_000


class Run:
    """A VM that lives on, and a recording of it that is fed as the daemon's loop does."""

    def __init__(self, folder: Path, files: int, most: int | None, midway: bool = False) -> None:
        self.paths = [str(folder / str(number)) for number in range(files)]
        self.kernel = Kernel()
        self.vm = self.kernel.add(KVM, pid=31)
        self.watch = Watch(facts(), {31: "web1"}.__getitem__)
        opened = [(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644), path) for path in self.paths]
        self.recording = Recording(opened, replace(facts(), midway=midway), most, self.watch.names)
        self.page = 0
        self.walks = 0
        self.lost = 0
        self.missed = 0

    def hear(self) -> None:
        """One look at the ring."""
        self.page += 1
        batch = Batch(10**9 + self.page, self.lost, self.lost, self.kernel.ring.take())
        self.recording.write(pack(batch), self.watch.take(batch))

    def live(self) -> None:
        """Two pages come, the oldest goes, and whoever wants a walk gets it."""
        for _ in range(40):
            self.page += 1
            self.vm.alloc(Story.spt(self.page), self.page, role_of(1))
            while len(self.vm.order) > 30:
                self.vm.reclaim(1)
        if self.recording.begins:
            self.recording.begins = False
            self.walks += 1
            self.kernel.walk(KVM, self.walks, True)
        batch = Batch(10**9 + self.page, self.lost, 0, self.kernel.ring.take(), self.missed)
        self.recording.write(pack(batch), self.watch.take(batch))
        if self.recording.over:
            self.recording.close()

    def replayed(self, path: str) -> VmSnapshot:
        """The one VM of a file."""
        with reading(path) as reader:
            watch = Watch(reader.facts, reader.name_of)
            for batch in reader.batches():
                watch.take(batch)
        (vm,) = watch.snapshot().vms
        return vm


def misses(path: str) -> list[int]:
    """How often probes had been missed with each batch of a file, each figure once."""
    with reading(path) as reader:
        return sorted({batch.missed for batch in reader.batches()})


@pytest.mark.parametrize("midway", [False, True])
def test_probes_that_were_missed_are_told(midway: bool, tmp_path: Path) -> None:
    """A replay is the run again: the list is not known from the same batch on, until the walk that followed.

    Those before a recording that began in the middle of a run are not its own, and each further file begins at 0.
    """
    run = Run(tmp_path, 2, None, midway)
    run.missed = 5 if midway else 0
    run.watch.take(Batch(10**9, 0, 0, b"", run.missed))
    run.live()
    assert run.watch.snapshot().vms[0].exact
    run.missed += 3
    run.live()
    live = run.watch.snapshot()
    assert not live.vms[0].exact
    run.recording._most = 1
    run.recording.begins = True
    run.live()
    run.recording._most = None
    run.live()
    run.missed += 4
    run.live()
    run.recording.stop()
    run.live()
    assert misses(run.paths[0]) == [0, 3]
    assert misses(run.paths[1]) == [0, 4]
    with reading(run.paths[0]) as reader:
        watch = Watch(reader.facts, reader.name_of)
        states = []
        for batch in reader.batches():
            watch.take(batch)
            states.append((watch.missed, watch.snapshot().vms[0].exact))
    assert states == [(0, True), (3, False), (3, True)]


def test_what_is_recorded_is_in_the_file_soon(tmp_path: Path) -> None:
    """Before it ends, so that a daemon that is killed loses no more than a second of it."""
    run = Run(tmp_path, 1, None)

    def events() -> int:
        with reading(run.paths[0]) as reader:
            return sum(len(batch.records) // RECORD.size for batch in reader.whole_batches())

    run.hear()
    assert events() == 0
    run.page += KEPT_NS
    run.live()
    first = run.recording.progress().records
    assert events() == first > 0
    run.live()
    assert events() == first
    run.hear()
    second = run.recording.progress().records
    assert events() == second > first
    run.page += KEPT_NS
    run.live()
    assert events() == run.recording.progress().records > second


def test_a_file_of_the_size_asked_for_ends_the_recording(tmp_path: Path) -> None:
    """It is whole, has that size and one look more, and no further event."""
    run = Run(tmp_path, 1, MOST)
    while not run.recording.ended.is_set():
        run.live()
    told = run.recording.progress()
    run.live()
    assert run.recording.progress() == told
    size = os.path.getsize(run.paths[0])
    assert MOST <= size < 1.2 * MOST
    assert size - 100 < told.size <= size
    assert run.replayed(run.paths[0]).allocations[1] == run.page - 40


def test_files_are_filled_in_turn_and_the_oldest_is_overwritten(tmp_path: Path) -> None:
    """Together they take no more room than asked for, and hold the last events in one piece."""
    run = Run(tmp_path, 3, MOST)
    while run.walks < 7:
        run.live()
    run.live()
    run.recording.stop()
    run.live()
    assert run.recording.progress().path == run.paths[1]
    assert all(os.path.getsize(path) < 1.2 * MOST for path in run.paths)
    files = [run.replayed(run.paths[turn]) for turn in (2, 0, 1)]
    for vm in files:
        assert (vm.name, vm.lost, vm.exact, vm.unknown_pages) == ("web1", 0, True, {})
    live = run.watch.snapshot().vms[0]
    assert files[-1].pages == live.pages
    assert 0 < sum(vm.allocations[1] for vm in files) < live.allocations[1]
    assert run.recording.progress().records > sum(vm.allocations[1] + sum(vm.zaps.values()) for vm in files)


@pytest.mark.parametrize("files", [1, 3])
def test_without_a_limit_nothing_is_ended_or_overwritten(files: int, tmp_path: Path) -> None:
    """Until it is told to stop."""
    run = Run(tmp_path, files, None)
    for _ in range(200):
        run.live()
    assert not run.recording.over
    run.recording.stop()
    run.live()
    assert run.recording.ended.is_set()
    vm = run.replayed(run.paths[0])
    assert (vm.allocations[1], vm.lost) == (run.page, 0)


@pytest.mark.parametrize("kind", [Kind.WRITE, Kind.FLUSH, Kind.VM, Kind.STEP])
@pytest.mark.parametrize("files", [1, 2])
def test_what_has_no_number_begins_no_numbers(kind: Kind, files: int, tmp_path: Path) -> None:
    """A file that begins in the middle of a run claims no loss, whatever it hears first of a VM; nor do further files.

    Neither the kernel's counters nor gaps tell of one, also in the simulator; a gap that follows is one.
    """
    run = Run(tmp_path, files, 1 if files > 1 else None, midway=files == 1)
    run.lost = 77
    for page in range(1, 30):
        run.vm.alloc(Story.spt(page), page, role_of(1))
    if files == 1:
        run.watch.take(Batch(10**9, run.lost, run.lost, run.kernel.ring.take()))
    else:
        run.hear()
    first = Event(kvm=KVM, ns=10**9, pid=31, kind=kind, walk=1, seq=run.vm.seq if kind == Kind.STEP else 0)
    run.kernel.ring.events.append(first)
    run.vm.alloc(Story.spt(30), 30, role_of(1))
    run.recording._most = None
    run.hear()
    run.recording.stop()
    run.recording.close()
    with reading(run.paths[-1]) as reader:
        assert reader.facts.midway
        watch, simulator = Watch(reader.facts, reader.name_of), Simulator(reader.facts, "stock")
        for batch in reader.batches():
            watch.take(batch)
            simulator.feed(batch.records)
    now = watch.snapshot()
    assert (now.vms[0].lost, now.lost, now.untracked, now.vms[0].allocations) == (0, 0, 0, {1: 1})
    assert simulator.living()[0].seq == run.vm.seq
    run.vm.seq += 5
    run.vm.alloc(Story.spt(31), 31, role_of(1))
    watch.take(Batch(10**10, 0, 0, run.kernel.ring.take()))
    assert watch.snapshot().vms[0].lost == 5


def test_a_part_of_a_batch_is_from_before_probes_were_missed(tmp_path: Path) -> None:
    """To go to the middle of it, or to cut it into bins, does not make of the walk that follows there one for later."""
    path, kernel, watch = str(tmp_path / "a"), Kernel(), Watch(facts(), str)
    vm = kernel.add(KVM, pid=31)
    with open(path, "wb") as file:
        writer = Writer(file, path, facts())
        for missed in range(2):
            for page in range(20 * missed, 20 * missed + 20):
                vm.alloc(Story.spt(page), page, role_of(1))
            kernel.walk(KVM, missed + 1, True)
            batch = Batch(10**9 + len(kernel.ring.events), 0, 0, kernel.ring.take(), missed)
            writer.write(pack(batch), watch.take(batch))
        writer.close()
    live = watch.snapshot().vms
    assert not live[0].exact
    with reading(path) as reader:
        replay = Replay(reader)
        replay.seek(replay.length / 2)
        assert replay.snapshot().vms[0].exact
        replay.seek(replay.length)
        assert replay.snapshot().vms == live
    pages = read(path, bins=20).pages[1]
    assert max(pages) > 20
    assert pages[-1] == 0
