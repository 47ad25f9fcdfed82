# SPDX-License-Identifier: Apache-2.0
"""Whose event it is, which are missing, and when VMs begin and end: the same for all who are fed with records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Generic, TypeVar

from shadowwatch.event.abi import MOST_VMS, RECORD, SEQ_MASK, SIGNED, Flags, Kind, decode, of_a_walk_in_vain

#: The numbered kinds, as plain ints for the hot path.
ALLOC: Final = int(Kind.ALLOC)
LINK: Final = int(Kind.LINK)
MOVE: Final = int(Kind.MOVE)
ZAP: Final = int(Kind.ZAP)
RECLAIM: Final = int(Kind.RECLAIM)
UNLINK: Final = int(Kind.UNLINK)
DESTROY: Final = int(Kind.DESTROY)
FLUSH: Final = int(Kind.FLUSH)
LAST_KIND: Final = int(Kind.VM)

#: The last number of a VM of which events without one came first, where events begin in the middle of the numbers.
UNHEARD: Final = -2

#: No VM has this address; 0 is that of events about no VM.
NO_KVM: Final = -1


class Taker(ABC):
    """What takes the numbered events of a VM."""

    __slots__ = ()

    @abstractmethod
    def alloc(self, ns: int, spt: int, gfn: int, role: int, limit: int, used: int, mapped: int) -> None:
        """A page was allocated; it is the newest on the list."""

    @abstractmethod
    def link(self, ns: int, spt: int, parent_pte: int) -> None:
        """An spte was made to point to a page."""

    @abstractmethod
    def unlink(self, ns: int, parent_pte: int) -> None:
        """An spte was made to map memory."""

    @abstractmethod
    def move(self, spt: int) -> None:
        """mmu_parent_walk() moved a page to the head of the list."""

    @abstractmethod
    def zap(self, run: list[tuple[int, ...]]) -> None:
        """Pages are being zapped, one event after the other: a reclaim's come together."""

    @abstractmethod
    def reclaim(self, ns: int, caller: int, mapped: int) -> None:
        """The oldest pages are about to be zapped."""

    @abstractmethod
    def flush(self, caller: int) -> None:
        """All pages became obsolete, and are about to be zapped."""


class Life(Taker):
    """A VM that is heard of: `seq` is its last number, `listed` the last walk over vm_list that told of it.

    `changed` is set when it has events.
    """

    __slots__ = ("changed", "kvm", "listed", "pid", "seq")

    def __init__(self, kvm: int, pid: int) -> None:
        self.kvm = kvm
        self.pid = pid
        self.seq = 0
        self.listed = 0
        self.changed = True

    @property
    @abstractmethod
    def blank(self) -> bool:
        """Whether nothing is known that lost events could have made wrong."""

    @abstractmethod
    def lose(self, events: int) -> None:
        """So many events of this VM were lost."""


V = TypeVar("V", bound=Life)


