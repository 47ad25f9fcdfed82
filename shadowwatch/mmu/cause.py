# SPDX-License-Identifier: Apache-2.0
"""Why a page was zapped, by the kernel function that asked for it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from enum import IntEnum

from shadowwatch.snapshot import Cause


class Unsettled(IntEnum):
    """Callers that do not tell why by themselves: the page or another event does. Numbers that no Cause has."""

    BY_RECLAIM = -1
    BY_FLUSH = -2
    BY_PARENT = -3
    BY_SYNC = -4


#: Who calls __kvm_mmu_prepare_zap_page(), from the call graphs of Debian's 6.1, 6.12 and 7.3 and
#: Ubuntu's 5.4. A clone (.isra, .constprop, .part, .cold) is filed under its function's name.
ZAPPERS: Mapping[str, Cause | Unsettled] = {
    "kvm_mmu_zap_oldest_mmu_pages": Unsettled.BY_RECLAIM,
    "prepare_zap_oldest_mmu_page": Unsettled.BY_RECLAIM,  # until 5.8: ebdb292dac79 batched it
    "kvm_mmu_zap_all_fast": Unsettled.BY_FLUSH,
    "__kvm_mmu_zap_all_fast_front_half": Unsettled.BY_FLUSH,  # v7.3 (b27622c4eeb1)
    "kvm_zap_obsolete_pages": Unsettled.BY_FLUSH,
    "__kvm_mmu_prepare_zap_page": Unsettled.BY_PARENT,
    "kvm_mmu_zap_page": Unsettled.BY_PARENT,  # patched KVM
    "kvm_mmu_page_unlink_children": Unsettled.BY_PARENT,
    "mmu_zap_unsync_children": Unsettled.BY_PARENT,
    "mmu_page_zap_pte": Unsettled.BY_PARENT,
    "kvm_arch_flush_shadow_memslot": Cause.MEMSLOT,  # v6.12: one slot's pages, if so wished (aa8d1f48d353)
    "kvm_mmu_zap_memslot": Cause.MEMSLOT,
    "kvm_mmu_zap_memslot_pages_and_flush": Cause.MEMSLOT,
    "kvm_mmu_zap_all": Cause.TEARDOWN,
    "kvm_arch_flush_shadow_all": Cause.TEARDOWN,
    "kvm_mmu_pte_write": Cause.GUEST_WRITE,
    "kvm_mmu_track_write": Cause.GUEST_WRITE,  # v6.6 (932844462ae3)
    "kvm_mmu_unprotect_page": Cause.UNPROTECT,
    "__kvm_mmu_unprotect_gfn_and_retry": Cause.UNPROTECT,  # v6.12 (6b3dcabc1091)
    "kvm_mmu_get_page": Cause.SYNC,
    # Pages that are not in sync; and since e4558c3d7198 (in 6.12.118, too) one with 1,000 parents that would get one
    # more. Who is both counts as not in sync.
    "__kvm_mmu_get_shadow_page": Unsettled.BY_SYNC,
    "kvm_mmu_find_shadow_page": Unsettled.BY_SYNC,
    "mmu_sync_children": Cause.SYNC,
    "kvm_sync_page": Cause.SYNC,
    "__kvm_sync_page": Cause.SYNC,
    "kvm_nx_lpage_recovery_worker": Cause.NX_RECOVERY,
    "kvm_recover_nx_lpages": Cause.NX_RECOVERY,
    "kvm_nx_huge_page_recovery_worker": Cause.NX_RECOVERY,  # v6.2 (55c510e26ab6)
    "kvm_recover_nx_huge_pages": Cause.NX_RECOVERY,
    "mmu_free_root_page": Cause.ROOT_FREE,
    "__link_shadow_page": Cause.LINK,
    "link_shadow_page": Cause.LINK,
}

#: Who calls kvm_mmu_zap_oldest_mmu_pages(), but for the page fault handlers that make room.
RECLAIMERS = {
    "kvm_mmu_change_mmu_pages": Cause.RESIZE,
    "mmu_shrink_scan": Cause.SHRINKER,
}

#: Who calls kvm_mmu_zap_all_fast() because a memory slot goes; others want all pages gone.
FLUSHERS = {
    "kvm_arch_flush_shadow_memslot": Cause.MEMSLOT,
    "kvm_mmu_invalidate_zap_pages_in_memslot": Cause.MEMSLOT,
    "kvm_page_track_flush_slot": Cause.MEMSLOT,
}

#: The functions whose place in the kernel's text is worth knowing.
CALLERS = frozenset({*ZAPPERS, *RECLAIMERS, *FLUSHERS})

#: (name, first address, address behind): where a function or a clone of it is, lower halves.
Function = tuple[str, int, int]


class Causes(dict[int, int]):
    """Return address -> number of a Cause or Unsettled, worked out once for each of the few addresses there are."""

    def __init__(self, functions: Iterable[Function], causes: Mapping[str, Cause | Unsettled], unknown: Cause) -> None:
        super().__init__()
        self._causes = causes
        self._unknown = int(unknown)
        self._functions = sorted((start, end, name) for name, start, end in functions)

    def __missing__(self, address: int) -> int:
        cause = self[address] = self._find(address)
        return cause

    def _find(self, address: int) -> int:
        # A call may be a function's last instruction, and then returns behind it: look one byte before.
        place = bisect_right(self._functions, (address - 1, 1 << 64, ""))
        if place:
            start, end, name = self._functions[place - 1]
            if start < address <= end:
                return int(self._causes.get(name, self._unknown))
        return self._unknown


class CauseTables:
    """The three tables for one kernel."""

    def __init__(self, functions: Iterable[Function]) -> None:
        functions = tuple(functions)
        #: Whether the kernel tells where they are.
        self.known = bool(functions)
        self.zap = Causes(functions, ZAPPERS, Cause.OTHER)
        self.reclaim = Causes(functions, RECLAIMERS, Cause.QUOTA)
        self.flush = Causes(functions, FLUSHERS, Cause.ZAP_ALL)
