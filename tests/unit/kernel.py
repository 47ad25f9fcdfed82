# SPDX-License-Identifier: Apache-2.0
"""A slow and obvious kernel: each VM's list and sptes, and the records that bpf/mmu.bpf.c makes of them.

Nothing here is shared with the model but the wire format: lists are lists, edges a map from spte to page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from shadowwatch.event.abi import Event, Flags, Kind, encode
from shadowwatch.event.facts import Facts
from shadowwatch.event.request import Requests
from tests.unit.story import FACTS, GUEST_WRITE, RECLAIM, within

#: The links of a list: spts, and this for its head.
HEAD = -1

PAGE_SIZE = 0x1000


def role_of(level: int, direct: bool = False) -> int:
    """A role word of FACTS' kernel."""
    return level | direct << 7


class Ring:
    """Records in the order in which they were reserved; `full` says of each attempt whether it fails.

    `crowded` says whether more than half of it is full, so that walks wait.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.lost = 0
        self.full: Callable[[], bool] = lambda: False
        #: Whether somebody reads it: before, no event is made.
        self.listening = True
        self.crowded: Callable[[], bool] = lambda: False
        self._taken = 0

    def reserve(self, event: Event) -> int | None:
        """The place of the event, None when it is lost."""
        if self.full():
            self.lost += 1
            return None
        self.events.append(event)
        return len(self.events) - 1

    def take(self) -> bytes:
        """The records since the last call."""
        fresh, self._taken = self.events[self._taken :], len(self.events)
        return b"".join(map(encode, fresh))


class Page:
    """A shadow page."""

    def __init__(self, spt: int, gfn: int, role: int) -> None:
        self.spt = spt
        self.gfn = gfn
        self.role = role

    @property
    def level(self) -> int:
        """1 for a table."""
        return self.role & 0xF

    @property
    def direct(self) -> bool:
        """Whether it shadows no table of the guest's."""
        return bool(self.role >> 7 & 1)


@dataclass
class Place:
    """Where a walk goes on (struct shadowwatch_place)."""

    next: int | None = None  # the next page, or HEAD; None: nowhere
    parents: int = 0  # the page of which further parents were told last
    rest: list[int] = field(default_factory=list)  # those that are still to be told, unless they have gone meanwhile


