# SPDX-License-Identifier: Apache-2.0
"""All VMs, fed by records."""

from __future__ import annotations

from collections.abc import Iterator

from shadowwatch.event.abi import RECORD, SEQ_MASK, Kind, decode
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.mmu.snapshot import VmSnapshot
from shadowwatch.mmu.vm import Vm

#: In the order of Kind, as plain ints for the hot path.
KINDS = tuple(map(int, Kind))

#: A VM that ended is kept this long, so that a scraper sees its last figures: five minutes,
#: which is how long Prometheus itself looks back.
KEEP_NS = 300 * 10**9

#: No VM has this address.
NO_KVM = -1

#: …but no more of them than this, however fast VMs come and go.
KEEP_MOST = 128


class Model:
    """Every VM that events have spoken of. No clock, no file, no probe: it can be fed from anywhere.

    A directory is recently parented when a child was linked beneath it less than one
    list-length of allocations ago (and of parent moves, where KVM makes them: both put a
    page at the head), or, with `recent_ns`, less than that time ago.
    """

    def __init__(self, roles: RoleLayout, recent_ns: int | None = None) -> None:
        self._roles = roles
        self._recent_ns = recent_ns
        self._vms: dict[int, Vm] = {}
        self._ended: list[Vm] = []
        self._unnamed: list[Vm] = []
        self._nobody = Vm(NO_KVM, 0, roles, recent_ns)
        self.received = 0
        self.undecodable = 0

    def feed(self, records: bytes) -> None:
        """Apply ring records in their order; what cannot be read is counted and passed over."""
        events, left = decode(records)
        self.received += len(records) // RECORD.size
        if left:
            self.undecodable += 1
        vms = self._vms
        alloc, link, move, zap, destroy = KINDS
        current, vm, last = NO_KVM, self._nobody, 0
        # The hot path: one pass, no object for an event, a VM looked up only when it changes.
        for kvm, ns, spt, parent_pte, gfn, seq, role, pid, limit, used, kind, cause in events:
            if kvm != current:
                vm.seq = last
                if not kvm or not alloc <= kind <= destroy:
                    self.undecodable += 1
                    current, vm = NO_KVM, self._nobody
                    continue
                current = kvm
                vm = vms.get(kvm) or self._new_vm(kvm, pid)
                last = vm.seq
            if seq != last + 1 and (seq - last) & SEQ_MASK != 1:
                vm.lose((seq - last - 1) & SEQ_MASK)
            last = seq
            if kind == link:
                vm.link(ns, spt, parent_pte)
            elif kind == alloc:
                vm.alloc(spt, gfn, role, limit, used)
            elif kind == zap:
                vm.zap(ns, spt, role, cause)
            elif kind == move:
                vm.move(spt)
            elif kind == destroy:
                self._end_vm(vm, ns)
                current, vm = NO_KVM, self._nobody
            else:
                self.undecodable += 1
        vm.seq = last

    def _new_vm(self, kvm: int, pid: int) -> Vm:
        vm = self._vms[kvm] = Vm(kvm, pid, self._roles, self._recent_ns)
        self._unnamed.append(vm)
        return vm

    def _end_vm(self, vm: Vm, ns: int) -> None:
        del self._vms[vm.kvm]
        vm.end(ns)
        self._ended.append(vm)
        del self._ended[:-KEEP_MOST]

    def unnamed(self) -> Iterator[Vm]:
        """Take the VMs that were first seen since the last call and have no name yet."""
        fresh, self._unnamed = self._unnamed, []
        return iter(fresh)

    def names(self) -> set[str]:
        """The names in use, those of ended VMs that are still kept among them."""
        return {vm.name for vm in (*self._vms.values(), *self._ended)}

    def forget(self, now_ns: int) -> None:
        """Drop the VMs that ended more than KEEP_NS ago, on the clock of the events."""
        if self._ended and now_ns - (self._ended[0].ended_ns or 0) > KEEP_NS:
            self._ended = [vm for vm in self._ended if now_ns - (vm.ended_ns or 0) <= KEEP_NS]

    def vm(self, kvm: int) -> Vm:
        """The living VM with this `struct kvm *`; KeyError when there is none."""
        return self._vms[kvm]

    def snapshot(self) -> tuple[VmSnapshot, ...]:
        """Freeze every VM, ended ones first."""
        return tuple(vm.freeze() for vm in (*self._ended, *self._vms.values()))
