# SPDX-License-Identifier: Apache-2.0
"""One VM's recorded faults, played to a list that another policy keeps.

What is recorded are the faults that build page tables, each a chain of sptes from a page that was there down to
level 1, and what became of the pages in the kernel's own list. A policy that zaps other pages meets these faults with
other pages in place: some find all there and would not have been, others must build more. And for pages that the
recorded guest had all the time, which the policy has not, nothing was recorded (unseen.py).
"""

from __future__ import annotations

from shadowwatch.mmu.cause import CauseTables, Unsettled
from shadowwatch.mmu.curve import MIN_FREE, REFILL
from shadowwatch.mmu.page import OFFSET, PAGE_SHIFT
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.simulate.kept import KeptList
from shadowwatch.simulate.page import NEVER, SimulatedPage
from shadowwatch.simulate.pages import Pages
from shadowwatch.simulate.policies import AS_RECORDED, Limit
from shadowwatch.simulate.policies.stock import Stock
from shadowwatch.simulate.unseen import Unseen
from shadowwatch.snapshot import Cause, Estimate

_BY_RECLAIM, _BY_PARENT, _QUOTA = int(Unsettled.BY_RECLAIM), int(Unsettled.BY_PARENT), int(Cause.QUOTA)
_NO_RECLAIM = -1


