# SPDX-License-Identifier: Apache-2.0
"""One VM's shadow MMU, rebuilt from its events."""

from __future__ import annotations

from collections import deque

from shadowwatch.event.abi import UNCOUNTED, Flags, Kind
from shadowwatch.mmu.active import ActiveMmuPages
from shadowwatch.mmu.cause import CAUSES, RECLAIM, Cause, CauseTables
from shadowwatch.mmu.histogram import Distribution, Histogram
from shadowwatch.mmu.page import SPT_MASK, Page, Parenting
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.mmu.snapshot import PageSnapshot, VmDetail, VmSnapshot, ZapSnapshot

#: Level 1 tables to level 5 roots, indexed by level; 0 and 6–15 only if an event is damaged.
LEVELS = 16

AGE_BOUNDS = tuple(1 << power for power in range(0, 21, 2))
SECONDS_BOUNDS = tuple(float(f"{step}e{power}") for power in range(-5, 3) for step in (1, 3))
POSITION_BOUNDS = tuple(step / 10 for step in range(11))

_BY_RECLAIM, _BY_FLUSH, _BY_PARENT = int(Cause.BY_RECLAIM), int(Cause.BY_FLUSH), int(Cause.BY_PARENT)

#: Whether a cause is reclaim, by its number.
_IS_RECLAIM = tuple(cause in RECLAIM for cause in CAUSES)

_NO_CHILDREN: dict[int, Page] = {}

#: Reclaim takes the oldest pages, so their mean position is near 1; below this it does not.
NEWEST_FIRST = 0.25

#: The mean is over about so many zaps.
ZAPS_TO_TELL = 64

#: How many of its last zaps a VM keeps for people to see.
LAST_ZAPS = 64

#: How many zapped pages a VM remembers for refaults: at least this many in each of two generations.
REMEMBERED = 1024


