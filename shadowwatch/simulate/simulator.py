# SPDX-License-Identifier: Apache-2.0
"""All VMs under one policy, fed by records."""

from __future__ import annotations

from shadowwatch.event.abi import Kind
from shadowwatch.event.decoder import Decoder
from shadowwatch.event.facts import Facts
from shadowwatch.mmu.cause import CauseTables
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.simulate.policies import parsed
from shadowwatch.simulate.policies.accessed import Accessed
from shadowwatch.simulate.policies.stock import Stock
from shadowwatch.simulate.vm import SimulatedVm
from shadowwatch.snapshot import Estimate

#: A VM: its `struct kvm *` and its process, either of which another one may have later, and its number by birth.
Key = tuple[int, int, int]

#: No more VMs that have ended are kept, the last of them.
KEEP_MOST = 128


class Simulator(Decoder[SimulatedVm]):
    """What the list of each VM would have been under a policy and a limit: no clock, no file, as the model."""

    def __init__(self, facts: Facts, policy: str) -> None:
        self.policy = policy
        self._policy, self._limit = parsed(policy)
        #: Only the patched KVM has other policies, and counts right; what moves say where it recorded.
        self._recorded = bool(facts.policy) or self._policy is not Stock, facts.policy == Accessed.name
        self._roles = RoleLayout(facts.role)
        self._causes = CauseTables(facts.functions)
        self._ended: dict[Key, Estimate] = {}
        #: VMs so far, and the numbers of those that live, by their `struct kvm *`.
        self.born = 0
        self._numbers: dict[int, int] = {}
        #: VMs for which KVM's lowest limit stands for a lower one.
        self.raised: set[Key] = set()
        super().__init__(facts.midway)

    def _make(self, kvm: int, pid: int) -> SimulatedVm:
        return SimulatedVm(kvm, pid, self._roles, self._causes, self._policy(), self._limit, *self._recorded)

    def _new_vm(self, kvm: int, pid: int, seq: int = 0) -> SimulatedVm:
        self.born += 1
        self._numbers[kvm] = self.born
        return super()._new_vm(kvm, pid, seq)

    def _unnumbered(self, vm: SimulatedVm, event: tuple[int, ...]) -> None:
        _, _, spt, parent_pte, gfn, _, _, role, _, _, _, _, _, kind, _ = event
        if kind == Kind.PAGE:
            vm.known(spt, gfn, role, parent_pte)
        elif kind == Kind.WRITE:
            vm.write(gfn)

    def _end_vm(self, vm: SimulatedVm, ns: int) -> None:
        super()._end_vm(vm, ns)
        key = vm.kvm, vm.pid, self._numbers.pop(vm.kvm)
        self._ended[key] = self._end(key, vm)
        while len(self._ended) > KEEP_MOST:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self.raised.discard(oldest)

    def _end(self, key: Key, vm: SimulatedVm) -> Estimate:
        if vm.raised:
            self.raised.add(key)
        return vm.end()

    def estimate(self, kvm: int, pid: int, ended: bool) -> Estimate | None:
        """What came of one VM so far; None if it allocated no page, or ended before the last KEEP_MOST."""
        if ended:
            of = (estimate for key, estimate in reversed(self._ended.items()) if key[:2] == (kvm, pid))
            return next(of, None)
        vm = self._vms.get(kvm)
        return vm.estimate() if vm else None

    def _living(self) -> dict[Key, SimulatedVm]:
        return {(vm.kvm, vm.pid, self._numbers[vm.kvm]): vm for vm in self._vms.values()}

    def known(self) -> tuple[Key, ...]:
        """The VMs that are kept, in the order of their birth."""
        return tuple(sorted((*self._ended, *self._living()), key=_number))

    def estimates(self) -> dict[Key, Estimate]:
        """What came of each VM, those among them that ended lately, when there are no more records."""
        return self._ended | {key: self._end(key, vm) for key, vm in self._living().items()}


def _number(key: Key) -> int:
    return key[2]
