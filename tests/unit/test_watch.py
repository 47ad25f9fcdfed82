# SPDX-License-Identifier: Apache-2.0
"""Names of VMs, as people and Prometheus are shown them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shadowwatch.control.wire import dumps, loads
from shadowwatch.event.abi import Batch
from shadowwatch.metrics.text import exposition
from shadowwatch.snapshot import Snapshot
from shadowwatch.watch import Watch
from tests.unit.story import FACTS, Story


def named(*names: str) -> list[str]:
    """The names that VMs get whose processes call them so."""
    watch = Watch(FACTS, lambda pid: names[pid])
    for number in range(len(names)):
        story = Story(kvm=0x1000 * (number + 1), pid=number)
        story.alloc(1)
        watch.take(Batch(story.ns, 0, 0, story.records()))
    return [vm.name for vm in watch.snapshot().vms]


def test_two_vms_of_one_name_are_told_apart() -> None:
    """The later one gets its pid, since both would be one time series."""
    assert named("web", "web", "db") == ["web", "web-1", "db"]


class Host:
    """VMs that come and go, each at an address and with a process of its own."""

    def __init__(self, what_if: tuple[str, ...] = ()) -> None:
        self.watch = Watch(FACTS, self._called.__getitem__, what_if)

    _called: dict[int, str] = {}  # noqa: RUF012 - of all hosts, which costs nothing
    ns = 10**9

    def start(self, pid: int, name: str, pages: int = 1) -> Story:
        """A VM of this name has allocated so many pages."""
        self._called[pid] = name
        story = Story(kvm=0x1000 * pid, pid=pid)
        self.batch(story, *(lambda page=page: story.alloc(page) for page in range(1, pages + 1)))
        return story

    def batch(self, story: Story, *events: Callable[[], None]) -> None:
        """These happen, a second after what was before, and are seen at once."""
        self.ns += 10**9
        story.ns = self.ns
        story.events.clear()
        for event in events:
            event()
        self.watch.take(Batch(story.ns, 0, 0, story.records()))

    def names(self) -> list[tuple[str, int]]:
        """Who is exported, under which name."""
        return [(vm.name, vm.pid) for vm in self.watch.snapshot().vms]


def test_a_vm_that_starts_again_has_its_name_again() -> None:
    """However often, and however soon: the series goes on, with counters that begin again at 0, and one VM has it."""
    host = Host()
    for pid in range(11, 16):
        vm = host.start(pid, "web1", pages=20 - pid)
        assert host.names() == [("web1", pid)]
        lines = exposition(host.watch).decode().splitlines()
        assert f'shadowwatch_allocations_total{{vm="web1",level="1"}} {20 - pid}' in lines
        assert len({line.rpartition(" ")[0] for line in lines}) == len(lines)
        host.batch(vm, vm.destroy)
        assert host.names() == [("web1", pid)]  # until another one comes, or five minutes have gone by


def test_a_name_is_for_the_living() -> None:
    """Two of them at once are told apart for as long as they live, and the third has the name that the first left."""
    host = Host()
    first = host.start(11, "web1")
    host.start(12, "web1")
    assert host.names() == [("web1", 11), ("web1-12", 12)]
    host.batch(first, first.destroy)
    host.start(13, "web1")
    host.start(14, "web1")
    assert host.names() == [("web1-12", 12), ("web1", 13), ("web1-14", 14)]


def test_vms_that_come_and_go_between_two_looks_share_a_name_in_turn() -> None:
    """Of those in one batch the last is kept."""
    host = Host()
    records = b""
    for pid in (21, 22, 23):
        host._called[pid] = "job"
        story = Story(kvm=0x1000 * pid, pid=pid)
        story.alloc(1)
        if pid != 23:
            story.destroy()
        records += story.records()
    host.watch.take(Batch(10**10, 0, 0, records))
    assert host.names() == [("job", 23)]


def test_names_are_short_and_still_unique() -> None:
    """Whoever may open /dev/kvm chooses one, and each line of a scrape has it; a long one is cut, visibly."""
    host = Host()
    for pid in (31, 32, 33):
        host.start(pid, "x" * 131_072)
    assert host.names() == [("x" * 127 + "…", 31), ("x" * 124 + "…-32", 32), ("x" * 124 + "…-33", 33)]
    assert {len(name) for name, _ in host.names()} == {128}
    assert {len(name) for _, name in host.watch.names()} == {128}
    host.start(34, "y" * 128)
    assert host.names()[-1] == ("y" * 128, 34)
    assert len(exposition(host.watch)) < 200_000


@pytest.mark.parametrize(
    ("called", "name"),
    [("web\x1b[2J", "web?[2J"), ("a\nb", "a?b"), ("\x07", "?"), ("", "0"), ("Büro 2", "Büro 2")],
)
def test_a_name_cannot_steer_a_terminal(called: str, name: str) -> None:
    """It comes from a command line: what is not printable is not sent on, and no name is the pid."""
    assert named(called) == [name]


def test_estimates_are_part_of_a_snapshot_and_cross_the_socket() -> None:
    """Those of the policies that were asked for; what a VM without new events had stays the same object."""
    watch = Watch(FACTS, str, ("parents", "stock"))
    story = Story()
    story.alloc(1, level=2)
    story.alloc(2)
    story.link(1, 0, 2)
    watch.take(Batch(story.ns, 0, 0, story.records()))
    detail = watch.detail("4711")
    assert detail
    (vm,) = watch.snapshot().vms
    assert detail.vm is watch.vm("4711") is vm
    assert list(vm.what_if) == ["parents", "stock"]
    assert {estimate.recorded_faults for estimate in vm.what_if.values()} == {1}
    assert watch.snapshot().vms[0] is vm
    assert loads(Snapshot, dumps(watch.snapshot())).vms == (vm,)
    assert not Watch(FACTS, str).snapshot().vms


def test_a_vm_that_ended_keeps_its_own_estimates() -> None:
    """Also when its process has another at the same address, which has had no page yet."""
    names = iter(("first", "second"))
    watch = Watch(FACTS, lambda _: next(names), ("stock",))
    story = Story()
    story.alloc(1, level=2)
    story.alloc(2)
    story.link(1, 0, 2)
    story.destroy()
    watch.take(Batch(story.ns, 0, 0, story.records()))
    story.events.clear()
    story.seq = 0
    story.reclaim()
    watch.take(Batch(story.ns, 0, 0, story.records()))
    ended, living = watch.snapshot().vms
    assert (ended.what_if["stock"].recorded_faults, living.what_if["stock"].recorded_faults) == (1, 0)


SECOND = 10**9


class Live:
    """A VM whose events are taken from a ring that fills while nobody looks."""

    def __init__(self, live: bool = True) -> None:
        self.now_ns = 10 * SECOND
        self.story = Story()
        self.watch = Watch(FACTS, str, clock=(lambda: self.now_ns) if live else None)
        self.look(self.now_ns)

    def look(self, event_ns: int | None = None) -> None:
        """Take a page that came at that time, or nothing."""
        self.story.events.clear()
        if event_ns:
            self.story.ns = event_ns
            self.story.alloc(self.story.used + 1)
        self.watch.take(Batch(self.now_ns, 0, 0, self.story.records()))

    def exact(self) -> bool:
        """What a snapshot says, and a whole VM, and the metrics, which are one."""
        detail = self.watch.detail("4711")
        assert detail
        (vm,) = self.watch.snapshot().vms
        assert detail.vm.exact == vm.exact
        assert f'shadowwatch_vm_exact{{vm="4711"}} {int(vm.exact)}\n' in exposition(self.watch).decode()
        assert vm.state == ("exact" if vm.exact else "resyncing")
        return vm.exact


def test_what_is_known_to_be_old_is_not_exact() -> None:
    """A daemon that was stopped for half a minute: before its first look, and until it has come to events of now."""
    run = Live()
    assert run.exact()
    run.now_ns += 30 * SECOND
    assert not run.exact()  # an asker may come before the first look
    for behind in (30, 20, 5):
        run.look(run.now_ns - behind * SECOND)
        assert not run.exact()
        assert behind - 1 < run.watch.snapshot().behind_ns / SECOND < behind
    assert run.watch.progress()[run.story.kvm].exact  # nothing was lost, so nothing is to be walked
    run.look(run.now_ns - SECOND // 10)
    assert run.exact()


def test_a_batch_that_comes_to_now_is_exact_however_old_it_begins() -> None:
    """What waited is in the model, and how long it had is said apart."""
    run = Live()
    run.now_ns += 30 * SECOND
    run.story.events.clear()
    for behind in (30, 15, 0.1):
        run.story.ns = run.now_ns - int(behind * SECOND)
        run.story.alloc(run.story.used + 1)
    run.watch.take(Batch(run.now_ns, 0, 0, run.story.records()))
    assert run.exact()
    assert run.watch.snapshot().behind_ns > 29 * SECOND


def test_an_empty_ring_has_nothing_old() -> None:
    """What is taken last is what the kernel has, however old it is."""
    run = Live()
    run.now_ns += 30 * SECOND
    run.look(run.now_ns - 30 * SECOND + 1)
    assert not run.exact()
    run.look()
    assert run.exact()


def test_the_clock_of_a_recording_is_its_batches() -> None:
    """When it is replayed does not matter; that it was behind does, as it did then."""
    run = Live(live=False)
    run.now_ns += 30 * SECOND
    assert run.exact()
    run.look(run.now_ns - 30 * SECOND)
    assert not run.exact()
    assert not run.watch.fork().snapshot().vms[0].exact


def test_a_vm_that_has_ended_stays_as_it_was() -> None:
    """No event of it is to come."""
    run = Live()
    run.story.events.clear()
    run.story.destroy()
    run.watch.take(Batch(run.now_ns, 0, 0, run.story.records()))
    before = run.watch.snapshot().vms
    run.now_ns += 30 * SECOND
    assert run.watch.snapshot().vms == before
    assert before[0].exact
