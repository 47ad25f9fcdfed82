# SPDX-License-Identifier: Apache-2.0
"""The kernel that unit tests imagine makes the records that bpf/mmu.bpf.c makes of the same story."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowwatch.capture.format import reading
from shadowwatch.event.abi import Event, Flags, Kind, decode
from tests.kernel.watched import Watched
from tests.lab.workload import Vmm, Workload
from tests.unit.kernel import KernelVm, Page, Place, Ring

ROOT_LEVEL = 4
#: Of a numbered event, what the imagined kernel has to make again.
FIELDS = ("kind", "spt", "parent_pte", "gfn", "seq")


class Twin:
    """An imagined VM that does what a real one did, from when its list was read at rest."""

    def __init__(self) -> None:
        self.vm: KernelVm | None = None
        self._first: list[Event] = []
        self._place = Place()
        #: Roots that were zapped in use: they left the list, and are zapped again when they are free.
        self._roots: set[int] = set()
        #: How much was made again and was the same.
        self.same = {"events": 0, "steps": 0, "writes": 0}

    def follow(self, events: Iterator[Event]) -> None:
        """Do again what each event tells, and compare the record that this makes with the real one."""
        for event in events:
            if event.kind == Kind.STEP:
                self._step(event, [next(events) for _ in range(event.used)])
            elif self.vm and event.kind == Kind.WRITE:
                self.vm.write(event.gfn)
                self.same["writes"] += 1
            elif self.vm:
                self._again(self.vm, event)

    def _born(self, step: Event) -> KernelVm:
        """The VM as a whole walk told it."""
        vm = KernelVm(Ring(), step.kvm, step.pid, patched=True, limit=step.limit)
        vm.seq = step.seq
        vm.stat, vm.before = [step.spt, step.parent_pte, step.gfn], [0, 0, 0]
        for told in self._first:
            if told.kind == Kind.PAGE:
                vm.order.insert(0, told.spt)
                vm.pages[told.spt] = Page(told.spt, told.gfn, told.role)
            if told.parent_pte:
                vm.edges[told.parent_pte] = told.spt
        return vm

    def _step(self, step: Event, told: list[Event]) -> None:
        flags = Flags(step.flags)
        if flags & Flags.VOID:
            self._first, self._place = [], Place()
        elif self.vm is None:
            self._first = [*([] if flags & Flags.FIRST else self._first), *told]
            if flags & Flags.LAST:
                self.vm = self._born(step)
        else:
            if flags & Flags.FIRST:
                self._place = Place(self.vm.oldest())
            if self._place.next is None:  # of a walk that began before
                return
            fresh = len(self.vm.ring.events)
            self.vm.step(step.walk, self._place, flags & Flags.FIRST)
            mine, *records = self.vm.ring.events[fresh:]
            assert (mine.flags, mine.used, mine.seq) == (step.flags, step.used, step.seq)
            assert (mine.spt, mine.parent_pte) == (step.spt, step.parent_pte)  # allocated, zapped
            assert sorted(map(_of_a_walk, records)) == sorted(map(_of_a_walk, told))
            self.same["steps"] += 1

    def _again(self, vm: KernelVm, event: Event) -> None:
        fresh = len(vm.ring.events)
        match Kind(event.kind):
            case Kind.ALLOC:
                self._roots.discard(event.spt)
                vm.limit = event.limit
                vm.alloc(event.spt, event.gfn, event.role)
            case Kind.LINK:
                vm.link(event.parent_pte, event.spt)
            case Kind.UNLINK:
                vm.unlink(event.parent_pte)
            case Kind.MOVE:
                vm.move(event.spt)
            case Kind.ZAP if event.spt in self._roots:
                self._roots.remove(event.spt)
                vm.seq += 1
                vm.stat[1] += 1
                assert vm.seq == event.seq
                return
            case Kind.ZAP:
                if vm.pages[event.spt].level == ROOT_LEVEL:
                    self._roots.add(event.spt)
                vm.zap(event.spt)
            case Kind.RECLAIM:
                vm.reclaim()
            case Kind.FLUSH:
                vm.flush()
        (mine,) = vm.ring.events[fresh:]
        # An allocation's parent is told by the link that follows, too, which is what counts here.
        ours, real = ([getattr(each._replace(parent_pte=0), name) for name in FIELDS] for each in (mine, event))
        assert ours == real
        if event.kind == Kind.ALLOC:
            assert mine.used == event.used
        self.same["events"] += 1


def _of_a_walk(event: Event) -> tuple[int, ...]:
    return event.kind, event.spt, event.parent_pte, event.gfn, event.role, event.flags, event.walk


def events_of(path: Path, pid: int) -> Iterator[Event]:
    """The events of one process' VM in a capture; a page that a walk tells has no pid."""
    ours = set()
    with reading(str(path)) as reader:
        for batch in reader.batches():
            for event in (Event(*fields) for fields in decode(batch.records)[0]):
                if event.pid == pid:
                    ours.add(event.kvm)
                if event.kvm in ours and event.kind != Kind.VM:
                    yield event


@pytest.mark.parametrize("policy", ["stock", "parents"])
def test_the_imagined_kernel_makes_the_real_ones_records(patched: Watched, tmp_path: Path, policy: str) -> None:
    """Each event of a guest that thrashes, writes its tables and loses a memory slot, and each step of audits."""
    lab = patched.lab
    lab.policy("parents" if policy == "parents" else "stock")
    vm = f"imagined-{policy}"
    with Vmm(lab, Workload(vm, accesses=2_000)) as vmm:
        at_rest = vmm.finished()
        patched.settled(vm, at_rest.counters["mmu_cache_miss"])
        recorder = lab.popen(f"exec shadowwatch record /srv/out/{vm}.capture", stderr=subprocess.STDOUT)
        assert recorder.stdout
        assert "recording to" in recorder.stdout.readline()
        for command in ("run", "write 3", "unsync", "run", "memslot", "run"):
            counters = vmm.do(command).counters
            patched.settled(vm, counters["mmu_cache_miss"])
        lab.run("pkill -INT -f 'shadowwatch record'")
        recorder.communicate(timeout=60)
    twin = Twin()
    twin.follow(events_of(lab.out / f"{vm}.capture", at_rest.pid))
    assert twin.same["events"] > 3_000
    assert twin.same["steps"] > 3
    assert twin.same["writes"] > 0
