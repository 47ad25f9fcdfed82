# SPDX-License-Identifier: Apache-2.0
"""A kernel with one VM, and the model that hears its events and walks."""

from __future__ import annotations

from shadowwatch.event.abi import Flags
from shadowwatch.mmu.model import Model
from shadowwatch.mmu.vm import Vm
from tests.unit.kernel import Kernel, KernelVm, role_of
from tests.unit.story import FUNCTIONS, ROLES, Story

KVM = 0xFFFF_8880_0000_0000


def spt(page: int) -> int:
    """The table of the page with this number."""
    return Story.spt(page)


def grown(vm: KernelVm, tables: int = 3) -> None:
    """Root 1, directory 2 beneath it, and tables 10, 11, 12 and so on beneath that."""
    vm.alloc(spt(1), 1, role_of(3))
    vm.alloc(spt(2), 2, role_of(2))
    vm.link(spt(1), spt(2))
    for number in range(tables):
        vm.alloc(spt(10 + number), 10 + number, role_of(1))
        vm.link(spt(2) + 8 * number, spt(10 + number))


class Heard:
    """A kernel with one VM that has grown, and the model that hears it."""

    def __init__(self, tables: int = 3, patched: bool = False, unheard: bool = False) -> None:
        self.kernel = Kernel(patched)
        self.vm = self.kernel.add(KVM)
        self.model = Model(ROLES, FUNCTIONS)
        self.number = 0
        grown(self.vm, tables)
        if unheard:
            self.kernel.ring.take()
        self.hear()

    def hear(self) -> Vm:
        """The model takes what there is."""
        self.model.feed(self.kernel.ring.take())
        return self.model.vm(KVM) if KVM in self.model.progress() else Vm(0, 0, ROLES, self.model._causes, None)

    def walk(self) -> Vm:
        """A whole walk without the lock, which must not be void, is heard."""
        self.number += 1
        first = True
        while True:
            flags = self.kernel.walk(KVM, self.number, first)
            first = False
            assert not flags & Flags.VOID
            if flags & Flags.LAST:
                return self.hear()

    def same(self) -> bool:
        """Whether the model is exact and is the kernel's list."""
        vm = self.model.vm(KVM)
        return vm.exact and [(page.spt, page.gfn, page.role, page.parents) for page in vm.tree()] == self.vm.tree()
