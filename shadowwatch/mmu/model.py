# SPDX-License-Identifier: Apache-2.0
"""All VMs, fed by records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from shadowwatch.event.abi import Flags, Kind
from shadowwatch.event.decoder import Decoder
from shadowwatch.mmu.audit import Audited, Difference
from shadowwatch.mmu.cause import CauseTables, Function
from shadowwatch.mmu.counts import Counts, Miscount
from shadowwatch.mmu.figures import NEWEST_FIRST
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.mmu.tree import Tree
from shadowwatch.mmu.vm import Vm
from shadowwatch.snapshot import VmSnapshot

#: A VM that ended is kept this long, so that a scraper sees its last figures: five minutes,
#: which is how long Prometheus itself looks back.
KEEP_NS = 300 * 10**9

#: …but no more of them than this, however fast VMs come and go.
KEEP_MOST = 128


#: So many pages of all VMs are kept, each for 330 bytes, and twice that while it is audited: the unit's MemoryMax
#: leaves room for that. The largest VMs of a host that has more are only counted.
MOST_PAGES = 1_500_000


class VmProgress(NamedTuple):
    """How far a VM is: whether it is exact and its totals settled, its audits, the steps of walks that it heard."""

    exact: bool
    audits: int
    steps: int


class Model(Decoder[Vm]):
    """Every VM that events have spoken of. No clock, no file, no probe: it can be fed from anywhere.

    A directory is recently parented when a child was linked beneath it less than one
    list-length of allocations ago (and of parent moves, where KVM makes them: both put a
    page at the head), or, with `recent_ns`, less than that time ago. `midway` events begin in the
    middle of each VM's numbers.
    """

    def __init__(
        self,
        roles: RoleLayout,
        functions: Iterable[Function] = (),
        recent_ns: int | None = None,
        midway: bool = False,
        most_pages: int = MOST_PAGES,
    ) -> None:
        self._roles = roles
        self._causes = CauseTables(functions)
        self._recent_ns = recent_ns
        self._most_pages = most_pages
        self._ended: list[Vm] = []
        self._unnamed: list[Vm] = []
        #: Of the living VMs.
        self._names: set[str] = set()
        super().__init__(midway)
        #: How many pages of living VMs are kept, and of which VMs none are.
        self._pages = 0
        self._oversize: dict[int, Vm] = {}
        #: The VMs that were heard since there was nothing to read, and that are followed under higher limits.
        self._unsettled: dict[int, Vm] = {}
        #: The first difference that an audit found.
        self.difference: Difference | Miscount | None = None

    def _make(self, kvm: int, pid: int) -> Vm:
        return Vm(kvm, pid, self._roles, self._causes, self._recent_ns)

    def feed(self, records: bytes) -> None:
        """As Decoder.feed; then no more pages are kept than there is room for."""
        super().feed(records)
        for vm in self._heard.values():
            self._count(vm)
            if vm.curve is not None and vm.ended_ns is None:
                self._unsettled[vm.kvm] = vm
        while self._pages > self._most_pages:
            largest = max(self._vms.values(), key=_pages_kept)
            self._takers[largest.kvm] = largest
            largest.give_up()
            self._oversize[largest.kvm] = largest
            self._count(largest)
        if self._oversize:
            self._keep_again()

    def rest(self) -> None:
        """There is nothing to read: do what a scrape would have to do otherwise."""
        for vm in self._unsettled.values():
            if vm.curve is not None:
                vm.curve.settle()
        self._unsettled = {}

    def miss(self, missed: int) -> None:
        """As Decoder.miss."""
        before = self._missed
        super().miss(missed)
        if missed > before:
            for vm in self._vms.values():
                self._count(vm)

    def _count(self, vm: Vm) -> None:
        """What it has come to is in `_pages` from here on."""
        pages = 0 if vm.oversize or vm.ended_ns is not None else len(vm.pages)
        self._pages += pages - vm.counted
        vm.counted = pages

    def _keep_again(self) -> None:
        """Keep the pages of VMs for which there is room now, those that were given up first before others."""
        promised = self._pages
        for kvm, vm in list(self._oversize.items()):
            promised += vm.limit
            if promised > self._most_pages:
                vm.give_up()
            else:
                vm.oversize = False
                del self._oversize[kvm]

    def _unnumbered(self, vm: Vm, event: tuple[int, ...]) -> None:
        kvm, _, spt, parent_pte, gfn, _, _, role, _, limit, used, caller, walk, kind, flags = event
        audit = self._takers[kvm]
        taker = audit if isinstance(audit, Audited) else vm
        if kind == Kind.WRITE:
            taker.write(gfn)
        elif kind == Kind.FLUSH:
            taker.flush(caller)
        elif kind == Kind.STEP:
            vm.limit = limit
            if flags & Flags.FIRST and vm.exact and taker is vm:
                taker = self._takers[kvm] = Audited(vm)
            taker.step(walk, flags, used)
            lost, missed = vm.unsettled, self._settled(vm, event)
            if missed and not lost and taker is not vm:
                self.difference = self.difference or Miscount(vm.name, missed)
        elif kind == Kind.PAGE:
            taker.page(walk, spt, gfn, role, parent_pte, flags)
        elif kind == Kind.PARENT:
            taker.parent(walk, spt, parent_pte)
        else:
            vm.limit = limit
            if not used and not vm.seq and not vm.pages:
                vm.exact = True
            if flags & Flags.VOID:
                # A loss may be unknown, for its last number is not told; its list is to be walked.
                vm.unsettled = True
        if isinstance(taker, Audited) and taker.over:
            self._takers[kvm] = vm
            found = taker.result()
            self.difference = self.difference or found

    def _settled(self, vm: Vm, event: tuple[int, ...]) -> Counts | None:
        """What KVM had counted at this event that no event told, None if nothing, or if it is not told."""
        _, _, allocations, zaps, reclaimed, _, _, _, _, _, _, _, _, _, flags = event
        if flags & Flags.VOID:
            return None
        vm.unsettled = False
        return vm.settle(Counts(allocations, zaps, reclaimed)) if flags & Flags.COUNTED else None

    def _destroyed(self, vm: Vm, event: tuple[int, ...]) -> None:
        self._settled(vm, event)
        super()._destroyed(vm, event)

    def _new_vm(self, kvm: int, pid: int, seq: int = 0) -> Vm:
        vm = super()._new_vm(kvm, pid, seq)
        if self._midway and seq != 1:
            vm.apart = None
        self._unnamed.append(vm)
        return vm

    def _end_vm(self, vm: Vm, ns: int) -> None:
        super()._end_vm(vm, ns)
        vm.end(ns)
        self._count(vm)
        self._oversize.pop(vm.kvm, None)
        self._unsettled.pop(vm.kvm, None)
        self._ended.append(vm)
        self._names.discard(vm.name)
        del self._ended[:-KEEP_MOST]

    def set_recent(self, recent_ns: int | None) -> None:
        """What counts as recently parented from now on."""
        self._recent_ns = recent_ns
        for vm in self._vms.values():
            vm.recent_ns = recent_ns

    def progress(self) -> dict[int, VmProgress]:
        """How far each living VM is whose pages are kept."""
        return {
            kvm: VmProgress(vm.exact and not vm.unsettled, vm.audits, self._steps(vm))
            for kvm, vm in self._vms.items()
            if not vm.oversize
        }

    def _steps(self, vm: Vm) -> int:
        taker = self._takers[vm.kvm]
        return taker.steps if isinstance(taker, Audited) else vm.steps

    def newest_first(self) -> tuple[str, ...]:
        """The names of the living VMs whose newest pages are reclaimed."""
        return tuple(vm.name for vm in self._vms.values() if vm.mean_position < NEWEST_FIRST)

    def oversize(self) -> tuple[str, ...]:
        """The names of the living VMs whose pages are not kept."""
        return tuple(vm.name for vm in self._vms.values() if vm.oversize)

    def unnamed(self) -> Iterator[Vm]:
        """Take the VMs that were first seen since the last call and have no name yet."""
        fresh, self._unnamed = self._unnamed, []
        return iter(fresh)

    def taken(self, name: str, ended: bool) -> bool:
        """Whether a living VM has this name, or one that ended and is still kept, if these count."""
        return name in self._names or (ended and any(vm.name == name for vm in self._ended))

    def name(self, vm: Vm, name: str) -> None:
        """Call it so; one that ended and was called so is dropped: both would be one time series."""
        vm.name = name
        if vm.ended_ns is None:
            self._names.add(name)
        self._ended = [ended for ended in self._ended if ended.name != name or ended is vm]

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

    def trees(self) -> tuple[Tree, ...]:
        """The pages of every VM, and those that audits build."""
        audits = (taker.kernel for taker in self._takers.values() if isinstance(taker, Audited))
        return (*self.vms(), *audits)

    def of_the_kernel(self) -> tuple[object, ...]:
        """What is worked out once for the kernel that the events are of."""
        return self._roles, self._roles.levels, self._causes, self._causes.zap, self._causes.reclaim, self._causes.flush

    def snapshot(self) -> tuple[VmSnapshot, ...]:
        """Freeze every VM, ended ones first."""
        return tuple(vm.freeze() for vm in self.vms())


def _pages_kept(vm: Vm) -> int:
    return 0 if vm.oversize else len(vm.pages)