class KernelVm:
    """One VM: what KVM does to it, and what the probes make of that."""

    def __init__(self, ring: Ring, kvm: int, pid: int, patched: bool = False, limit: int = 64) -> None:
        self.ring = ring
        self.kvm = kvm
        self.pid = pid
        self.patched = patched
        self.limit = limit
        self.order: list[int] = []  # newest first
        self.pages: dict[int, Page] = {}
        self.edges: dict[int, int] = {}  # spte -> the spt of the page that it points to
        self.obsolete: set[int] = set()  # of an older generation
        #: kvm->stat: mmu_cache_miss, mmu_shadow_zapped, mmu_recycled; what they were before the first number.
        self.stat = [0, 0, 0]
        self.before: list[int] | None = None
        #: Whether the kernel has these.
        self.counting = True
        self.seq = 0
        self.skip = False
        self.wanted = 0
        self.walking = 0
        self.place = Place()
        #: After so many records a step ends.
        self.step_records = 64

    # What the probes do.

    def _event(self, kind: Kind, **fields: int) -> Event:
        return Event(kvm=self.kvm, ns=10**9 + len(self.ring.events) + self.ring.lost, kind=kind, **fields)

    def _numbered(self, kind: Kind, **fields: int) -> None:
        if not self.ring.listening:
            return
        if self.before is None:
            self.before = self._stat(kind == Kind.ALLOC)
        self.seq += 1
        if self.skip:
            self.skip = False
            self.seq += 1
        self.ring.reserve(self._event(kind, seq=self.seq, pid=self.pid, **fields))

    def _unnumbered(self, kind: Kind, **fields: int) -> None:
        if self.seq and self.ring.reserve(self._event(kind, pid=self.pid, **fields)) is None:
            self.skip = True

    def _stat(self, coming: int) -> list[int]:
        allocated, zapped, recycled = self.stat
        return [allocated - coming, zapped, recycled]

    def _counts(self, coming: int = 0) -> dict[str, int]:
        """What an event has that tells what KVM has counted, but for the flag."""
        now, before = self._stat(coming), self.before
        told = [(each - then) % (1 << 64) for each, then in zip(now, before, strict=True)] if before else [0, 0, 0]
        return dict(zip(("spt", "parent_pte", "gfn"), told, strict=True)) if self.counting else {}

    @property
    def _counted(self) -> Flags:
        return Flags.COUNTED if self.counting else Flags(0)

    def _newer(self, spt: int) -> int:
        place = self.order.index(spt)
        return self.order[place - 1] if place else HEAD

    def oldest(self) -> int:
        """The link at which a walk begins."""
        return self.order[-1] if self.order else HEAD

    def step(self, walk: int, place: Place, flags: Flags, coming: int = 0) -> Flags:
        """Go on with a walk, and return the flags that the step then has."""
        at = self.ring.reserve(self._event(Kind.STEP, seq=self.seq, pid=self.pid, limit=self.limit, walk=walk))
        if at is None:
            return Flags.VOID
        records = 0
        while records < self.step_records:
            if place.rest:
                pte = place.rest.pop()
                if self.edges.get(pte) != place.parents:
                    continue
                told = self._event(Kind.PARENT, spt=place.parents, parent_pte=pte, walk=walk)
            elif place.next == HEAD:
                flags |= Flags.LAST
                place.next = None
                break
            else:
                assert place.next is not None
                spt = place.next
                page = self.pages[spt]
                parents = sorted(pte for pte, child in self.edges.items() if child == spt)
                only = parents[0] if len(parents) == 1 else 0
                old = Flags.OBSOLETE if spt in self.obsolete else Flags(0)
                told = self._event(
                    Kind.PAGE, spt=spt, parent_pte=only, gfn=page.gfn, role=page.role, walk=walk, flags=int(old)
                )
                if len(parents) > 1 and place.parents != spt:
                    place.parents, place.rest = spt, parents
                place.next = self._newer(spt)
            if self.ring.reserve(told) is None:
                flags |= Flags.VOID
                place.next = None
                break
            records += 1
        flags |= self._counted
        self.ring.events[at] = self.ring.events[at]._replace(used=records, flags=int(flags), **self._counts(coming))
        return flags

    def make_step(self, coming: int = 0) -> None:
        """Go on with the walk that was left to the probes, as each of them does with the lock held."""
        if not self.wanted or (self.walking == self.wanted and self.place.next is None) or self.ring.crowded():
            return
        flags = Flags(0)
        # A step for which the ring has no room leaves all as it is.
        if self.ring.full():
            self.ring.lost += 1
            return
        if self.walking != self.wanted:
            self.walking = self.wanted
            self.place = Place(self.oldest())
            flags = Flags.FIRST
        full, self.ring.full = self.ring.full, _once_room(self.ring.full)
        self.step(self.wanted, self.place, flags, coming)
        self.ring.full = full

    def _step_over(self, spt: int) -> None:
        if self.place.next == spt:
            self.place.next = self._newer(spt)

    # What KVM does.

    def alloc(self, spt: int, gfn: int, role: int) -> None:
        """A page is made, and is the newest."""
        fields = {"spt": spt, "gfn": gfn, "role": role, "limit": self.limit, "used": len(self.order) + 1}
        self.stat[0] += 1
        if self.patched:
            self.make_step(coming=1)
            self._numbered(Kind.ALLOC, **fields)
        self.order.insert(0, spt)
        self.pages[spt] = Page(spt, gfn, role)
        if not self.patched:
            self._numbered(Kind.ALLOC, **fields)
            self.make_step()

    def link(self, pte: int, spt: int) -> None:
        """An spte is made to point to a page, whatever it pointed to before."""
        self.make_step()
        self._numbered(Kind.LINK, spt=spt, parent_pte=pte)
        self.edges[pte] = spt

    def unlink(self, pte: int) -> None:
        """An spte is made to map memory, whatever it pointed to before."""
        self._numbered(Kind.UNLINK, parent_pte=pte)
        self.edges.pop(pte, None)

    def move(self, spt: int) -> None:
        """mmu_parent_walk() takes a page to the head; the newest stays where it is, a walk's cursor with it."""
        if self.order[0] != spt:
            self._step_over(spt)
        self._numbered(Kind.MOVE, spt=spt)
        self.order.remove(spt)
        self.order.insert(0, spt)

    def zap(self, spt: int, caller: str = GUEST_WRITE) -> None:
        """A page goes, with all sptes in it and to it."""
        page = self.pages[spt]
        self._step_over(spt)
        if self.place.parents == spt:
            self.place.parents, self.place.rest = 0, []
        self._numbered(Kind.ZAP, spt=spt, gfn=page.gfn, role=page.role, caller=within(caller))
        self.stat[1] += 1
        self.order.remove(spt)
        del self.pages[spt]
        self.obsolete.discard(spt)
        self.edges = {pte: to for pte, to in self.edges.items() if spt not in (to, pte & ~0xFFF)}

    def reclaim(self, pages: int = 0, newest: bool = False) -> None:
        """So many of the oldest pages go, or of the newest as Linux 5.9 had it."""
        self.make_step()
        self._numbered(Kind.RECLAIM, caller=within("kvm_mmu_change_mmu_pages"))
        going = min(pages, len(self.order))
        for _ in range(going):
            self.zap(self.order[0 if newest else -1], RECLAIM)
        self.stat[2] += going

    def flush(self, caller: str = "kvm_page_track_flush_slot") -> None:
        """All pages become obsolete; that they are zapped, the oldest first, is left to zap()."""
        self.make_step()
        self._numbered(Kind.FLUSH, caller=within(caller))
        self.obsolete = set(self.pages)

    def write(self, gpa: int) -> None:
        """The guest writes eight bytes to memory of its own: sptes made from what was there are cleared.

        Obsolete pages are passed over (for_each_gfn_valid_sp()).
        """
        self._unnumbered(Kind.WRITE, gfn=gpa)
        for page in self.pages.values():
            if page.gfn == gpa // PAGE_SIZE and not page.direct and page.spt not in self.obsolete:
                self.edges.pop(page.spt + gpa % PAGE_SIZE // 8 * 8, None)

    def destroy(self) -> None:
        """The VM ends; all its pages have gone before."""
        for spt in reversed(self.order[:]):
            self.zap(spt, "kvm_mmu_zap_all")
        self._numbered(Kind.DESTROY, flags=int(self._counted), **self._counts())

    def tree(self) -> list[tuple[int, int, int, frozenset[int]]]:
        """spt, gfn, role and parents of each page, the newest first."""
        return [
            (
                spt,
                self.pages[spt].gfn,
                self.pages[spt].role,
                frozenset(pte for pte, child in self.edges.items() if child == spt),
            )
            for spt in self.order
        ]


def _once_room(full: Callable[[], bool]) -> Callable[[], bool]:
    """`full` after one time that there is room: it was asked for that already."""
    asked = False

    def now() -> bool:
        nonlocal asked
        if asked:
            return full()
        asked = True
        return False

    return now


class Kernel(Requests):
    """A host of VMs, asked as the real one is; `busy` VMs are those whose lock somebody holds."""

    def __init__(self, patched: bool = False) -> None:
        self.ring = Ring()
        self.patched = patched
        self.vms_by_address: dict[int, KernelVm] = {}
        self.busy: set[int] = set()
        #: Done between the steps of a walk without the lock.
        self.meanwhile: Callable[[], None] = lambda: None
        self.asked: list[tuple[str, int]] = []
        self.vms_in_a_step = 256
        self._place = Place()
        self._seq = 0
        self._listed: list[KernelVm] = []

    def add(self, kvm: int, pid: int = 1) -> KernelVm:
        """A VM starts."""
        vm = self.vms_by_address[kvm] = KernelVm(self.ring, kvm, pid, self.patched)
        return vm

    def end(self, kvm: int) -> None:
        """A VM ends."""
        self.vms_by_address.pop(kvm).destroy()

    @property
    def heard(self) -> bool:
        """Always."""
        return True

    def vms(self, number: int, first: bool) -> Flags:
        """A step over the list of all VMs."""
        self.asked.append(("vms", 0))
        if self.ring.crowded():
            return Flags.VOID
        flags = Flags(0)
        if first:
            self._listed = list(self.vms_by_address.values())
            flags |= Flags.FIRST
        place = self.ring.reserve(Event(kvm=0, ns=10**9, walk=number, kind=Kind.STEP))
        if place is None:
            return Flags.VOID
        told = 0
        while self._listed and told < self.vms_in_a_step and not flags & Flags.VOID:
            vm = self._listed.pop(0)
            used = len(vm.order)
            void = Flags.VOID if vm.kvm in self.busy else Flags(0)
            event = Event(
                kvm=vm.kvm,
                ns=10**9,
                seq=vm.seq,
                pid=vm.pid,
                limit=vm.limit,
                used=used,
                walk=number,
                kind=Kind.VM,
                flags=int(void),
            )
            if self.ring.reserve(event) is None:
                flags |= Flags.VOID
            told += 1
        if not self._listed and told < self.vms_in_a_step and not flags & Flags.VOID:
            flags |= Flags.LAST
        self.ring.events[place] = self.ring.events[place]._replace(used=told, flags=int(flags))
        return flags

    def walk(self, kvm: int, number: int, first: bool) -> Flags:
        """A step without the lock: void when somebody has it, or made an event since the step before."""
        self.asked.append(("walk", kvm))
        if self.ring.crowded():
            return Flags.VOID
        vm = self.vms_by_address[kvm]
        if first:
            self._place, self._seq = Place(vm.oldest()), vm.seq
        if kvm in self.busy or vm.seq != self._seq or self._place.next is None:
            return Flags.VOID
        flags = vm.step(number, self._place, Flags.FIRST if first else Flags(0))
        self.meanwhile()
        return flags

    def walk_locked(self, kvm: int, number: int) -> None:
        """The probes that come by walk."""
        self.asked.append(("walk_locked", kvm))
        self.vms_by_address[kvm].wanted = number


def facts(probes: Iterable[str] = ("walk", "vms")) -> Facts:
    """Those of FACTS' kernel with probes that walk."""
    return replace(FACTS, probes={**FACTS.probes, **{point: point for point in probes}})
