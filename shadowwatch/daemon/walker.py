# SPDX-License-Identifier: Apache-2.0
"""When to walk over which list: at the start, after a loss, and for audits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shadowwatch.event.abi import Flags
from shadowwatch.event.request import Requests
from shadowwatch.watch import Watch

#: Between looks at what is to be walked.
TURN_NS = 50_000_000

#: Tries without the lock, before the walk is left to the probes that come by with the lock held.
TRIES = 3

#: A walk that has made no step for this long is started again: nobody comes by any more.
PATIENCE_NS = 150_000_000


@dataclass(slots=True)
class _Asked:
    """A walk that was left to the probes: since when it stands at this step, and for what it was asked."""

    steps: int
    since_ns: int
    audits: int


class Walker:
    """Has the kernel's lists walked, so that the model of each VM is exact, and stays so."""

    def __init__(self, requests: Requests, watch: Watch, room: int, drain: Callable[[], object]) -> None:
        """`room` is the number of steps that the ring has room for, `drain` empties it."""
        self._requests = requests
        self._watch = watch
        self._room = max(1, room)
        self._drain = drain
        self._number = 0
        self._turn_ns = 0
        self._lost = -1
        self._asked: dict[int, _Asked] = {}
        #: VMs to audit -> the audits that they had when that was asked for.
        self._audits: dict[int, int] = {}

    def audit(self) -> None:
        """Audit every VM, beginning with the next turn."""
        progress = self._watch.progress()
        self._audits = {kvm: vm.audits for kvm, vm in progress.items()}

    @property
    def auditing(self) -> bool:
        """Whether an audit that was asked for is not over."""
        return bool(self._audits)

    def turn(self, now_ns: int) -> None:
        """Do what is due."""
        if now_ns - self._turn_ns < TURN_NS:
            return
        self._turn_ns = now_ns
        if self._lost != self._watch.lost:
            # VMs may have come and gone unheard; at the start all have.
            self._lost = self._watch.lost
            if not self._walk(0):
                self._lost = -1
        progress = self._watch.progress()
        self._audits = {
            kvm: audits for kvm, audits in self._audits.items() if kvm in progress and progress[kvm].audits == audits
        }
        self._asked = {kvm: asked for kvm, asked in self._asked.items() if kvm in progress}
        for kvm, (exact, audits, steps) in progress.items():
            if exact and kvm not in self._audits:
                self._asked.pop(kvm, None)
                continue
            asked = self._asked.get(kvm)
            if asked and asked.audits == audits:
                if steps != asked.steps:
                    asked.steps, asked.since_ns = steps, now_ns
                if now_ns - asked.since_ns < PATIENCE_NS:
                    continue
            if any(self._walk(kvm) for _ in range(TRIES)):
                self._asked.pop(kvm, None)
            else:
                self._number += 1
                self._requests.walk_locked(kvm, self._number)
                self._asked[kvm] = _Asked(steps, now_ns, audits)

    def _walk(self, kvm: int) -> bool:
        """Walk over this VM's list, or with 0 over vm_list; false when somebody changed it meanwhile."""
        self._number += 1
        steps = 0
        while True:
            first = not steps
            ask = self._requests
            flags = ask.walk(kvm, self._number, first) if kvm else ask.vms(self._number, first)
            steps += 1
            if steps % self._room == 0:
                self._drain()
            if flags & (Flags.VOID | Flags.LAST):
                self._drain()
                return not flags & Flags.VOID
