# SPDX-License-Identifier: Apache-2.0
"""What live, recorded and replayed events share: batch → model → snapshot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock

from shadowwatch.event.abi import RECORD, Batch, Event
from shadowwatch.event.facts import Facts, Name
from shadowwatch.event.names import clipped, unique
from shadowwatch.mmu.audit import Difference
from shadowwatch.mmu.counts import Miscount
from shadowwatch.mmu.figures import Figures
from shadowwatch.mmu.fork import fork
from shadowwatch.mmu.model import Model, VmProgress
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.simulate.simulator import Simulator
from shadowwatch.snapshot import Estimate, Snapshot, VmDetail, VmSnapshot

#: So many VMs are frozen (some 20 µs each, if they had events, or 80 if the ring was never empty since) before a thread
#: that waits to feed the model may do so.
AT_ONCE, GIVE_WAY_SECONDS = 32, 0.0002

#: A model is not exact while the event that it took last is older than this, or the ring has not been read for so long.
CURRENT_NS = 10**9


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)


def _ns_of(records: bytes, number: int) -> int:
    """When an event happened."""
    return Event(*RECORD.unpack_from(records, number * RECORD.size)).ns


class Watch:
    """The model and its lock: one thread feeds it, others take snapshots.

    `what_if` names the reclaim policies that are simulated beside it. `clock` is that of the batches where these are
    taken from a ring that fills; those of a recording have no other.
    """

    def __init__(
        self,
        facts: Facts,
        name_of: Callable[[int], str],
        what_if: Sequence[str] = (),
        clock: Callable[[], int] | None = None,
    ) -> None:
        self.facts = facts
        self._name_of = name_of
        self._clock = clock
        self._lock = Lock()
        self._model = Model(RoleLayout(facts.role), facts.functions, _ns(facts.recent_seconds), facts.midway)
        self._simulators = [Simulator(facts, policy) for policy in what_if]
        self._last = Batch(0, 0, 0, b"")
        #: How old the oldest event of the last batch was, and the newest one.
        self._behind_ns = self._late_ns = 0

    def set_recent(self, seconds: float | None) -> None:
        """From now on a directory is recently parented for so long, None: for one list-length of allocations.

        A recording that has begun says what was true at its beginning.
        """
        with self._lock:
            self.facts = replace(self.facts, recent_seconds=seconds)
            self._model.set_recent(_ns(seconds))

    def fork(self) -> Watch:
        """A copy that goes its own way from here, without the simulations."""
        with self._lock:
            copy = Watch(self.facts, self._name_of)
            copy._model = fork(self._model)
            copy._last, copy._behind_ns, copy._late_ns = self._last, self._behind_ns, self._late_ns
        return copy

    def take(self, batch: Batch) -> tuple[Name, ...]:
        """Bring the model up to date with a batch, name the VMs that are new in it, and return these names."""
        names = []
        with self._lock:
            model = self._model
            if len(batch.records) >= RECORD.size:
                self._behind_ns = batch.now_ns - _ns_of(batch.records, 0)
                self._late_ns = batch.now_ns - _ns_of(batch.records, len(batch.records) // RECORD.size - 1)
                model.feed(batch.records)
                for simulator in self._simulators:
                    simulator.feed(batch.records)
                for vm in model.unnamed():
                    vm.called = clipped(self._name_of(vm.pid))
                    # One that ended leaves its name to the next: for Prometheus that is a restart, as of any process.
                    # But batches at no time are of a whole recording, and none of its VMs is forgotten.
                    taken = partial(model.taken, ended=not batch.now_ns)
                    model.name(vm, unique(vm.called, vm.pid, taken))
                    names.append((vm.pid, vm.called))
            else:
                self._behind_ns = self._late_ns = 0
                model.rest()
            model.miss(batch.missed)
            for simulator in self._simulators:
                simulator.miss(batch.missed)
            model.forget(batch.now_ns)
            self._last = batch._replace(records=b"")
        return tuple(names)

    def progress(self) -> dict[int, VmProgress]:
        """How far each living VM is, by its `struct kvm *`."""
        with self._lock:
            return self._model.progress()

    def names(self) -> tuple[Name, ...]:
        """What the processes of the living VMs called them."""
        with self._lock:
            return tuple((vm.pid, vm.called) for vm in self._model.living())

    def newest_first(self) -> tuple[str, ...]:
        """The names of the VMs whose newest pages are reclaimed."""
        with self._lock:
            return self._model.newest_first()

    def oversize(self) -> tuple[str, ...]:
        """The names of the VMs whose pages are not kept, for there are too many."""
        with self._lock:
            return self._model.oversize()

    @property
    def difference(self) -> Difference | Miscount | None:
        """The first difference that an audit found."""
        return self._model.difference

    @property
    def lost(self) -> int:
        """Events that were lost so far, of whatever VM."""
        return self._last.lost + self._last.untracked + self._last.missed

    @property
    def missed(self) -> int:
        """How often probes were passed over so far, which is in `lost`, too."""
        return self._last.missed

    @property
    def received(self) -> int:
        """Events taken so far."""
        return self._model.received

    @property
    def seen_ns(self) -> int:
        """The clock at the last look at the ring; 0 before the first."""
        return self._last.now_ns

    def vm(self, name: str) -> VmSnapshot | None:
        """Freeze one VM's counts, by its name or else its pid, a living one's first; None when there is none."""
        with self._lock:
            vm = self._model.named(name)
            return self._freeze(vm) if vm else None

    def detail(self, name: str) -> VmDetail | None:
        """Freeze one VM page by page, by its name or else its pid, a living one first; None when there is none."""
        with self._lock:
            vm = self._model.named(name)
            if vm is None:
                return None
            self._freeze(vm)
            copied = vm.detail(self._last.now_ns, self._current)
        return copied()

    def tables_in_reach(self, name: str) -> int:
        """How many of a VM's tables of level 1 its roots lead to; 0 when there is none of that name."""
        with self._lock:
            vm = self._model.named(name)
            return vm.tables_in_reach() if vm else 0

    def _freeze(self, vm: Figures) -> VmSnapshot:
        """With the lock held. What a VM without events came to is the same object as before."""
        return vm.freeze(self._estimates, self._current)

    @property
    def _current(self) -> bool:
        """Whether the event that was taken last is not old, and none can have waited long since."""
        unread_ns = self._clock() - self._last.now_ns if self._clock else 0
        return self._late_ns < CURRENT_NS and unread_ns < CURRENT_NS

    def _estimates(self, vm: Figures) -> dict[str, Estimate]:
        ended = vm.ended_ns is not None
        estimates = ((each.policy, each.estimate(vm.kvm, vm.pid, ended)) for each in self._simulators)
        return {policy: estimate for policy, estimate in estimates if estimate}

    def snapshot(self) -> Snapshot:
        """Freeze everything, each VM at one moment; the feeding thread waits for no more than a few VMs at a time."""
        with self._lock:
            vms = self._model.vms()
        frozen: list[VmSnapshot] = []
        for start in range(0, len(vms), AT_ONCE):
            if start:
                # Without this the same thread would have the lock again before another one is awake.
                time.sleep(GIVE_WAY_SECONDS)
            with self._lock:
                frozen += map(self._freeze, vms[start : start + AT_ONCE])
        with self._lock:
            model = self._model
            return Snapshot(
                now_ns=self._last.now_ns,
                vms=tuple(frozen),
                received=model.received,
                undecodable=model.undecodable,
                lost=self._last.lost,
                untracked=self._last.untracked,
                missed=self._last.missed,
                behind_ns=self._behind_ns,
            )