class Vm:
    """The shadow pages of one VM, what points to what, and their order on active_mmu_pages.

    `exact` tells whether the model holds the very pages that the kernel does. When an event
    is lost the pages are forgotten, for some of them may be gone. Then the model is exact
    again after a walk over the kernel's own list, or as soon as it holds as many pages as
    KVM counts (kvm->arch.n_used_mmu_pages, which comes with each allocation): it never
    holds one that the kernel has not.

    A walk tells the oldest page first, in steps, and events go on between the steps. Each
    page that it tells is newer than all that it told before, and what came after the walk
    began is nearer to the head than the walk is. So a page told is put at the head, wherever
    it was, and all are in their order when the walk ends there.
    """

    __slots__ = (
        "active",
        "allocated",
        "allocations",
        "audited",
        "audits",
        "called",
        "causes",
        "differing",
        "directories",
        "ended_ns",
        "exact",
        "flush_cause",
        "gfns",
        "kvm",
        "last_cause",
        "last_zaps",
        "levels",
        "limit",
        "links",
        "listed",
        "lost",
        "mapped",
        "mean_position",
        "moves",
        "name",
        "orphans",
        "pages",
        "parenting_age",
        "parenting_age_seconds",
        "pid",
        "recent_ns",
        "recently_parented_zaps",
        "reclaim_cause",
        "reclaims",
        "recursive_zaps",
        "refault_distance",
        "refaults",
        "resyncs",
        "roles",
        "root_zaps",
        "seq",
        "step_last",
        "step_left",
        "strangers",
        "told",
        "waiting",
        "walk",
        "writes",
        "written",
        "zap_causes",
        "zap_position",
        "zapped",
        "zapped_before",
        "zaps",
    )

    def __init__(self, kvm: int, pid: int, roles: RoleLayout, causes: CauseTables, recent_ns: int | None) -> None:
        self.kvm = kvm
        self.pid = pid
        #: What its process calls it, and the same made unlike all other VMs' names.
        self.called = ""
        self.name = ""
        self.roles = roles
        self.levels = roles.levels
        self.causes = causes
        self.zap_causes = causes.zap
        self.recent_ns = recent_ns
        self.ended_ns: int | None = None
        #: The walk over vm_list that told of this VM last.
        self.listed = 0
        self.seq = 0
        self.lost = 0
        self.resyncs = 0
        self.audits = 0
        self.audited = 0
        self.differing = 0
        self.exact = False
        self.limit = 0
        #: Guest pages of 4 KiB that sptes map, UNCOUNTED where the kernel does not count them.
        self.mapped = UNCOUNTED
        #: spt -> page: all of them, and those above level 1.
        self.pages: dict[int, Page] = {}
        self.directories: dict[int, Page] = {}
        self.active = ActiveMmuPages()
        self.orphans = 0
        #: The walk under way (0: none), how many records of its step are to come, whether it is
        #: the last, and how many steps were told so far, of this walk and others.
        self.walk = 0
        self.step_left = 0
        self.step_last = False
        self.told = 0
        #: spt of a directory that the walk has not come to -> {parent_pte in it: the page that it
        #: points to, and `writes` when that was told}; gfn -> [(`writes`, the address written to)] since.
        self.waiting: dict[int, dict[int, tuple[Page, int]]] = {}
        self.written: dict[int, list[tuple[int, int]]] = {}
        #: gfn -> directories that shadow it, made when a guest first writes to one.
        self.gfns: dict[int, set[int]] | None = None
        #: The VM's own clock: pages allocated so far.
        self.allocated = 0
        self.allocations = [0] * LEVELS
        self.links = 0
        self.moves = 0
        self.writes = 0
        self.reclaims = 0
        self.zaps = [[0] * LEVELS for _ in CAUSES]
        self.last_cause = int(Cause.OTHER)
        self.reclaim_cause = int(Cause.QUOTA)
        self.flush_cause = int(Cause.ZAP_ALL)
        #: As ZapSnapshot has them.
        self.last_zaps: deque[tuple[int, int, int, int, int, bool, bool]] = deque(maxlen=LAST_ZAPS)
        self.root_zaps = 0
        self.recursive_zaps = [0] * LEVELS
        self.recently_parented_zaps = [0] * LEVELS
        self.refaults = [0] * LEVELS
        self.refault_distance = Histogram(AGE_BOUNDS)
        self.parenting_age: dict[int, Histogram] = {}
        self.parenting_age_seconds: dict[int, Histogram] = {}
        self.zap_position: dict[int, Histogram] = {}
        #: The position of the last pages that reclaim zapped, each weighing less than the next.
        self.mean_position = 1.0
        #: (gfn, role) of zapped pages -> `allocated` at that time, in two generations.
        self.zapped: dict[int, int] = {}
        self.zapped_before: dict[int, int] = {}
        #: Events about a page that the model does not hold although it is exact, by kind.
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
        self.gfns = None
        self._end_walk()

    def alloc(self, spt: int, gfn: int, role: int, limit: int, used: int, mapped: int) -> None:
        """A page was allocated; it is the newest on the list."""
        pages = self.pages
        if spt in pages:
            # The walk that is under way may have told of it just before.
            if not self.walk:
                self.strangers[Kind.ALLOC] += 1
            self._remove(pages[spt])
        level = self.levels[role]
        self._add(spt, gfn, role, level)
        self.allocated += 1
        self.allocations[level] += 1
        self.limit = limit
        self.mapped = mapped
        identity = gfn << 32 | role
        then = self.zapped.pop(identity, None)
        if then is None:
            then = self.zapped_before.pop(identity, None)
        if then is not None:
            self.refaults[level] += 1
            self.refault_distance.observe(self.allocated - then)
        if not self.exact and used == len(pages) and not self.walk:
            self._exact_again()

    def _add(self, spt: int, gfn: int, role: int, level: int) -> Page:
        pages = self.pages
        age = self.active.add(pages)
        if level > 1:
            page = pages[spt] = self.directories[spt] = Page(spt, gfn, role, age, {})
            if self.gfns is not None:
                self.gfns.setdefault(gfn, set()).add(spt)
        else:
            page = pages[spt] = Page(spt, gfn, role, age, _NO_CHILDREN)
        return page

    def _exact_again(self) -> None:
        self.exact = True
        if self.lost:
            self.resyncs += 1

    def link(self, ns: int, spt: int, parent_pte: int) -> None:
        """An spte was made to point to a page: all directories above are parented now."""
        self.links += 1
        child = self.pages.get(spt)
        parent = self.directories.get(parent_pte & SPT_MASK)
        if child is None or parent is None:
            if self.exact:
                self.strangers[Kind.LINK] += 1
            if self.walk:
                self._link_later(parent_pte, child)
            elif parent is not None:
                self._disconnect(parent, parent_pte)
            return
        if parent.children.get(parent_pte) is not child:
            self._connect(parent, parent_pte, child)
        self._parented(parent, (self.allocated, self.moves, ns))

    def _connect(self, parent: Page, parent_pte: int, child: Page) -> None:
        before = parent.children.get(parent_pte)
        if before is not None and before.remove_parent(parent_pte):
            self.orphans += 1
        parent.children[parent_pte] = child
        if child.parent_pte:
            child.add_parent(parent_pte)
        else:
            if child.parent_pte == 0:
                self.orphans -= 1
            child.parent_pte = parent_pte

    def _link_later(self, parent_pte: int, child: Page | None) -> None:
        """The walk has yet to come to the parent, or to the child: then it tells of the link itself."""
        waiting = self.waiting.setdefault(parent_pte & SPT_MASK, {})
        if child is None:
            waiting.pop(parent_pte, None)
            parent = self.directories.get(parent_pte & SPT_MASK)
            if parent:
                self._disconnect(parent, parent_pte)
        else:
            waiting[parent_pte] = (child, self.writes)

    def _disconnect(self, parent: Page, parent_pte: int) -> None:
        child = parent.children.pop(parent_pte, None)
        if child is not None and child.remove_parent(parent_pte):
            self.orphans += 1

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

    def unlink(self, parent_pte: int) -> None:
        """An spte was made to map memory: if it pointed to a page before, it does so no more."""
        parent = self.directories.get(parent_pte & SPT_MASK)
        if parent is not None:
            self._disconnect(parent, parent_pte)
        elif self.waiting:
            self.waiting.get(parent_pte & SPT_MASK, {}).pop(parent_pte, None)

    def move(self, spt: int) -> None:
        """mmu_parent_walk() moved a page to the head of the list."""
        self.moves += 1
        page = self.pages.get(spt)
        if page is None:
            if self.exact:
                self.strangers[Kind.MOVE] += 1
            return
        self.active.move(page, self.pages)

    def zap(self, ns: int, spt: int, role: int, caller: int) -> None:
        """A page is being zapped: it leaves the list, its children and its parents."""
        cause = self.zap_causes[caller]
        chosen = cause != _BY_PARENT
        if cause < 0:
            if cause == _BY_RECLAIM:
                cause = self.reclaim_cause
            elif cause == _BY_FLUSH:
                cause = self.flush_cause
            else:
                cause = self.last_cause
        self.last_cause = cause
        if role & self.roles.invalid:
            # A root that was zapped while a vCPU used it left the list then; now it is freed.
            self.root_zaps += 1
            return
        level = self.levels[role]
        self.zaps[cause][level] += 1
        if not chosen:
            self.recursive_zaps[level] += 1
        page = self.pages.get(spt)
        if page is None:
            if self.exact:
                self.strangers[Kind.ZAP] += 1
            return
        recent = False
        if _IS_RECLAIM[cause]:
            if chosen:
                self._chosen(page, level)
            if page.parented:
                recent = self._reclaimed(page.parented, level, ns)
        self.last_zaps.append((ns, page.gfn, page.role, level, cause, not chosen, recent))
        self._remove(page)
        zapped = self.zapped
        zapped[page.gfn << 32 | page.role] = self.allocated
        if len(zapped) > REMEMBERED and len(zapped) > len(self.pages) >> 2:
            self.zapped_before = zapped
            self.zapped = {}

    def reclaim(self, caller: int, mapped: int) -> None:
        """The oldest pages are about to be zapped."""
        self.reclaims += 1
        self.mapped = mapped
        self.reclaim_cause = self.causes.reclaim[caller]

    def flush(self, caller: int) -> None:
        """All pages are about to be zapped, as those of an older generation."""
        self.flush_cause = self.causes.flush[caller]

    def write(self, address: int) -> None:
        """The guest wrote to a page of its own: the sptes made from what was there are cleared."""
        self.writes += 1
        if self.walk:
            self.written.setdefault(address >> 12, []).append((self.writes, address))
        gfns = self.gfns
        if gfns is None:
            gfns = self.gfns = {}
            for spt, directory in self.directories.items():
                gfns.setdefault(directory.gfn, set()).add(spt)
        for spt in gfns.get(address >> 12, ()):
            directory = self.directories[spt]
            for offset in self.roles.written(directory.role, address):
                self._disconnect(directory, spt + offset)

    def _chosen(self, page: Page, level: int) -> None:
        histogram = self.zap_position.get(level)
        if histogram is None:
            histogram = self.zap_position[level] = Histogram(POSITION_BOUNDS)
        position = self.active.position(page.age)
        histogram.observe(position)
        self.mean_position += (position - self.mean_position) / ZAPS_TO_TELL

    def _reclaimed(self, parented: Parenting, level: int, ns: int) -> bool:
        """A directory with children was zapped by reclaim: keep its age, and tell whether it was recently parented."""
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
        return recent

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
        if self.waiting:
            self.waiting.pop(page.spt, None)
        if page.children is not _NO_CHILDREN:
            del directories[page.spt]
            if self.gfns is not None:
                self._unindex(self.gfns, page)
            for pte, child in page.children.items():
                if child.remove_parent(pte):
                    self.orphans += 1

    @staticmethod
    def _unindex(gfns: dict[int, set[int]], page: Page) -> None:
        directories = gfns[page.gfn]
        directories.remove(page.spt)
        if not directories:
            del gfns[page.gfn]

    def step(self, walk: int, flags: int, records: int) -> None:
        """So many records of a walk over the kernel's list follow, if the step is good."""
        if flags & Flags.FIRST and not flags & Flags.VOID:
            self._forget_pages()
            self.exact = False
            self.walk = walk
        if walk != self.walk:
            return
        self.told += 1
        if flags & Flags.VOID:
            self._forget_pages()
            return
        self.step_left = records
        self.step_last = bool(flags & Flags.LAST)
        if not records:
            self._step_done()

    def page(self, walk: int, spt: int, gfn: int, role: int, parent_pte: int) -> None:
        """The walk came to a page: it is newer than all that it came to before."""
        if walk != self.walk or not self.step_left:
            return
        page = self.pages.get(spt)
        if page is None:
            level = self.levels[role]
            page = self._add(spt, gfn, role, level)
            if level > 1:
                self._connect_waiting(page)
        else:
            self.active.move(page, self.pages)
        if parent_pte:
            self._told_parent(page, parent_pte)
        self._step_done(1)

    def _connect_waiting(self, directory: Page) -> None:
        """The walk came to a directory: connect the pages that it said to be beneath, and that still are."""
        writes = self.written.get(directory.gfn, ())
        for pte, (child, told) in self.waiting.pop(directory.spt, {}).items():
            cleared = any(
                number > told and pte - directory.spt in self.roles.written(directory.role, address)
                for number, address in writes
            )
            if not cleared and self.pages.get(child.spt) is child:
                self._connect(directory, pte, child)

    def parent(self, walk: int, spt: int, parent_pte: int) -> None:
        """The walk tells a further parent of the page that it came to."""
        page = self.pages.get(spt)
        if walk == self.walk and self.step_left and page is not None:
            self._told_parent(page, parent_pte)
            self._step_done(1)

    def _told_parent(self, page: Page, parent_pte: int) -> None:
        parent = self.directories.get(parent_pte & SPT_MASK)
        if parent is None:
            self.waiting.setdefault(parent_pte & SPT_MASK, {})[parent_pte] = (page, self.writes)
        elif parent.children.get(parent_pte) is not page:
            self._connect(parent, parent_pte, page)

    def _step_done(self, records: int = 0) -> None:
        self.step_left -= records
        if self.step_last and not self.step_left:
            self._end_walk()
            self._exact_again()

    def _end_walk(self) -> None:
        self.walk = 0
        self.step_left = 0
        self.step_last = False
        self.waiting = {}
        self.written = {}

    def adopt(self, other: Vm) -> None:
        """Take over the pages of another model of the same VM, which is right where this one is not."""
        for spt, page in other.pages.items():
            mine = self.pages.get(spt)
            if mine is not None and mine.role == page.role:
                page.parented = mine.parented
        self.pages = other.pages
        self.directories = other.directories
        self.active = other.active
        self.orphans = other.orphans
        self.gfns = None
        self.resyncs += 1

    def freeze(self) -> VmSnapshot:
        """Copy the figures; the time that it takes depends on the directories, not on all pages."""
        return VmSnapshot(
            kvm=self.kvm,
            pid=self.pid,
            name=self.name,
            ended=self.ended_ns is not None,
            exact=self.exact,
            limit=self.limit,
            mapped=None if self.mapped == UNCOUNTED else self.mapped,
            pages=self._pages_by_level(),
            orphans=self.orphans,
            allocations=_by_level(self.allocations),
            zaps={(level, cause): zaps for cause in CAUSES for level, zaps in _by_level(self.zaps[cause]).items()},
            root_zaps=self.root_zaps,
            recursive_zaps=_by_level(self.recursive_zaps),
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
            audits=self.audits,
            audited=self.audited,
            differing=self.differing,
            reclaims=self.reclaims,
            writes=self.writes,
            newest_first=self.mean_position < NEWEST_FIRST,
            strangers={kind: count for kind, count in enumerate(self.strangers) if count},
        )

    def _pages_by_level(self) -> dict[int, int]:
        counts = [0] * LEVELS
        counts[1] = len(self.pages) - len(self.directories)
        for directory in self.directories.values():
            counts[self.levels[directory.role]] += 1
        return _by_level(counts)

    def detail(self) -> VmDetail:
        """Copy everything, page by page."""
        return VmDetail(vm=self.freeze(), pages=self.tree(), last_zaps=tuple(map(ZapSnapshot._make, self.last_zaps)))

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
                children={pte: child.spt for pte, child in page.children.items()},
                parented=page.parented and self.allocated - page.parented[0],
                parented_ns=page.parented and page.parented[2],
            )
            for position, page in enumerate(newest_first)
        )


def _by_level(counts: list[int]) -> dict[int, int]:
    return {level: count for level, count in enumerate(counts) if count}


def _frozen(histograms: dict[int, Histogram]) -> dict[int, Distribution]:
    return {level: histogram.freeze() for level, histogram in histograms.items()}
