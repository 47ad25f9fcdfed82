# SPDX-License-Identifier: Apache-2.0
"""One VM's shadow MMU, rebuilt from its events."""

from __future__ import annotations

from shadowwatch.event.abi import Cause, Kind
from shadowwatch.mmu.active import ActiveMmuPages
from shadowwatch.mmu.histogram import Distribution, Histogram
from shadowwatch.mmu.page import SPT_MASK, Page, Parenting
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.mmu.snapshot import PageSnapshot, VmSnapshot

#: Level 1 tables to level 5 roots, indexed by level; 0 and 6–15 only if an event is damaged.
LEVELS = 16

AGE_BOUNDS = tuple(1 << power for power in range(0, 21, 2))
SECONDS_BOUNDS = tuple(float(f"{step}e{power}") for power in range(-5, 3) for step in (1, 3))
POSITION_BOUNDS = tuple(step / 10 for step in range(11))

_OTHER, _RECLAIM = int(Cause.OTHER), int(Cause.RECLAIM)

_NO_CHILDREN: dict[int, Page] = {}

#: How many zapped pages a VM remembers for refaults: at least this many in each of two generations.
REMEMBERED = 1024


class Vm:
    """The shadow pages of one VM, what points to what, and their order on active_mmu_pages.

    `exact` tells whether the model holds the very pages that the kernel does. The model
    never holds a page that the kernel has not: it forgets all of them when an event is
    lost. So it is exact again as soon as it holds as many as KVM counts
    (kvm->arch.n_used_mmu_pages, which comes with each allocation).
    """

    __slots__ = (
        "active",
        "allocated",
        "allocations",
        "directories",
        "ended_ns",
        "exact",
        "invalid",
        "kvm",
        "levels",
        "limit",
        "links",
        "lost",
        "moves",
        "name",
        "orphans",
        "pages",
        "parenting_age",
        "parenting_age_seconds",
        "pid",
        "recent_ns",
        "recently_parented_zaps",
        "refault_distance",
        "refaults",
        "resyncs",
        "root_zaps",
        "seq",
        "strangers",
        "zap_position",
        "zapped",
        "zapped_before",
        "zaps",
    )

    def __init__(self, kvm: int, pid: int, roles: RoleLayout, recent_ns: int | None) -> None:
        self.kvm = kvm
        self.pid = pid
        self.name = ""
        self.levels = roles.levels
        self.invalid = roles.invalid
        self.recent_ns = recent_ns
        self.ended_ns: int | None = None
        self.seq = 0
        self.lost = 0
        self.resyncs = 0
        self.exact = False
        self.limit = 0
        #: spt -> page: all of them, and those above level 1.
        self.pages: dict[int, Page] = {}
        self.directories: dict[int, Page] = {}
        self.active = ActiveMmuPages()
        self.orphans = 0
        #: The VM's own clock: pages allocated so far.
        self.allocated = 0
        self.allocations = [0] * LEVELS
        self.links = 0
        self.moves = 0
        self.zaps = [[0] * LEVELS for _ in Cause]
        self.root_zaps = 0
        self.recently_parented_zaps = [0] * LEVELS
        self.refaults = [0] * LEVELS
        self.refault_distance = Histogram(AGE_BOUNDS)
        self.parenting_age: dict[int, Histogram] = {}
        self.parenting_age_seconds: dict[int, Histogram] = {}
        self.zap_position: dict[int, Histogram] = {}
        #: (gfn, role) of zapped pages -> `allocated` at that time, in two generations.
        self.zapped: dict[int, int] = {}
        self.zapped_before: dict[int, int] = {}
        #: Events about a page that the model does not hold, by kind.
        self.strangers = [0] * (max(Kind) + 1)

    def lose(self, events: int) -> None:
        """So many events of this VM were lost: forget the pages, for some of them may be gone."""
        self.lost += events
        self.exact = False
        self._forget_pages()

    def end(self, ns: int) -> None:
        """The VM is gone, and its pages with it; its figures stay."""
        self.ended_ns = ns
        self._forget_pages()

    def _forget_pages(self) -> None:
        self.pages = {}
        self.directories = {}
        self.active = ActiveMmuPages()
        self.orphans = 0
        self.zapped = {}
        self.zapped_before = {}

    def alloc(self, spt: int, gfn: int, role: int, limit: int, used: int) -> None:
        """A page was allocated; it is the newest on the list."""
        pages = self.pages
        if spt in pages:
            self.strangers[Kind.ALLOC] += 1
            self._remove(pages[spt])
        level = self.levels[role]
        age = self.active.add(pages)
        if level > 1:
            pages[spt] = self.directories[spt] = Page(spt, gfn, role, age, {})
        else:
            pages[spt] = Page(spt, gfn, role, age, _NO_CHILDREN)
        self.allocated += 1
        self.allocations[level] += 1
        self.limit = limit
        identity = gfn << 32 | role
        then = self.zapped.pop(identity, None)
        if then is None:
            then = self.zapped_before.pop(identity, None)
        if then is not None:
            self.refaults[level] += 1
            self.refault_distance.observe(self.allocated - then)
        if not self.exact and used == len(pages):
            self.exact = True
            if self.lost:
                self.resyncs += 1

    def link(self, ns: int, spt: int, parent_pte: int) -> None:
        """An spte was made to point to a page: all directories above are parented now."""
        self.links += 1
        child = self.pages.get(spt)
        parent = self.directories.get(parent_pte & SPT_MASK)
        if child is None or parent is None:
            self.strangers[Kind.LINK] += 1
            return
        before = parent.children.get(parent_pte)
        if before is not child:
            if before is not None and before.remove_parent(parent_pte):
                self.orphans += 1
            parent.children[parent_pte] = child
            if child.parent_pte:
                child.add_parent(parent_pte)
            else:
                if child.parent_pte == 0:
                    self.orphans -= 1
                child.parent_pte = parent_pte
        self._parented(parent, (self.allocated, self.moves, ns))

    def _parented(self, directory: Page, now: Parenting) -> None:
        # A page that has this very stamp was reached over another path: do not walk on from it.
        directories = self.directories
        while directory.parented is not now:
            directory.parented = now
            if directory.more_parents:
                for pte in directory.more_parents:
                    self._parented(directories[pte & SPT_MASK], now)
            if not directory.parent_pte:
                return
            directory = directories[directory.parent_pte & SPT_MASK]

    def move(self, spt: int) -> None:
        """mmu_parent_walk() moved a page to the head of the list."""
        self.moves += 1
        page = self.pages.get(spt)
        if page is None:
            self.strangers[Kind.MOVE] += 1
            return
        self.active.move(page, self.pages)

    def zap(self, ns: int, spt: int, role: int, cause: int) -> None:
        """A page is being zapped: it leaves the list, its children and its parents."""
        if role & self.invalid:
            # A root that was zapped while a vCPU used it left the list then; now it is freed.
            self.root_zaps += 1
            return
        level = self.levels[role]
        if cause > _RECLAIM:
            cause = _OTHER  # one that only a later version knows
        self.zaps[cause][level] += 1
        page = self.pages.get(spt)
        if page is None:
            self.strangers[Kind.ZAP] += 1
            return
        if cause == _RECLAIM:
            histogram = self.zap_position.get(level)
            if histogram is None:
                histogram = self.zap_position[level] = Histogram(POSITION_BOUNDS)
            histogram.observe(self.active.position(page.age))
            if page.parented:
                self._reclaimed(page.parented, level, ns)
        self._remove(page)
        zapped = self.zapped
        zapped[page.gfn << 32 | page.role] = self.allocated
        if len(zapped) > REMEMBERED and len(zapped) > len(self.pages) >> 2:
            self.zapped_before = zapped
            self.zapped = {}

    def _reclaimed(self, parented: Parenting, level: int, ns: int) -> None:
        allocated, moves, parented_ns = parented
        age = self.allocated - allocated
        age_ns = ns - parented_ns
        if level not in self.parenting_age:
            self.parenting_age[level] = Histogram(AGE_BOUNDS)
            self.parenting_age_seconds[level] = Histogram(SECONDS_BOUNDS)
        self.parenting_age[level].observe(age)
        self.parenting_age_seconds[level].observe(age_ns / 1e9)
        # A page put at the head is the oldest after one list-length of pages was put there:
        # allocated ones, and with the patched KVM moved ones, too.
        put_ahead = age + self.moves - moves
        recent = put_ahead < self.active.size if self.recent_ns is None else age_ns < self.recent_ns
        if recent:
            self.recently_parented_zaps[level] += 1

    def _remove(self, page: Page) -> None:
        directories = self.directories
        del self.pages[page.spt]
        self.active.remove(page.age)
        pte = page.parent_pte
        if pte:
            del directories[pte & SPT_MASK].children[pte]
            if page.more_parents:
                for pte in page.more_parents:
                    del directories[pte & SPT_MASK].children[pte]
        elif pte == 0:
            self.orphans -= 1
        if page.children is not _NO_CHILDREN:
            del directories[page.spt]
            for pte, child in page.children.items():
                if child.remove_parent(pte):
                    self.orphans += 1

    def freeze(self) -> VmSnapshot:
        """Copy the figures; the time that it takes depends on the directories, not on all pages."""
        return VmSnapshot(
            kvm=self.kvm,
            pid=self.pid,
            name=self.name,
            ended=self.ended_ns is not None,
            exact=self.exact,
            limit=self.limit,
            pages=self._pages_by_level(),
            orphans=self.orphans,
            allocations=_by_level(self.allocations),
            zaps={(level, cause): zaps for cause in Cause for level, zaps in _by_level(self.zaps[cause]).items()},
            root_zaps=self.root_zaps,
            recently_parented_zaps=_by_level(self.recently_parented_zaps),
            links=self.links,
            moves=self.moves,
            refaults=_by_level(self.refaults),
            refault_distance=self.refault_distance.freeze(),
            parenting_age=_frozen(self.parenting_age),
            parenting_age_seconds=_frozen(self.parenting_age_seconds),
            zap_position=_frozen(self.zap_position),
            lost=self.lost,
            resyncs=self.resyncs,
            strangers={kind: count for kind, count in enumerate(self.strangers) if count},
        )

    def _pages_by_level(self) -> dict[int, int]:
        counts = [0] * LEVELS
        counts[1] = len(self.pages) - len(self.directories)
        for directory in self.directories.values():
            counts[self.levels[directory.role]] += 1
        return _by_level(counts)

    def tree(self) -> tuple[PageSnapshot, ...]:
        """Copy every page, the newest on active_mmu_pages first."""
        newest_first = sorted(self.pages.values(), key=lambda page: -page.age)
        return tuple(
            PageSnapshot(
                spt=page.spt,
                gfn=page.gfn,
                role=page.role,
                level=self.levels[page.role],
                position=position,
                parents=frozenset(page.parents()),
                children=frozenset(child.spt for child in page.children.values()),
                parented=page.parented[0] if page.parented else None,
            )
            for position, page in enumerate(newest_first)
        )


def _by_level(counts: list[int]) -> dict[int, int]:
    return {level: count for level, count in enumerate(counts) if count}


def _frozen(histograms: dict[int, Histogram]) -> dict[int, Distribution]:
    return {level: histogram.freeze() for level, histogram in histograms.items()}
