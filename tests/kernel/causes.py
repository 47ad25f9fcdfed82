# SPDX-License-Identifier: Apache-2.0
"""Ways to have KVM zap shadow pages, at least one for each cause that a zap can have."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tests.kernel.witness import Stack
from tests.lab.errors import LabError
from tests.lab.machine import Lab
from tests.lab.workload import Vmm, Workload

PARAMETERS = "/sys/module/kvm/parameters"
RECOVERY_SECONDS = 60.0


@dataclass(frozen=True)
class Trigger:
    """What leads to zaps with one cause, on a VMM that has done its first round."""

    name: str
    cause: str | None  # None: KVM drops an edge of the tree, but zaps no page
    pull: Callable[[Lab, Vmm], object]
    #: Each of these functions is in the stack, under one of its names: the innermost first.
    through: tuple[frozenset[str], ...]
    pages: int = 256  # the limit; the guest wants 150
    nested: bool = False  # needs KVM with nested paging, and guests in guests

    def workload(self) -> Workload:
        """Return what the VMM is to be started with."""
        return Workload(f"trigger-{self.name}", accesses=2_000, pages=self.pages, nested=self.nested)

    def leads_to(self, stack: Stack) -> bool:
        """Return whether this is one of the stacks that the trigger is for."""
        rest = iter(stack)
        return all(any(function in names for function in rest) for names in self.through)


@contextmanager
def parameters(lab: Lab, **values: str | int) -> Iterator[None]:
    """Set parameters of the kvm module for a while."""
    before = {name: lab.run(f"cat {PARAMETERS}/{name}").stdout.strip() for name in values}
    try:
        _set(lab, values)
        yield
    finally:
        _set(lab, before)


def _set(lab: Lab, values: Mapping[str, str | int]) -> None:
    for name, value in values.items():
        lab.run(["tee", f"{PARAMETERS}/{name}"], stdin=f"{value}\n")


def _do(*commands: str) -> Callable[[Lab, Vmm], None]:
    """Return a trigger that gives the VMM these commands."""

    def pull(_: Lab, vmm: Vmm) -> None:
        for command in commands:
            vmm.do(command)

    return pull


def _shrink(lab: Lab, _: Vmm) -> None:
    # A fifth of what there is for each time, which the kernel saves up until it is worth while.
    lab.run("for i in 1 2 3 4 5 6 7 8; do echo 2 >/proc/sys/vm/drop_caches; done")


def _zap_all(lab: Lab, _: Vmm) -> None:
    with parameters(lab, nx_huge_pages="force"):
        pass


def _free_root(lab: Lab, vmm: Vmm) -> None:
    _zap_all(lab, vmm)
    vmm.again()


def _recover(lab: Lab, vmm: Vmm) -> None:
    with parameters(lab, nx_huge_pages="force", nx_huge_pages_recovery_ratio=1):
        if not vmm.do("exec").counters["nx_lpage_splits"]:
            raise LabError("the lab had no huge page for the guest")
        with parameters(lab, nx_huge_pages_recovery_period_ms=10):
            deadline = time.monotonic() + RECOVERY_SECONDS
            while vmm.counters()["nx_lpage_splits"]:
                if time.monotonic() > deadline:
                    raise LabError(f"KVM did not recover a huge page in {RECOVERY_SECONDS:.0f} s")


def _quit(_: Lab, vmm: Vmm) -> None:
    vmm.quit()


def _names(*names: str) -> frozenset[str]:
    return frozenset(names)


_OLDEST = _names("kvm_mmu_zap_oldest_mmu_pages")
_FAST = _names("kvm_mmu_zap_all_fast", "__kvm_mmu_zap_all_fast_front_half", "kvm_zap_obsolete_pages")
_WRITE = _names("kvm_mmu_pte_write", "kvm_mmu_track_write")
_UNPROTECT = _names("kvm_mmu_unprotect_page", "__kvm_mmu_unprotect_gfn_and_retry")

TRIGGERS: Mapping[str, Trigger] = {
    trigger.name: trigger
    for trigger in (
        Trigger("quota", "quota", _do("run"), (_OLDEST, _names("paging64_page_fault")), pages=64),
        Trigger("resize", "resize", _do("resize 64"), (_OLDEST, _names("kvm_mmu_change_mmu_pages"))),
        Trigger("shrinker", "shrinker", _shrink, (_OLDEST, _names("mmu_shrink_scan"))),
        Trigger(
            "memslot",
            "memslot",
            _do("memslot"),
            (_names("kvm_page_track_flush_slot", "kvm_arch_flush_shadow_memslot"),),
        ),
        Trigger("zap_all", "zap_all", _zap_all, (_FAST, _names("set_nx_huge_pages"))),
        Trigger("teardown", "teardown", _quit, (_names("kvm_mmu_zap_all", "kvm_arch_flush_shadow_all"),)),
        Trigger("flood", "guest_write", _do("write 3"), (_WRITE,)),
        Trigger("write", None, _do("write 1"), ()),
        Trigger("unprotect", "unprotect", _do("stos"), (_UNPROTECT,)),
        # A directory's unsync tables go with it.
        Trigger(
            "unprotect_unsync",
            "unprotect",
            _do("unsync", "stos"),
            (_names("mmu_zap_unsync_children"), _UNPROTECT),
        ),
        Trigger("reuse", "sync", _do("unsync", "reuse"), (_names("__kvm_mmu_get_shadow_page", "kvm_mmu_get_page"),)),
        Trigger("reload", "sync", _do("unsync", "reload"), (_names("mmu_sync_children"),)),
        Trigger(
            "nx_recovery",
            "nx_recovery",
            _recover,
            (_names("kvm_nx_lpage_recovery_worker", "kvm_nx_huge_page_recovery_worker"),),
        ),
        # A root that a processor uses is zapped, and once more when the processor has taken another.
        Trigger("root_free", "root_free", _free_root, (_names("mmu_free_root_page"),)),
        # What nobody points to any more of the tables of a nested guest goes with what pointed to it.
        Trigger("quota_nested", "quota", _do("run"), (_names("mmu_page_zap_pte"), _OLDEST), pages=64, nested=True),
        Trigger(
            "relink",
            "link",
            _do("relink"),
            (_names("__link_shadow_page", "link_shadow_page"),),
            nested=True,
        ),
    )
}
