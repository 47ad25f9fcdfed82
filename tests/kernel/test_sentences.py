# SPDX-License-Identifier: Apache-2.0
"""A guest for each sentence that `top` can say first: what it says of that one is the golden file's."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

import pytest

from shadowwatch.control.client import connect
from shadowwatch.view.frames import Frames
from shadowwatch.view.insight import insight
from shadowwatch.view.screen import Frame
from tests.kernel.causes import parameters
from tests.lab.cost import measured
from tests.lab.errors import LabError
from tests.lab.hosts import Kvm
from tests.lab.machine import Lab, Policy, say
from tests.lab.scrape import PORT, Metrics, scrape_until, settled
from tests.lab.snapshot import ready
from tests.lab.workload import Reading, Vmm, Workload
from tests.unit.sentences import golden, masked

#: Guests that come back to their tables, that go round through more of them than eight times the limit, and through
#: less than twice as many: then next to no fault is for the tables that the guest's own code is behind.
BACK = Workload("back", accesses=2_000)
ROUND = Workload("round", "sequential", directories=40, tables=20, accesses=800)
SHORT_ROUND = replace(ROUND, name="short-round", pages=512)
#: One with next to no tables, one that loses no page, and one that touches each table once.
SMALL = Workload("small", directories=1, tables=2, accesses=200)
ROOMY = Workload("roomy", accesses=2_000, pages=256)
ONCE = Workload("once", "sequential", accesses=128, pages=160)
#: One whose directories have room for many entries that all lead to one table.
ALIASED = Workload("aliased", tables=1, accesses=100)

RECOVERY_SECONDS = 60.0

Meanwhile = Callable[[Lab, Vmm], object]


def rests(lab: Lab, vmm: Vmm) -> None:
    """It does nothing."""


def goes_on(lab: Lab, vmm: Vmm) -> None:
    """It touches all once more."""
    vmm.again()


def shrinks(lab: Lab, vmm: Vmm) -> None:
    """It gets a lower limit, and comes back to nothing that this takes."""
    vmm.do("resize 64")


def shrinks_a_little(lab: Lab, vmm: Vmm) -> None:
    """Likewise, by a few pages."""
    vmm.do("resize 140")


def then_parents(does: Meanwhile) -> Meanwhile:
    """It does that in stock order, and the order changes then."""

    def does_it(lab: Lab, vmm: Vmm) -> None:
        does(lab, vmm)
        lab.policy("parents")

    return does_it


def goes_on_mostly_with_parents(lab: Lab, vmm: Vmm) -> None:
    """It touches all once in stock order and a dozen times with parents moved up."""
    then_parents(goes_on)(lab, vmm)
    for _ in range(12):
        vmm.again()


def writes(lab: Lab, vmm: Vmm) -> None:
    """The guest writes to a page table, again and again."""
    for _ in range(50):
        vmm.do("write 3")


def plugs(lab: Lab, vmm: Vmm) -> None:
    """Its VMM changes its memory."""
    for _ in range(3):
        vmm.do("memslot")
        vmm.again()


def recovers(lab: Lab, vmm: Vmm) -> None:
    """The guest has a huge page split by running code in it, and KVM puts it together again."""
    for _ in range(20):
        vmm.do("exec")
        deadline = time.monotonic() + RECOVERY_SECONDS
        while vmm.counters()["nx_lpage_splits"]:
            if time.monotonic() > deadline:
                raise LabError(f"KVM did not recover a huge page in {RECOVERY_SECONDS:.0f} s")


def aliases(lab: Lab, vmm: Vmm) -> None:
    """The guest reaches a page table through thousands of entries, again and again."""
    for _ in range(5):
        vmm.do("alias 8000")


@dataclass(frozen=True)
class Guest:
    """What leads to a sentence: a guest, and what it does between two looks, the first one after its first round."""

    workload: Workload
    does: Meanwhile = goes_on
    policy: Policy = "stock"
    daemon: str = ""
    parameters: Mapping[str, str | int] = field(default_factory=dict)  # of the kvm module
    whole: bool = False  # the first look is before it starts
    seconds: float = 0.0  # at least between the two, since rates are judged over time
    words: str = ""  # that are in the sentence besides: the golden file's are compared without the time that it says


PARENTS = "--what-if parents"
#: The patched KVM, Debian's own, and what it says there once `shadowwatch cost` has measured.
PATCHED: Mapping[str, Guest] = {
    "order-patched": Guest(BACK),
    "order-switched": Guest(BACK, then_parents(goes_on)),
    "order-switched-no-curve": Guest(ONCE, then_parents(shrinks)),
    "limit": Guest(BACK, policy="parents"),
    "limit-few-recent": Guest(BACK, goes_on_mostly_with_parents),
    "limit-no-curve": Guest(ONCE, shrinks, "parents"),
    "limit-spares-little": Guest(ROUND, policy="parents"),
    "newest-first": Guest(BACK, policy="newest"),
    "order-saves": Guest(BACK, daemon=PARENTS),
    "order-saves-nothing": Guest(SHORT_ROUND, daemon=PARENTS),
    "order-saves-nothing-no-curve": Guest(ONCE, shrinks, daemon=PARENTS, whole=True),
}
STOCK: Mapping[str, Guest] = {
    "nothing-wrong": Guest(ROOMY, rests, seconds=0.5),
    "few": Guest(ROOMY, shrinks_a_little, seconds=2.0),
    "order-stock": Guest(BACK),
    "order-stock-no-curve": Guest(ONCE, shrinks),
    "time-of-reclaim": Guest(BACK, words=", and reclaim alone takes "),
    "guest-writes": Guest(SMALL, writes),
    "memory-slots": Guest(ROOMY, plugs),
    "nx-recovery": Guest(
        SMALL,
        recovers,
        parameters={
            "nx_huge_pages": "force",
            "nx_huge_pages_recovery_ratio": 1,
            "nx_huge_pages_recovery_period_ms": 10,
        },
    ),
}
MEASURED: Mapping[str, Guest] = {"time-of-all": Guest(BACK, words=", which takes ")}
#: Linux 6.12.118 has it. By the clock of an emulated machine no guest makes faults fast enough; one that counts
#: instructions is.
NEWER: Mapping[str, Guest] = {"parent-cap": Guest(ALIASED, aliases)}
#: Whatever a guest does: without one, of one look after look, and with the TDP MMU -> kvm_amd's nested.
NO_VM = "no-vm"
AT_ONCE = ("first-look", "nothing-wrong")
TDP: Mapping[str, int] = {"tdp-nested": 1, "tdp": 0}

#: All sentences: each has a guest.
NAMES = (NO_VM, *AT_ONCE, *TDP, *PATCHED, *STOCK, *MEASURED, *NEWER)


def zapped(metrics: Metrics, vm: str) -> float:
    """How many pages the daemon has heard to be zapped."""
    return metrics.sum("zaps_total", vm=vm) + metrics.sum("root_zaps_total", vm=vm)


class Host:
    """A host in the lab, on which `top` is compared with the golden file."""

    def __init__(self, lab: Lab, kvm: Kvm) -> None:
        """In the lab this KVM is loaded, and the daemon runs without arguments."""
        self.lab = lab
        self._kvm: Kvm = kvm
        self._daemon = ""
        self._golden = golden()
        self._port = lab.forward(PORT)
        self._control = lab.control()

    def has(self, kvm: Kvm, daemon: str = "") -> None:
        """Load this KVM and start the daemon with these arguments, if it is not so yet."""
        if (kvm, daemon) == (self._kvm, self._daemon):
            return
        if kvm != self._kvm:
            self.lab.run("systemctl stop shadowwatch")
            self.lab.load_kvm(kvm)
        self.lab.start_daemon(daemon)
        self._kvm, self._daemon = kvm, daemon

    def is_(self, name: str, frame: Frame, vm: str = "web1", words: str = "") -> None:
        """Of a VM, `top` says the sentence of this name."""
        said = insight(frame.rows, frame.status).replace(vm, "web1")
        assert masked(said) == masked(self._golden[name]), said
        assert words in said

    def says(self, name: str, guest: Guest) -> None:
        """Of this guest."""
        with parameters(self.lab, **guest.parameters), closing(connect(self._control)) as live:
            frames = Frames(live)
            begun = frames.look()
            with Vmm(self.lab, guest.workload) as vmm:
                self._settled(vmm, vmm.finished())
                if not guest.whole:
                    begun = frames.look()
                guest.does(self.lab, vmm)
                self._settled(vmm, vmm.do("stats"))
                while live.snapshot().now_ns - begun.now.now_ns < guest.seconds * 1e9:
                    time.sleep(0.1)
                self.is_(name, frames.look(), guest.workload.name, guest.words)

    def _settled(self, vmm: Vmm, reading: Reading) -> None:
        """The daemon has heard of all that became of the VM."""
        vm, counters = vmm.workload.name, reading.counters
        settled(self._port, vm, counters["mmu_cache_miss"])
        scrape_until(self._port, lambda metrics: zapped(metrics, vm) >= counters["mmu_shadow_zapped"])

    def says_at_once(self, *names: str) -> None:
        """Look after look, of whatever guest there is."""
        with closing(connect(self._control)) as live:
            frames = Frames(live)
            for name in names:
                begun = live.snapshot().now_ns
                while live.snapshot().now_ns == begun:
                    time.sleep(0.1)
                self.is_(name, frames.look())


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """The patched KVM, the daemon beside it."""
    with ready("sentences", daemon="", progress=say) as lab:
        yield Host(lab, "patched")


@pytest.mark.soak
@pytest.mark.parametrize("name", PATCHED)
def test_what_the_order_of_reclaim_has_to_do_with_it(host: Host, name: str) -> None:
    """In each order of the patched KVM, with an estimate and without."""
    guest = PATCHED[name]
    host.has("patched", guest.daemon)
    host.lab.policy(guest.policy)
    host.says(name, guest)


@pytest.mark.soak
@pytest.mark.parametrize("name", STOCK)
def test_what_else_takes_pages_away(host: Host, name: str) -> None:
    """On Debian's own KVM: the guest's writes, its memory slots, huge pages that are put together again; or nothing."""
    host.has("stock")
    host.says(name, STOCK[name])


@pytest.mark.soak
@pytest.mark.parametrize("name", MEASURED)
def test_time_that_was_measured(host: Host, name: str) -> None:
    """A daemon reads what `shadowwatch cost` found when it starts."""
    host.has("stock")
    with Vmm(host.lab, BACK) as vmm:
        vmm.finished()
        measured(host.lab, vmm.again)
    host.lab.start_daemon()
    host.says(name, MEASURED[name])


@pytest.mark.soak
def test_a_host_without_a_rate(host: Host) -> None:
    """It has no VM, or one of which no rate is known yet."""
    host.has("stock")
    host.says_at_once(NO_VM)
    with Vmm(host.lab, SMALL) as vmm:
        vmm.finished()
        host.says_at_once(*AT_ONCE)


@pytest.mark.soak
@pytest.mark.parametrize(("name", "nested"), TDP.items())
def test_a_host_with_nothing_to_watch(bare: Lab, name: str, nested: int) -> None:
    """It has the TDP MMU, which builds no shadow page for a guest without guests."""
    bare.load_kvm("stock", "nested")
    if not nested:
        bare.run("rmmod kvm_amd && modprobe kvm_amd npt=1 nested=0")
    bare.start_daemon()
    host = Host(bare, "stock")
    with Vmm(bare, SMALL) as vmm:
        vmm.finished()
        host.says_at_once(name)


@pytest.mark.soak
@pytest.mark.parametrize("name", NEWER)
def test_a_page_with_too_many_parents(name: str) -> None:
    """Of a guest that reaches it through more entries than Linux 6.12 lets it have."""
    with Lab.boot(host="6.12", kvm="stock", icount=True, progress=say) as lab:
        lab.start_daemon()
        Host(lab, "stock").says(name, NEWER[name])
