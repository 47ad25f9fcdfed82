# SPDX-License-Identifier: Apache-2.0
"""What led to a difference, kept in memory and written as a capture: replayed, it shows the same."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import zlib
from functools import cache
from pathlib import Path

import pytest

from shadowwatch.capture.format import FlightRecorder, Reader, pack
from shadowwatch.control.record import create
from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import RECORD, Batch
from shadowwatch.metrics.text import exposition
from shadowwatch.watch import Watch
from tests.unit.kernel import Kernel, facts, role_of
from tests.unit.story import Story

KVM = 0x1000


class Watched:
    """A VM that lives on, a watch and what is remembered, as the daemon has them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kernel = Kernel()
        self.vm = self.kernel.add(KVM, pid=31)
        self.watch = Watch(facts(), {31: "web1"}.__getitem__)
        self.flight = FlightRecorder(create(str(path), keep=True), str(path), facts())
        self.number = 0
        self.page = 0
        self.missed = 0

    def live(self, pages: int) -> None:
        """Directories with two tables each come, and the oldest pages go."""
        for _ in range(pages):
            self.page += 3
            for page, level in ((self.page, 2), (self.page + 1, 1), (self.page + 2, 1)):
                self.vm.alloc(Story.spt(page), page, role_of(level))
                if level == 1:
                    self.vm.link(Story.spt(self.page) + 8 * (page % 3), Story.spt(page))
            while len(self.vm.order) > 30:
                self.vm.reclaim(1)
            self.hear()

    def hear(self) -> None:
        """One look at the ring."""
        batch = Batch(10**9 + self.page, self.kernel.ring.lost, 0, self.kernel.ring.take(), self.missed)
        self.watch.take(batch)
        self.flight.write(pack(batch))

    def audit(self) -> None:
        """One audit, by a walk that is heard."""
        self.flight.mark()
        self.number += 1
        self.kernel.walk(KVM, self.number, True)
        self.hear()

    def astray(self) -> str:
        """An spte goes without an event, an audit finds it, and all is written; what the difference is."""
        del self.vm.edges[max(self.vm.edges)]
        self.audit()
        assert self.watch.difference
        self.flight.keep(self.watch.names())
        return str(self.watch.difference)


def replayed(path: Path) -> Watch:
    """The watch after a replay."""
    with path.open("rb") as file:
        reader = Reader(file, str(path))
        watch = Watch(reader.facts, reader.name_of)
        for batch in reader.batches():
            watch.take(batch)
    return watch


@pytest.mark.parametrize("audits", [1, 2, 3, 7])
def test_what_is_kept_shows_the_same_difference_when_it_is_replayed(audits: int, tmp_path: Path) -> None:
    """From the first audit that is remembered on, whatever came before."""
    watched = Watched(tmp_path / "difference.capture")
    for _ in range(audits):
        watched.live(20)
        watched.audit()
    watched.live(20)
    said = watched.astray()
    assert "VM web1, position " in said
    again = replayed(watched.path)
    assert str(again.difference) == said
    assert exposition(again).count(b'vm="web1"') > 20


def test_a_restart_leaves_the_difference_of_the_time_before(tmp_path: Path) -> None:
    """It is what there is to report; only another difference takes its place, and then the whole of it."""
    path = tmp_path / "difference.capture"
    before = Watched(path)
    before.live(40)
    before.audit()
    before.live(400)
    before.astray()
    content = path.read_bytes()
    after = Watched(path)
    after.live(2)
    after.audit()
    assert path.read_bytes() == content
    said = after.astray()
    assert path.stat().st_size < len(content)
    assert str(replayed(path).difference) == said


def test_probes_that_were_missed_before_do_not_matter(tmp_path: Path) -> None:
    """When all that is kept came after that, a replay has no list to forget for it."""
    watched = Watched(tmp_path / "difference.capture")
    watched.missed = 9
    for _ in range(2):
        watched.live(5)
        watched.audit()
    said = watched.astray()
    again = replayed(watched.path)
    assert (str(again.difference), again.missed) == (said, 0)


def test_what_came_before_the_last_audit_is_not_kept(tmp_path: Path) -> None:
    """The memory is that of two audits and what lies between, however long the daemon has run."""
    short, long = Watched(tmp_path / "short"), Watched(tmp_path / "long")
    for watched, audits in ((short, 2), (long, 40)):
        for _ in range(audits):
            watched.live(5)
            watched.audit()
        watched.live(5)
        watched.astray()
    sizes = [watched.path.stat().st_size for watched in (short, long)]
    assert sizes[1] < 1.5 * sizes[0]
    records = []
    for watched in (short, long):
        with watched.path.open("rb") as file:
            reader = Reader(file, "x")
            records.append(sum(len(batch.records) // RECORD.size for batch in reader.batches()))
    assert records[1] < 1.5 * records[0]


@cache
def noise(seed: int) -> Batch:
    """A batch that does not get smaller."""
    source = random.Random(seed)  # noqa: S311
    return Batch(seed, 0, 0, source.randbytes(240 * RECORD.size))


def kept(flight: FlightRecorder, path: Path) -> list[Batch]:
    """What is written, read back."""
    flight.keep(())
    with path.open("rb") as file:
        return list(Reader(file, str(path)).batches())


def test_memory_is_bounded_without_audits(tmp_path: Path) -> None:
    """The oldest batches go first; what is kept is the newest, whole and in order, and as much as there is room for."""
    flight = Watched(tmp_path / "full").flight
    batches = [noise(number) for number in range(400)]
    sizes = [len(zlib.compress(batch.records, 1)) for batch in batches]
    assert sum(sizes) > 1.9 * FlightRecorder.MOST
    for batch in batches:
        flight.write(pack(batch))
    left = kept(flight, tmp_path / "full")
    assert left == batches[-len(left) :]
    assert sum(sizes[-len(left) :]) <= FlightRecorder.MOST < sum(sizes[-len(left) - 1 :])


def test_an_audit_that_was_dropped_is_not_counted_on(tmp_path: Path) -> None:
    """When the mark of the last audit went with the oldest batches, the next audit drops nothing more."""
    counts = []
    for marks in (0, 1, 2):
        flight = Watched(tmp_path / "x").flight
        flight.mark()
        for number in range(400):
            flight.write(pack(noise(number)))
        for _ in range(marks):
            flight.mark()
            flight.write(pack(Batch(400, 0, 0, b"")))
        counts.append(len(kept(flight, tmp_path / "x")))
    # A batch more, which has room; then only that batch, from the last audit on, and the next.
    assert counts[0] > 100
    assert counts[1] >= counts[0]
    assert counts[2] == 2


def test_a_full_disk_is_one_sentence() -> None:
    """As for any capture."""
    flight = FlightRecorder(os.open("/dev/full", os.O_WRONLY), "/dev/full", facts())
    flight.write(pack(noise(1)))
    with pytest.raises(ShadowwatchError, match="cannot go on writing /dev/full: No space left on device; make room"):
        flight.keep(())


def test_replay_says_the_difference_on_standard_error(tmp_path: Path) -> None:
    """One line, beside the metrics on standard output."""
    watched = Watched(tmp_path / "difference.capture")
    watched.live(20)
    watched.audit()
    said = watched.astray()
    done = subprocess.run(
        [sys.executable, "-m", "shadowwatch", "replay", str(watched.path)], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == f"shadowwatch: an audit found a difference: {said}\n"
    assert done.returncode == 0
    assert 'shadowwatch_vm_audit_entries_total{vm="web1",result="differing"} 1\n' in done.stdout