class SimulatedVm(KeptList):
    """The list of one VM under a policy, fed with what was recorded under another."""

    __slots__ = (
        "_by_reclaim",
        "_causes",
        "_chosen",
        "_due",
        "_faulted",
        "_fresh",
        "_higher",
        "_leaders",
        "_limit",
        "_lowered",
        "_pages",
        "_parent",
        "_rebuilt",
        "_reclaiming",
        "_recorded_limit",
        "_roles",
        "_swept",
        "_tables",
        "_told",
        "_unlisted",
        "_unseen",
        "faults",
        "limit",
        "raised",
        "recorded_faults",
        "recorded_refaults",
        "recorded_zaps",
        "reproduced",
    )

    def __init__(
        self,
        kvm: int,
        pid: int,
        roles: RoleLayout,
        causes: CauseTables,
        policy: Stock,
        limit: Limit = AS_RECORDED,
        whole: bool = False,
        second_chances: bool = False,
    ) -> None:
        super().__init__(kvm, pid, policy, whole)
        self._roles = roles
        self._causes = causes
        #: Whether a move is one that the policy is told by: an accessed bit's, or that of a new child or mapping.
        self._told = second_chances == policy.by_access
        #: What limits the list, and what limited the recorded one.
        self._limit = limit
        self._recorded_limit = 0
        self._lowered = self._higher = False
        self.limit = 0
        #: Whether KVM's lowest limit stands for a lower one that was asked for.
        self.raised = False
        self.faults = 0
        self.recorded_faults = self.recorded_zaps = self.recorded_refaults = 0
        #: Recorded zaps that the policy made, too, in the same reclaim and the same order.
        self.reproduced = 0
        self._unseen = Unseen()
        self.forget()

    def forget(self) -> None:
        """Events were lost: the pages are not known any more, and the events from here on build them up again."""
        self._empty()
        self._pages = Pages(self._roles)
        self._tables: dict[int, SimulatedPage] = {}
        #: Pages that KVM counts but has not on the list, as roots that were zapped while in use.
        self._unlisted = 0
        #: The page that was allocated last, until its spte is written: a root has none.
        self._fresh: SimulatedPage | None = None
        #: Whose sptes the fault that is under way writes next, and whether it is one to the policy, too.
        self._parent: SimulatedPage | None = None
        self._faulted = False
        #: The reclaim that is under way: its cause, the pages that it zapped, those of them that took others along.
        self._reclaiming = _NO_RECLAIM
        self._chosen: list[SimulatedPage] = []
        self._leaders: list[SimulatedPage] = []
        self._by_reclaim = False
        #: The policy's reclaim, which is to be compared with that one, is still due.
        self._due = False
        #: When the last recorded reclaim was, and what the fault that it was for built of what it took.
        self._swept = 0
        self._rebuilt: list[tuple[SimulatedPage, SimulatedPage]] = []

    @property
    def blank(self) -> bool:
        """Whether no page is known."""
        return not self._tables

    def lose(self, events: int) -> None:
        """So many events of this VM were lost: begin again with what is heard from here on."""
        self.forget()

    def alloc(self, ns: int, spt: int, gfn: int, role: int, limit: int, used: int, mapped: int) -> None:
        """A page was allocated; its spte may be written next."""
        if self._reclaiming >= 0:
            self._end_reclaim()
        if self._fresh:
            self._root(self._fresh)
        page = self._pages.get(gfn, role, len(self._list) + len(self._tables))
        if page.reclaimed:
            self.recorded_refaults += 1
        page.recorded = True
        self._tables[spt >> PAGE_SHIFT] = page
        if limit != self._recorded_limit:
            self._recorded_limit = limit
            self.limit = self._limit.instead_of(limit)
            self._lowered = self._lowered or self.limit < limit
            self._higher = self.limit > limit
            self.raised = self._limit.too_low(limit)
        self._unlisted = used - len(self._tables)
        self._fresh = page

    def known(self, spt: int, gfn: int, role: int, parent_pte: int) -> None:
        """A walk over the kernel's list told of a page: of those so far the newest."""
        if spt >> PAGE_SHIFT in self._tables:
            return
        page = self._pages.get(gfn, role, len(self._list) + len(self._tables))
        page.recorded = True
        self._tables[spt >> PAGE_SHIFT] = page
        if not page.resident:
            self._place(page)
        parent = self._tables.get(parent_pte >> PAGE_SHIFT)
        if parent is not None and parent.level > page.level:
            page.up = parent
            page.slot = parent_pte & OFFSET
            page.links[parent] = page.parents[parent] = self._clock
            parent.children[page] = page.slot

    def unlink(self, ns: int, parent_pte: int) -> None:
        """An spte maps memory, maybe in place of a page: no fault that builds a page table."""
        parent = self._tables.get(parent_pte >> PAGE_SHIFT)
        if parent is not None:
            self._cut(parent, range(parent_pte & OFFSET, (parent_pte & OFFSET) + 1))

    def write(self, address: int) -> None:
        """The guest wrote to a page of its own: the sptes made from what was there are cleared."""
        for page, offsets in self._pages.written(address):
            self._cut(page, offsets)

    def link(self, ns: int, spt: int, parent_pte: int) -> None:
        """A fault makes an spte point to a page."""
        if self._reclaiming >= 0:
            self._end_reclaim()
        child, parent = self._tables.get(spt >> PAGE_SHIFT), self._tables.get(parent_pte >> PAGE_SHIFT)
        fresh = self._fresh
        if fresh is not None:
            self._fresh = None
            if fresh is not child:
                self._root(fresh)
        if child is None or parent is None or parent.level <= child.level:
            self._end_fault()
            self._parent = None
            return
        if self._policy.by_access:
            # The processor got as far as it could before KVM made room, and all the way after that.
            self._go_through(parent)
            self._linked(child, parent, parent_pte)
            self._go_through(child)
        else:
            self._linked(child, parent, parent_pte)

    def _linked(self, child: SimulatedPage, parent: SimulatedPage, parent_pte: int) -> None:
        begins = parent is not self._parent
        if begins:
            # Another fault: the path down to the parent was in place.
            if self._parent is not None:
                self._end_fault()
            self._clock += 1
            self._faulted = False
            self.recorded_faults += 1
        self._parent = child
        clock = self._clock
        written = child.links.get(parent)
        child.links[parent] = clock
        child.up = parent
        child.slot = parent_pte & OFFSET
        # Did reclaim take away what was here? If not, the guest did, or it is new: then it is a fault to every policy.
        taken = False
        if written is not None:
            broken = min(parent.broke(written), child.broke(written))
            taken = broken < NEVER
            if taken:
                if child.level == 1:
                    if not child.lost:
                        self._unseen.lost(child, broken, self._higher)
                    broken = child.lost
                if broken == self._swept == clock - 1 and not self._faulted:
                    # Gone by the reclaim that made room for this very fault: perhaps all of it was in place before.
                    self._unseen.back(child, clock)
                    self._rebuilt.append((parent, child))
                    return
                if child.level == 1:
                    self._unseen.came_back(child, clock - broken)
        self._unseen.back(child, clock)
        kept = taken and child.resident and child.parents.get(parent, -1) >= parent.died
        if kept and (begins or self._rebuilt):
            kept = self._in_reach(parent)
        self._rebuilt = []
        if kept:
            return
        if child.level == 1 and self._higher:
            self._unseen.reached(child, clock)
        self._fault(parent)
        self._attach(parent, child)

    def _fault(self, parent: SimulatedPage) -> None:
        """The fault that is under way is one to the policy, too."""
        if not self._faulted:
            self._faulted = True
            self.faults += 1
            self._make_room()
            self._reach(parent)

    def _end_fault(self) -> None:
        """The fault that the last reclaim made room for is over, and no room is due any more."""
        self._settle()
        if not self._due:
            return
        if self._parent is None:
            # It built no page table, so it is a fault to every policy.
            self._make_room()
        else:
            # The policy had kept all that it built: no fault, so KVM would have reclaimed nothing.
            self._victims = []
            self._compare()

    def _settle(self) -> None:
        """The fault is over. If it only built what its own reclaim took, it was for a page of the guest's."""
        rebuilt, self._rebuilt = self._rebuilt, []
        for parent, child in rebuilt:
            self._fault(parent)
            self._attach(parent, child)

    def move(self, spt: int) -> None:
        """mmu_parent_walk() moved a page to the head."""
        page = self._tables.get(spt >> PAGE_SHIFT)
        if page is None:
            return
        if self._due:
            if self._rebuilt and page.level > 1:
                return  # the policy moves it itself when it builds that
            # A page of the guest's was mapped, by a fault that builds nothing.
            self._settle()
            if self._due and self._parent is None:
                self._make_room()
        if page.resident and self._told:
            self._policy.moved(self._list, page)

    def _root(self, page: SimulatedPage) -> None:
        """The page that was allocated last has no spte: it is a root."""
        self._fresh = self._parent = None
        self._settle()
        self._clock += 1
        # Room is made before it is loaded, and may be made of it, if it was there.
        there, page.recorded = page.recorded, False
        self._make_room()
        page.recorded = there
        page.up = None
        if not page.resident:
            self._place(page)
        if not page.loaded:
            self._load(page)

    def reclaim(self, ns: int, caller: int, mapped: int) -> None:
        """The oldest pages are about to be zapped; their zaps follow."""
        if self._reclaiming >= 0:
            self._end_reclaim()
        if self._fresh:
            self._root(self._fresh)
        self._end_fault()
        self._parent = None
        self._reclaiming = self._causes.reclaim[caller]

    def flush(self, caller: int) -> None:
        """All pages became obsolete; their zaps follow."""

    def zap(self, run: list[tuple[int, ...]]) -> None:
        """Pages are being zapped."""
        for _, _, spt, _, _, _, _, role, _, _, _, caller, _, _, _ in run:
            self._zapped(spt, role, caller)

    def _zapped(self, spt: int, role: int, caller: int) -> None:
        cause = self._causes.zap[caller]
        if cause == _BY_RECLAIM:
            self._by_reclaim = True
        elif cause != _BY_PARENT:
            self._by_reclaim = False
            if self._reclaiming >= 0:
                self._end_reclaim()
            self._end_fault()
        if role & self._roles.invalid:
            return
        page = self._tables.pop(spt >> PAGE_SHIFT, None)
        if page is None:
            return
        page.recorded = False
        if page is self._fresh:
            self._root(page)
        if not self._by_reclaim:
            # The guest, its VMM or the kernel wanted it gone, whatever the policy.
            if page.resident:
                self._remove(page)
            page.links = {}
            page.before = page.reclaimed = page.died = 0
            return
        self.recorded_zaps += 1
        self._chosen.append(page)
        if cause == _BY_PARENT and self._leaders:
            leader = self._leaders[-1]
            if leader.followers is None:
                leader.followers = []
            leader.followers.append(page)
        else:
            self._leaders.append(page)

    def _end_reclaim(self) -> None:
        """The recorded reclaim is over. What made room has the policy's made with the fault that it was for."""
        cause, self._reclaiming = self._reclaiming, _NO_RECLAIM
        clock = self._clock = self._clock + 1
        for page in self._chosen:
            if page.level == 1:
                self._unseen.lost(page, clock, self._higher)
        for page in self._chosen:
            page.before, page.reclaimed = page.reclaimed, clock
        if cause == _QUOTA:
            self._due = True
            self._swept = clock
        else:
            self._zap_oldest(len(self._chosen))
            self._compare()

    def _compare(self) -> None:
        """The policy's own reclaim is over, too."""
        self._due = False
        if self._victims == self._chosen:
            self.reproduced += len(self._chosen)
        for leader in self._leaders:
            leader.followers = None
        self._chosen = []
        self._leaders = []

    def _make_room(self) -> None:
        """As make_mmu_pages_available() does at the beginning of each fault."""
        free = self.limit - len(self._list) - self._unlisted
        self._victims = []
        if free < MIN_FREE and self.limit:
            self._zap_oldest(REFILL - max(0, free))
        if self._due:
            self._compare()

    def end(self) -> Estimate:
        """What came of it; no more is heard of the VM."""
        self._settle()
        for page in self._pages:
            self._unseen.back(page, NEVER)
        return self.estimate()

    def estimate(self) -> Estimate:
        """What came of it so far, but for a fault that is under way."""
        return Estimate(
            faults=self.faults,
            zaps=self.zaps,
            refaults=self.refaults,
            unseen=self._unseen.number,
            likely=self._unseen.likely(),
            recorded_faults=self.recorded_faults,
            recorded_zaps=self.recorded_zaps,
            recorded_refaults=self.recorded_refaults,
            reproduced=self.reproduced,
            lowered=self._lowered,
        )
