# SPDX-License-Identifier: Apache-2.0
"""The daemon's loop with other parts: time that passes when it sleeps, a kernel that holds lists, signals on demand."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shadowwatch.capture.format import reading
from shadowwatch.capture.recording import Recording
from shadowwatch.daemon.loop import PERIOD_SECONDS, Loop, Parts
from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import Batch
from shadowwatch.event.ring import Ring
from shadowwatch.metrics.text import exposition
from shadowwatch.start.handover import RELOAD_SIGNAL, STOP_SIGNALS, Handover
from shadowwatch.watch import Watch
from tests.unit.heard import KVM, grown, spt
from tests.unit.kernel import Kernel, facts, role_of

HANDOVER = Handover(ring=-1, ring_size=0, counters=-1, requests=-1, facts=facts().to_json(), listen="")


class KernelRing(Ring):
    """The ring that the fake kernel fills."""

    def __init__(self, host: Host) -> None:
        self.looks = 1
        self.steps = 1000
        self._host = host

    def look(self) -> Batch:
        """All that is in it."""
        ring = self._host.kernel.ring
        return Batch(self._host.now_ns, ring.lost, 0, ring.take(), self._host.missed)


class Host:
    """What a loop runs on, and when it is there."""

    def __init__(self) -> None:
        self.kernel = Kernel()
        self.now_ns = 10**9
        self.signals: list[int] = []
        self.kvm = True
        self.missed = 0
        self.confined = False

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.now_ns += int(seconds * 1e9)

    def confine(self) -> None:
        """Note that it is done."""
        self.confined = True

    def loop(self, handover: Handover = HANDOVER) -> Loop:
        """One that is ready."""
        parts = Parts(
            ring=KernelRing(self),
            requests=self.kernel,
            clock=lambda: self.now_ns,
            sleep=self.sleep,
            signal=lambda: self.signals.pop() if self.signals else None,
            kvm_is_loaded=lambda: self.kvm,
            name_of=lambda pid: f"vm{pid}",
            confine=self.confine,
        )
        return Loop(handover, parts)


def test_it_ends_when_its_time_is_over() -> None:
    """By its clock, after as many turns as there are periods in it."""
    host = Host()
    loop = host.loop(replace(HANDOVER, seconds=10 * PERIOD_SECONDS))
    assert host.confined
    turns = 0
    while loop.turn():
        turns += 1
    assert turns == 10
    assert loop.end()


@pytest.mark.parametrize("number", [*STOP_SIGNALS, RELOAD_SIGNAL])
def test_a_signal_ends_it(number: int) -> None:
    """That for a reload, too, where there are no settings to read again."""
    host = Host()
    loop = host.loop()
    assert loop.turn()
    host.signals.append(number)
    assert not loop.turn()


def test_it_ends_with_the_kvm_module() -> None:
    """Nothing comes any more, and who waits for figures must hear that."""
    host = Host()
    loop = host.loop()
    assert loop.turn()
    host.kvm = False
    with pytest.raises(ShadowwatchError, match="the kvm module was unloaded, and the probes with it; start"):
        loop.turn()


def metrics(host: Host, lost: bool) -> str:
    """What it counts at its end, of a VM that grew while it ran, with an event lost or not."""
    descriptor = os.memfd_create("metrics")
    loop = host.loop(replace(HANDOVER, metrics=os.dup(descriptor)))
    vm = host.kernel.add(KVM, 7)
    grown(vm)
    assert loop.turn()
    host.kernel.ring.full = lambda: lost
    vm.zap(spt(12))
    host.kernel.ring.full = lambda: False
    vm.alloc(spt(20), 20, role_of(1))
    for _ in range(3):
        assert loop.turn()
    loop.end()
    return os.pread(descriptor, 1 << 20, 0).decode()


@pytest.mark.parametrize("lost", [False, True])
def test_a_loss_is_made_good_by_the_next_turns(lost: bool) -> None:
    """The list is walked, and the VM is exact again."""
    host = Host()
    text = metrics(host, lost)
    assert 'shadowwatch_vm_exact{vm="vm7"} 1\n' in text
    assert f'shadowwatch_vm_events_lost_total{{vm="vm7"}} {int(lost)}\n' in text
    assert (("walk", KVM) in host.kernel.asked) == lost


def test_audits_end_it_when_they_are_over(capsys: pytest.CaptureFixture[str]) -> None:
    """As many as were asked for, an interval apart; the table says what came of them."""
    host = Host()
    grown(host.kernel.add(KVM, 7))
    loop = host.loop(replace(HANDOVER, audits=2, audit_seconds=1.0))
    begun = host.now_ns
    while loop.turn():
        assert host.now_ns < begun + 10 * 10**9
    assert 2.0 <= (host.now_ns - begun) / 1e9 < 3.0
    capsys.readouterr()
    assert loop.end()
    assert capsys.readouterr().out.splitlines()[-1].split()[:5] == ["vm7", "5", "2", "10", "0"]


def test_probes_that_were_missed_are_recorded_though_nothing_came(tmp_path: Path) -> None:
    """The batch that tells of them is one to keep: the walk that follows is in a later one; what a person hears."""
    host = Host()
    path = tmp_path / "a.capture"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    loop = host.loop(replace(HANDOVER, captures=((descriptor, str(path)),)))
    grown(host.kernel.add(KVM, 7))
    for _ in range(3):
        assert loop.turn()
    host.missed = 2
    host.kernel.asked.clear()
    for _ in range(3):
        assert loop.turn()
    assert host.kernel.asked == [("vms", 0), ("walk", KVM)]
    live = exposition(loop._watch)
    loop.end()
    with reading(str(path)) as reader:
        watch = Watch(reader.facts, reader.name_of)
        for batch in reader.batches():
            watch.take(batch)
    assert exposition(watch) == live
    assert b'shadowwatch_events_lost_total{reason="probe_missed"} 2\n' in live
    assert b'shadowwatch_vm_exact{vm="vm7"} 1\n' in live
    assert b'shadowwatch_vm_resyncs_total{vm="vm7"} 1\n' in live


def test_a_recording_begins_although_nothing_comes(tmp_path: Path) -> None:
    """Whoever asks for one on a quiet host finds a file that can be read."""
    host = Host()
    loop = host.loop()
    for _ in range(3):
        assert loop.turn()
    path = str(tmp_path / "a.capture")
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    loop._collection.record(Recording([(file, path)], facts(), None, loop._watch.names))
    assert loop.turn()
    with reading(path) as reader:
        assert reader.facts == facts()
    os.close(file)


def test_vms_are_looked_at_when_events_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at each look: a thousand VMs that rest cost the daemon nothing."""
    looked: list[int] = []

    def question(watch: Watch) -> tuple[str, ...]:
        looked.append(watch.received)
        return ()

    for name in ("oversize", "newest_first"):
        monkeypatch.setattr(Watch, name, question)
    host = Host()
    loop = host.loop()
    grown(host.kernel.add(KVM, 7))
    for _ in range(50):
        assert loop.turn()
    assert looked == [loop._watch.received] * 2
    assert looked[0] > 0


def test_a_person_hears_once_of_probes_that_were_missed(capsys: pytest.CaptureFixture[str]) -> None:
    """And of nothing else, for no ring was full."""
    host = Host()
    loop = host.loop()
    for host.missed in (0, 1, 2):
        assert loop.turn()
    said = capsys.readouterr().out
    assert said.count("the kernel passed probes over") == 1
    assert "events were lost" not in said