class Decoder(ABC, Generic[V]):
    """Every VM that records have spoken of, each with what it makes of its events.

    A VM ends by its DESTROY, or when that was lost by a walk over vm_list that does not tell of it, or by another one
    that counts from 1 again at its address. `midway` events begin in the middle of each VM's numbers: the first number
    that is heard of a VM is no loss of those before.
    """

    def __init__(self, midway: bool) -> None:
        self._midway = midway
        self._vms: dict[int, V] = {}
        #: What takes a VM's events: the VM itself, or something in its place until events are lost.
        self._takers: dict[int, Taker] = {}
        self._nobody = self._make(NO_KVM, 0)
        #: The VMs that the last records were about.
        self._heard: dict[int, V] = {}
        #: The walk over vm_list that is under way, the records of its step that are to come, and its end.
        self._listing = 0
        self._list_left = 0
        self._list_last = False
        self._missed = 0
        self.received = 0
        self.undecodable = 0

    @abstractmethod
    def _make(self, kvm: int, pid: int) -> V:
        """A VM of which nothing is known yet."""

    @abstractmethod
    def _unnumbered(self, vm: V, event: tuple[int, ...]) -> None:
        """What a VM's events without a number mean to it: writes, flushes and walks."""

    def feed(self, records: bytes) -> None:
        """Apply ring records in their order; what cannot be read is counted and passed over."""
        events, left = decode(records, SIGNED)
        self.received += len(records) // RECORD.size
        if left:
            self.undecodable += 1
        vms, takers = self._vms, self._takers
        heard = self._heard = {}
        alloc, link, move, zap = ALLOC, LINK, MOVE, ZAP
        current, last = NO_KVM, 0
        vm = self._nobody
        taker: Taker = vm
        zaps: list[tuple[int, ...]] = []
        # The hot path: one pass, no object for an event, a VM looked up only when it changes.
        for event in events:
            kvm, ns, spt, parent_pte, gfn, mapped, seq, role, pid, limit, used, caller, walk, kind, flags = event
            if kvm != current:
                if zaps:
                    taker.zap(zaps)
                    zaps = []
                vm.seq = last
                if not kvm or not alloc <= kind <= LAST_KIND:
                    self._about_no_vm(kvm, ns, kind, flags, walk, used)
                    current, vm = NO_KVM, self._nobody
                    continue
                known = vms.get(kvm)
                if known is None and of_a_walk_in_vain(kind, flags):
                    current, vm = NO_KVM, self._nobody
                    continue
                if known is None and len(vms) >= MOST_VMS:
                    self._about_too_many(ns, kind)
                    current, vm = NO_KVM, self._nobody
                    continue
                current = kvm
                vm = known or self._new_vm(kvm, pid, seq if kind <= FLUSH else 0)
                taker = takers[kvm]
                heard[kvm] = vm
                vm.changed = True
                last = vm.seq
            if seq != last + 1 or kind > DESTROY:
                if zaps:
                    taker.zap(zaps)
                    zaps = []
                # Before 0.2 a flush had no number.
                if DESTROY < kind <= LAST_KIND and not (kind == FLUSH and seq):
                    vm.seq = last
                    self._beside(vm, event)
                    current, vm = NO_KVM, self._nobody
                    continue
                missing = (seq - last - 1) & SEQ_MASK
                if last == UNHEARD:
                    missing = 0
                if missing > SEQ_MASK >> 1:
                    # The count starts over: the VM that had this address has died, and that event was lost.
                    self._end_vm(vm, ns)
                    vm = heard[kvm] = self._new_vm(kvm, pid)
                    taker = vm
                    missing = max(0, seq - 1)
                if missing:
                    taker = takers[kvm] = vm
                    vm.lose(missing)
            last = seq
            if kind == zap:
                zaps.append(event)
                continue
            if zaps:
                taker.zap(zaps)
                zaps = []
            if kind == link:
                taker.link(ns, spt, parent_pte)
            elif kind == alloc:
                taker.alloc(ns, spt, gfn, role, limit, used, mapped)
            elif kind == move:
                taker.move(spt)
            elif kind == UNLINK:
                taker.unlink(ns, parent_pte)
            elif kind == RECLAIM:
                taker.reclaim(ns, caller, mapped)
            elif kind == FLUSH:
                taker.flush(caller)
            elif kind == DESTROY:
                self._destroyed(vm, event)
                current, vm = NO_KVM, self._nobody
            else:
                self.undecodable += 1
        if zaps:
            taker.zap(zaps)
        vm.seq = last

    def miss(self, missed: int) -> None:
        """Probes were passed over so often up to here.

        When that has grown, events are missing, and nobody knows of which VM: each begins again with what comes next.
        """
        if missed <= self._missed:
            return
        self._missed = missed
        for kvm, vm in self._vms.items():
            self._takers[kvm] = vm
            vm.changed = True
            vm.lose(0)

    def living(self) -> tuple[V, ...]:
        """The VMs that have not ended."""
        return tuple(self._vms.values())

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

    def _about_too_many(self, ns: int, kind: int) -> None:
        self.undecodable += 1
        if kind == Kind.VM:
            self._listed(ns, 1)

    def _listed(self, ns: int, records: int) -> None:
        """Some of the records of a step over vm_list are here; after the last, VMs that are not on it are gone."""
        self._list_left -= records
        if self._list_last and not self._list_left and self._listing:
            for vm in list(self._vms.values()):
                if vm.listed != self._listing:
                    self._end_vm(vm, ns)
            self._listing = 0

    def _beside(self, vm: V, event: tuple[int, ...]) -> None:
        """What an event without a number says of the numbers and of the VM's life; the rest is the VM's own."""
        kvm, ns, _, _, _, _, seq, _, pid, _, _, _, walk, kind, flags = event
        told = kind == Kind.STEP or (kind == Kind.VM and seq)
        if told and seq != vm.seq and not flags & Flags.VOID:
            # Events before this one were lost, or this is the first that is heard of the VM.
            if vm.seq == UNHEARD:
                pass
            elif vm.seq and (seq - vm.seq) & SEQ_MASK > SEQ_MASK >> 1:
                self._end_vm(vm, ns)
                vm = self._new_vm(kvm, pid)
                if seq:
                    vm.lose(seq)
            elif vm.seq or not vm.blank:
                self._takers[kvm] = vm
                vm.lose((seq - vm.seq) & SEQ_MASK)
            vm.seq = seq
        if kind == Kind.VM:
            vm.listed = walk
        self._unnumbered(vm, event)
        if kind == Kind.VM:
            self._listed(ns, 1)

    def _new_vm(self, kvm: int, pid: int, seq: int = 0) -> V:
        vm = self._make(kvm, pid)
        self._vms[kvm] = vm
        self._takers[kvm] = vm
        vm.listed = self._listing
        if self._midway:
            vm.seq = seq - 1 if seq else UNHEARD
        return vm

    def _destroyed(self, vm: V, event: tuple[int, ...]) -> None:
        self._end_vm(vm, event[1])

    def _end_vm(self, vm: V, ns: int) -> None:
        del self._vms[vm.kvm]
        del self._takers[vm.kvm]
