# SPDX-License-Identifier: Apache-2.0
"""The list that a policy keeps, and what it zaps: one VM's simulated life."""

from __future__ import annotations

from collections import OrderedDict, deque

from shadowwatch.event.decoder import Life
from shadowwatch.simulate.page import SimulatedList, SimulatedPage
from shadowwatch.simulate.policies.stock import Stock

#: A vCPU has its root loaded, and KVM_MMU_NUM_PREV_ROOTS before it (arch/x86/include/asm/kvm_host.h).
LOADED = 4


def _slot(page: SimulatedPage) -> int:
    return page.slot


class KeptList(Life):
    """The pages that are there under a policy, on a clock that goes on with every fault and every reclaim."""

    __slots__ = ("_clock", "_list", "_loaded", "_policy", "_victims", "_whole", "refaults", "zaps")

    def __init__(self, kvm: int, pid: int, policy: Stock, whole: bool) -> None:
        super().__init__(kvm, pid)
        self._policy = policy
        #: Whether KVM counts all nested pages that go with a parent, as the patched one does, or one for each child.
        self._whole = whole
        self.zaps = self.refaults = 0
        self._empty()

    def _empty(self) -> None:
        self._clock = 1
        self._list: SimulatedList = OrderedDict()
        self._loaded: deque[SimulatedPage] = deque(maxlen=LOADED)
        #: What the last reclaim zapped.
        self._victims: list[SimulatedPage] = []

    def _in_reach(self, page: SimulatedPage) -> bool:
        """Whether a root leads to a page in the simulated life, as one did in the recorded one."""
        while (up := page.up) is not None:
            if not page.resident or page.parents.get(up, -1) < up.died:
                return False
            page = up
        if page.resident and not page.loaded:
            self._load(page)
        return page.resident

    def _go_through(self, page: SimulatedPage) -> bool:
        """Set the accessed bits on the way to a page, as far as it is there; return whether that is all the way."""
        up = page.up
        if up is None:
            return page.resident
        if not self._go_through(up) or not page.resident or page.parents.get(up, -1) < up.died:
            return False
        page.accessed = True
        return True

    def _reach(self, page: SimulatedPage) -> None:
        """Build the path to a page, as far as it is not there."""
        up = page.up
        if up is None:
            if not page.resident:
                self._place(page)
            if not page.loaded:
                self._load(page)
            return
        self._reach(up)
        if not page.resident or page.parents.get(up, -1) < up.died:
            self._attach(up, page)

    def _attach(self, parent: SimulatedPage, child: SimulatedPage) -> None:
        if not child.resident:
            self._place(child)
        child.parents[parent] = self._clock
        parent.children[child] = child.slot
        self._policy.linked(self._list, parent)

    def _cut(self, parent: SimulatedPage, offsets: range) -> None:
        """What sptes at these offsets lead to is not led to by them any more, in either life."""
        for child in [child for child, offset in parent.children.items() if offset in offsets]:
            del parent.children[child]
            del child.parents[parent]
            child.links.pop(parent, None)
            child.accessed = False

    def _place(self, page: SimulatedPage) -> None:
        """Allocate a page."""
        if page.died:
            self.refaults += 1
        page.resident = True
        self._list[page] = None

    def _load(self, root: SimulatedPage) -> None:
        if len(self._loaded) == LOADED:
            self._loaded[0].loaded = False
        root.loaded = True
        self._loaded.append(root)

    def _zap_oldest(self, wanted: int) -> None:
        """As kvm_mmu_zap_oldest_mmu_pages() does, but for the order."""
        self._victims = []
        chosen: list[SimulatedPage] = []
        for page in self._policy.candidates(self._list, wanted, self._clock):
            if len(chosen) >= wanted:
                break
            if not page.in_use:
                chosen.append(page)
        zapped = 0
        for page in chosen:
            if zapped >= wanted:
                break
            if page.resident:
                zapped += self._zap(page)

    def _zap(self, page: SimulatedPage) -> int:
        """Zap a page and what goes with it; return how many pages that is to KVM."""
        children = page.children
        self._remove(page)
        page.died = self._clock
        self.zaps += 1
        self._victims.append(page)
        counted = 1
        for follower in page.followers or ():
            if follower.resident:
                went = self._zap(follower)
                counted += went if self._whole else 1
        for child in sorted((child for child in children if child.nested), key=_slot):
            if child.resident and not any(child.directories()):
                went = self._zap(child)
                counted += went if self._whole else 1
        return counted

    def _remove(self, page: SimulatedPage) -> None:
        page.resident = page.accessed = False
        for parent in page.parents:
            parent.children.pop(page, None)
        page.parents = {}
        page.children = {}
        del self._list[page]
