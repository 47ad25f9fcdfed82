# SPDX-License-Identifier: Apache-2.0
"""Writes event streams for tests: it numbers the events, keeps time, and counts as KVM does."""

from __future__ import annotations

from shadowwatch.event.abi import Event, Kind, encode
from shadowwatch.event.facts import Facts
from shadowwatch.mmu.cause import CALLERS, CauseTables, Function
from shadowwatch.mmu.role import RoleLayout

#: The role's fields as in the BTF of Debian's Linux 6.1.
ROLE = {
    "level": (0, 4),
    "has_4_byte_gpte": (4, 1),
    "quadrant": (5, 2),
    "direct": (7, 1),
    "access": (8, 3),
    "invalid": (11, 1),
    "guest_mode": (17, 1),
    "passthrough": (18, 1),
    "smm": (24, 8),
}
ROLES = RoleLayout(ROLE)
INVALID = 1 << 11
#: Where this kernel has the functions that zap.
FUNCTIONS: tuple[Function, ...] = tuple(
    (name, 0xC000_0000 + number * 0x1000, 0xC000_0800 + number * 0x1000) for number, name in enumerate(sorted(CALLERS))
)
CAUSES = CauseTables(FUNCTIONS)
FACTS = Facts(
    host="kvm1",
    kernel="6.1.0-test",
    policy="stock",
    probes={"alloc": "kvm_mmu_alloc_page", "zap": "kvm_mmu_zap_page"},
    role=ROLE,
    functions=FUNCTIONS,
    paging="shadow",
    table_seconds=0.0001,
)

#: The functions that stand for what a test wants to say.
RECLAIM = "kvm_mmu_zap_oldest_mmu_pages"
GUEST_WRITE = "kvm_mmu_pte_write"


#: A function that is none of those.
PAGE_FAULT = "paging64_page_fault"


def within(function: str) -> int:
    """A return address in this function; one outside of all that are known when it is none of them."""
    return next((start + 0x10 for name, start, _ in FUNCTIONS if name == function), 0x1234)


class Story:
    """One VM's events, in the order of the calls; pages are named by small numbers."""

    def __init__(self, kvm: int = 0xFFFF_8880_0000_0000, pid: int = 4711, step_ns: int = 1_000_000) -> None:
        self.kvm = kvm
        self.pid = pid
        self.step_ns = step_ns
        self.ns = 10**9
        self.seq = 0
        self.used = 0
        self.mapped = 0
        self.events: list[Event] = []

    @staticmethod
    def spt(page: int) -> int:
        """The table of the page with this number."""
        return 0xFFFF_8881_0000_0000 + page * 0x1000

    def pte(self, parent: int, index: int) -> int:
        """The address of an spte."""
        return self.spt(parent) + 8 * index

    def _event(self, kind: Kind | int, **fields: int) -> None:
        self.seq += 1
        self.ns += self.step_ns
        self.events.append(Event(kvm=self.kvm, ns=self.ns, seq=self.seq, pid=self.pid, kind=kind, **fields))

    def alloc(self, page: int, level: int = 1, gfn: int | None = None, limit: int = 64) -> None:
        """A page is allocated."""
        self.used += 1
        self._event(
            Kind.ALLOC,
            spt=self.spt(page),
            gfn=page if gfn is None else gfn,
            role=level,
            limit=limit,
            used=self.used,
            mapped=self.mapped,
        )

    def link(self, parent: int, index: int, child: int) -> None:
        """An spte of the parent is made to point to the child."""
        self._event(Kind.LINK, spt=self.spt(child), parent_pte=self.pte(parent, index))

    def move(self, page: int) -> None:
        """mmu_parent_walk() moves a page to the head."""
        self._event(Kind.MOVE, spt=self.spt(page))

    def zap(self, page: int, level: int = 1, caller: str = RECLAIM, invalid: bool = False, flags: int = 0) -> None:
        """A page is zapped."""
        self.used = max(0, self.used - (not invalid))
        role = level | (INVALID if invalid else 0)
        self._event(Kind.ZAP, spt=self.spt(page), gfn=page, role=role, caller=within(caller), flags=flags)

    def reclaim(self, caller: str = PAGE_FAULT) -> None:
        """The oldest pages are about to be zapped."""
        self._event(Kind.RECLAIM, caller=within(caller), mapped=self.mapped)

    def _unnumbered(self, kind: Kind, **fields: int) -> None:
        self.ns += self.step_ns
        self.events.append(Event(kvm=self.kvm, ns=self.ns, pid=self.pid, kind=kind, **fields))

    def flush(self, caller: str) -> None:
        """kvm_mmu_zap_all_fast() is about to zap."""
        self._unnumbered(Kind.FLUSH, caller=within(caller))

    def write(self, gpa: int) -> None:
        """The guest writes to its memory there."""
        self._unnumbered(Kind.WRITE, gfn=gpa)

    def destroy(self) -> None:
        """The VM ends."""
        self._event(Kind.DESTROY)

    def other(self, kind: int) -> None:
        """Something of a kind that this version does not know."""
        self._event(kind)

    def records(self) -> bytes:
        """All events so far, as ring records."""
        return b"".join(map(encode, self.events))
