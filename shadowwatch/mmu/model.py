# SPDX-License-Identifier: Apache-2.0
"""All VMs, fed by records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shadowwatch.event.abi import RECORD, SEQ_MASK, Flags, Kind, decode, of_a_walk_in_vain
from shadowwatch.mmu.audit import Audited, Difference
from shadowwatch.mmu.cause import CauseTables, Function
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.mmu.snapshot import VmSnapshot
from shadowwatch.mmu.vm import NEWEST_FIRST, Vm

#: The numbered kinds, as plain ints for the hot path.
ALLOC, LINK, MOVE, ZAP = map(int, (Kind.ALLOC, Kind.LINK, Kind.MOVE, Kind.ZAP))
DESTROY = int(Kind.DESTROY)

#: A VM that ended is kept this long, so that a scraper sees its last figures: five minutes,
#: which is how long Prometheus itself looks back.
KEEP_NS = 300 * 10**9

#: No VM has this address.
NO_KVM = -1

#: …but no more of them than this, however fast VMs come and go.
KEEP_MOST = 128


class Progress(NamedTuple):
    """How far a VM is: whether it is exact, its audits, and the steps of walks that it has heard."""

    exact: bool
    audits: int
    told: int


class Model:
    """Every VM that events have spoken of. No clock, no file, no probe: it can be fed from anywhere.

    A directory is recently parented when a child was linked beneath it less than one
    list-length of allocations ago (and of parent moves, where KVM makes them: both put a
    page at the head), or, with `recent_ns`, less than that time ago. `midway` events begin in the
    midst of each VM's numbers.
    """

    def __init__(
        self,
        roles: RoleLayout,
        functions: Iterable[Function] = (),
        recent_ns: int | None = None,
        midway: bool = False,
    ) -> None:
        self._roles = roles
        self._midway = midway
        self._causes = CauseTables(functions)
        self._recent_ns = recent_ns
        self._vms: dict[int, Vm] = {}
        #: What takes a VM's events: the VM itself, or during an audit the audit.
        self._takers: dict[int, Vm | Audited] = {}
        self._ended: list[Vm] = []
        self._unnamed: list[Vm] = []
        self._nobody = Vm(NO_KVM, 0, roles, self._causes, recent_ns)
        #: The walk over vm_list that is under way, the records of its step that are to come, and its end.
        self._listing = 0
        self._list_left = 0
        self._list_last = False
        self.received = 0
        self.undecodable = 0
        #: The first difference that an audit found.
        self.difference: Difference | None = None

    def feed(self, records: bytes) -> None:
        """Apply ring records in their order; what cannot be read is counted and passed over."""
        events, left = decode(records)
        self.received += len(records) // RECORD.size
        if left:
            self.undecodable += 1
        vms, takers = self._vms, self._takers
        alloc, link, move, zap = ALLOC, LINK, MOVE, ZAP
        current, last = NO_KVM, 0
        vm = self._nobody
        taker: Vm | Audited = vm
        # The hot path: one pass, no object for an event, a VM looked up only when it changes.
        for event in events:
            kvm, ns, spt, parent_pte, gfn, mapped, seq, role, pid, limit, used, caller, walk, kind, flags = event
            if kvm != current:
                vm.seq = last
                if not kvm or not alloc <= kind <= Kind.VM:
                    self._about_no_vm(kvm, ns, kind, flags, walk, used)
                    current, vm = NO_KVM, self._nobody
                    continue
                known = vms.get(kvm)
                if known is None and of_a_walk_in_vain(kind, flags):
                    current, vm = NO_KVM, self._nobody
                    continue
                current = kvm
                vm = known or self._new_vm(kvm, pid, seq if kind <= DESTROY else 0)
                taker = takers[kvm]
                vm.frozen = None
                last = vm.seq
            if seq != last + 1 or kind > DESTROY:
                if DESTROY < kind <= Kind.VM:
                    vm.seq = last
                    self._unnumbered(vm, event)
                    current, vm = NO_KVM, self._nobody
                    continue
                missing = (seq - last - 1) & SEQ_MASK
                if missing > SEQ_MASK >> 1:
                    # It counts anew: the VM that had this address has died, and that was not heard.
                    self._end_vm(vm, ns)
                    vm = taker = self._new_vm(kvm, pid)
                    missing = max(0, seq - 1)
                if missing:
                    taker = takers[kvm] = vm
                    vm.lose(missing)
            last = seq
            if kind == link:
                taker.link(ns, spt, parent_pte)
            elif kind == alloc:
                taker.alloc(spt, gfn, role, limit, used, mapped)
            elif kind == zap:
                taker.zap(ns, spt, role, caller)
            elif kind == move:
                taker.move(spt)
            elif kind == Kind.UNLINK:
                taker.unlink(parent_pte)
            elif kind == Kind.RECLAIM:
                taker.reclaim(caller, mapped)
            elif kind == DESTROY:
                self._end_vm(vm, ns)
                current, vm = NO_KVM, self._nobody
            else:
                self.undecodable += 1
        vm.seq = last

    def _about_no_vm(self, kvm: int, ns: int, kind: int, flags: int, walk: int, records: int) -> None:
        if kvm or kind != Kind.STEP:
            self.undecodable += 1
            return
        if flags & Flags.FIRST:
            self._listing = walk
        if walk == self._listing:
            if flags & Flags.VOID:
                self._listing = 0
            self._list_left = records
            self._list_last = bool(flags & Flags.LAST)
            self._listed(ns, 0)

    def _listed(self, ns: int, records: int) -> None:
        """Some of the records of a step over vm_list are here; after the last, VMs that are not on it are gone."""
        self._list_left -= records
        if self._list_last and not self._list_left and self._listing:
            for vm in list(self._vms.values()):
                if vm.listed != self._listing:
                    self._end_vm(vm, ns)
            self._listing = 0

    def _unnumbered(self, vm: Vm, event: tuple[int, ...]) -> None:
        kvm, ns, spt, parent_pte, gfn, _, seq, role, pid, limit, used, caller, walk, kind, flags = event
        taker = self._takers[kvm]
        if kind == Kind.WRITE:
            taker.write(gfn)
        elif kind == Kind.FLUSH:
            taker.flush(caller)
        elif kind == Kind.STEP:
            vm.limit = limit
            if seq != vm.seq and not flags & Flags.VOID:
                # Events before this step were lost, or this is the first that is heard of the VM.
                if vm.seq and (seq - vm.seq) & SEQ_MASK > SEQ_MASK >> 1:
                    self._end_vm(vm, ns)
                    vm = taker = self._new_vm(kvm, pid)
                    if seq:
                        taker.lose(seq)
                elif vm.exact or vm.seq:
                    taker = self._takers[kvm] = vm
                    taker.lose((seq - vm.seq) & SEQ_MASK)
                vm.seq = seq
            if flags & Flags.FIRST and vm.exact and taker is vm:
                taker = self._takers[kvm] = Audited(vm)
            taker.step(walk, flags, used)
        elif kind == Kind.PAGE:
            taker.page(walk, spt, gfn, role, parent_pte)
        elif kind == Kind.PARENT:
            taker.parent(walk, spt, parent_pte)
        else:
            vm.listed = walk
            vm.limit = limit
            if not used and not vm.seq and not vm.pages:
                vm.exact = True
            self._listed(ns, 1)
        if isinstance(taker, Audited) and taker.over:
            self._takers[kvm] = vm
            found = taker.result()
            self.difference = self.difference or found

    def _new_vm(self, kvm: int, pid: int, seq: int = 0) -> Vm:
        vm = self._vms[kvm] = self._takers[kvm] = Vm(kvm, pid, self._roles, self._causes, self._recent_ns)
        vm.listed = self._listing
        if seq and self._midway:
            vm.seq = seq - 1
        self._unnamed.append(vm)
        return vm

    def _end_vm(self, vm: Vm, ns: int) -> None:
        del self._vms[vm.kvm]
        del self._takers[vm.kvm]
        vm.end(ns)
        self._ended.append(vm)
        del self._ended[:-KEEP_MOST]

    def set_recent(self, recent_ns: int | None) -> None:
        """What counts as recently parented from now on."""
        self._recent_ns = recent_ns
        for vm in self._vms.values():
            vm.recent_ns = recent_ns

    def progress(self) -> dict[int, Progress]:
        """How far each living VM is."""
        takers = self._takers
        return {kvm: Progress(vm.exact, vm.audits, takers[kvm].told) for kvm, vm in self._vms.items()}

    def living(self) -> tuple[Vm, ...]:
        """The VMs that have not ended."""
        return tuple(self._vms.values())

    def newest_first(self) -> tuple[str, ...]:
        """The names of the living VMs whose newest pages are reclaimed."""
        return tuple(vm.name for vm in self._vms.values() if vm.mean_position < NEWEST_FIRST)

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

    def named(self, name: str) -> Vm | None:
        """The VM of this name, or else of this pid, also when it has ended and is still kept."""
        vms = (*self._vms.values(), *self._ended)
        by_name = (vm for vm in vms if vm.name == name)
        return next(by_name, None) or next((vm for vm in vms if str(vm.pid) == name), None)

    def vms(self) -> tuple[Vm, ...]:
        """Every VM, ended ones first."""
        return (*self._ended, *self._vms.values())

    def snapshot(self) -> tuple[VmSnapshot, ...]:
        """Freeze every VM, ended ones first."""
        return tuple(vm.freeze() for vm in self.vms())
