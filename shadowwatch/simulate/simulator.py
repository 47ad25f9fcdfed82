# SPDX-License-Identifier: Apache-2.0
"""All VMs under one policy, fed by records."""

from __future__ import annotations

from shadowwatch.event.abi import SEQ_MASK, Flags, Kind, decode, of_a_walk_in_vain
from shadowwatch.event.facts import Facts
from shadowwatch.mmu.cause import CauseTables
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.mmu.snapshot import Estimate
from shadowwatch.simulate.policies import POLICIES
from shadowwatch.simulate.vm import SimulatedVm

_ALLOC, _LINK, _MOVE, _ZAP = map(int, (Kind.ALLOC, Kind.LINK, Kind.MOVE, Kind.ZAP))
_RECLAIM, _DESTROY, _STEP, _PAGE = map(int, (Kind.RECLAIM, Kind.DESTROY, Kind.STEP, Kind.PAGE))

#: No VM has this address; 0 is that of events about no VM.
_NO_KVM = -1

#: A VM, by its `struct kvm *` and its process.
Key = tuple[int, int]

#: No more VMs that have ended are kept, the last of them.
KEEP_MOST = 128


class Simulator:
    """What the list of each VM would have been under a policy: no clock, no file, as the model."""

    def __init__(self, facts: Facts, policy: str) -> None:
        self.policy = policy
        self._make = POLICIES[policy]
        self._roles = RoleLayout(facts.role)
        self._causes = CauseTables(facts.functions)
        self._midway = facts.midway
        self._vms: dict[int, SimulatedVm] = {}
        self._pids: dict[int, int] = {}
        self._ended: dict[Key, Estimate] = {}

    def feed(self, records: bytes) -> None:
        """Apply ring records in their order; of what else there may be in them the model gives an account."""
        events, _ = decode(records)
        alloc, link, move, zap, destroy = _ALLOC, _LINK, _MOVE, _ZAP, _DESTROY
        current, last = _NO_KVM, 0
        vm: SimulatedVm | None = None
        for kvm, _, spt, parent_pte, gfn, _, seq, role, pid, limit, used, caller, _, kind, flags in events:
            if kvm != current:
                if vm is not None:
                    vm.seq = last
                current, vm = kvm, None
                if kvm:
                    vm = self._vms.get(kvm)
                    if vm is None and not of_a_walk_in_vain(kind, flags):
                        vm = self._new(kvm, pid, seq if kind <= destroy else 0)
                if vm is not None:
                    last = vm.seq
            if vm is None:
                current = _NO_KVM
                continue
            if kind <= destroy and seq != last + 1:
                if (seq - last - 1) & SEQ_MASK > SEQ_MASK >> 1:
                    # It counts anew: another VM has this address.
                    self._end(kvm)
                    vm = self._new(kvm, pid, seq)
                elif last or seq != 1:
                    vm.forget()
            if kind <= destroy:
                last = seq
            if kind == link:
                vm.link(spt, parent_pte)
            elif kind == alloc:
                vm.alloc(spt, gfn, role, limit, used)
            elif kind == zap:
                vm.zap(spt, role, caller)
            elif kind == move:
                vm.move(spt)
            elif kind == _RECLAIM:
                vm.reclaim(caller)
            elif kind == _STEP:
                # It has the last number so far: events before it were lost, or made before the recording.
                if seq != last and not flags & Flags.VOID:
                    vm.forget()
                    last = seq
            elif kind == _PAGE:
                vm.known(spt, gfn, role, parent_pte)
            elif kind == destroy:
                self._end(kvm)
                current, vm = _NO_KVM, None
        if vm is not None:
            vm.seq = last

    def _new(self, kvm: int, pid: int, seq: int) -> SimulatedVm:
        vm = self._vms[kvm] = SimulatedVm(self._roles, self._causes, self._make())
        self._pids[kvm] = pid
        if seq and self._midway:
            vm.seq = seq - 1
        return vm

    def _end(self, kvm: int) -> None:
        self._ended[kvm, self._pids.pop(kvm)] = self._vms.pop(kvm).end()
        while len(self._ended) > KEEP_MOST:
            del self._ended[next(iter(self._ended))]

    def estimate(self, kvm: int, pid: int, ended: bool) -> Estimate | None:
        """What came of one VM so far; None if it allocated no page, or ended before the last KEEP_MOST."""
        if ended:
            return self._ended.get((kvm, pid))
        vm = self._vms.get(kvm)
        return vm.estimate() if vm else None

    def estimates(self) -> dict[Key, Estimate]:
        """What came of each VM, those among them that ended lately, when there are no more records."""
        living = {(kvm, self._pids[kvm]): vm.end() for kvm, vm in self._vms.items()}
        return self._ended | living
