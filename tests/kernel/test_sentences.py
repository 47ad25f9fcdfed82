# SPDX-License-Identifier: Apache-2.0
"""A guest for each sentence that `top` can say first: what it says of that one is the golden file's.

Three kinds are tested with VMs that are made up alone. That of parent-cap comes from 6.4 zaps a second on, for each of
which a page gets 1,000 parents by as many faults, and a guest in the lab makes 4,000 faults a second; only Linux
6.12.118 has that cap. Those that end in -no-curve are for a VM that has had no refault since it reclaims, or whose
list is not known: a guest's own code is behind a page table that reclaim takes like others, so there are always some.
And no guest was found of which the estimate for parents says that it would save nothing, order-saves-nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from shadowwatch.control.client import connect
from shadowwatch.view.frames import Frames
from shadowwatch.view.insight import insight
from tests.lab.machine import Lab, say
from tests.lab.scrape import PORT, settled
from tests.lab.snapshot import ready
from tests.lab.workload import Reading, Vmm, Workload
from tests.unit.sentences import golden, masked

#: Guests that come back to their tables, and that go round through more of them than eight times the limit.
BACK = Workload("back", accesses=2_000)
ROUND = Workload("round", "sequential", directories=40, tables=20, accesses=800)
#: It has next to no tables.
SMALL = Workload("small", directories=1, tables=2, accesses=200)
#: One that loses no page.
ROOMY = Workload("roomy", accesses=2_000, pages=256)

Meanwhile = Callable[[Vmm], object]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """The patched KVM, the daemon beside it."""
    with ready("sentences", daemon="", progress=say) as lab:
        yield lab


def rests(_: Vmm) -> None:
    """It does nothing."""


def goes_on(vmm: Vmm) -> None:
    """It touches all once more."""
    vmm.again()


class Top:
    """Says what top does, and compares it with the golden file."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._control = lab.control()
        self._port = lab.forward(PORT)
        self._golden = golden()

    def is_(self, name: str, said: str) -> None:
        """The sentence of this name."""
        assert masked(said) == masked(self._golden[name]), name

    def says(self, name: str, workload: Workload, does: Meanwhile = goes_on, seconds: float = 0.0) -> str:
        """Of a guest while it does that, after its first round and for so long at least."""
        with closing(connect(self._control)) as live:
            frames = Frames(live)
            with Vmm(self.lab, workload) as vmm:
                self._settled(vmm, vmm.finished())
                before = frames.look()
                does(vmm)
                self._settled(vmm, vmm.do("stats"))
                while live.snapshot().now_ns - before.now.now_ns < seconds * 1e9:
                    time.sleep(0.1)  # its rates are judged over time
                frame = frames.look()
        said = insight(frame.rows, frame.status).replace(workload.name, "web1")
        self.is_(name, said)
        return said

    def _settled(self, vmm: Vmm, reading: Reading) -> None:
        settled(self._port, vmm.workload.name, reading.counters["mmu_cache_miss"])

    def says_at_once(self, *names: str) -> None:
        """Look after look, whatever guest there is."""
        with closing(connect(self._control)) as live:
            frames = Frames(live)
            for name in names:
                begun = live.snapshot().now_ns
                while live.snapshot().now_ns == begun:
                    time.sleep(0.1)
                frame = frames.look()
                self.is_(name, insight(frame.rows, frame.status))


@pytest.mark.soak
def test_what_the_order_of_reclaim_has_to_do_with_it(lab: Lab) -> None:
    """In each order of the patched KVM, with an estimate and without."""
    top = Top(lab)
    top.says_at_once("no-vm", "no-vm")
    lab.policy("stock")
    said = top.says("order-patched", BACK)
    assert ", and reclaim alone takes " in said
    lab.policy("parents")
    top.says("limit", BACK)
    top.says("limit-spares-little", ROUND)

    def switched(vmm: Vmm) -> None:
        vmm.again()
        lab.policy("parents")

    lab.policy("stock")
    top.says("order-switched", BACK, switched)

    def mostly_parents(vmm: Vmm) -> None:
        switched(vmm)
        for _ in range(12):
            vmm.again()

    lab.policy("stock")
    top.says("limit-few-recent", BACK, mostly_parents)
    lab.policy("newest")
    top.says("newest-first", BACK)
    lab.policy("stock")
    lab.start_daemon("--what-if parents")
    top.says("order-saves", BACK)


@pytest.mark.soak
def test_what_else_takes_pages_away(lab: Lab) -> None:
    """On Debian's own KVM: the guest's writes, its memory slots; or nothing."""
    lab.run("systemctl stop shadowwatch", check=False)
    lab.load_kvm("stock")
    lab.start_daemon()
    top = Top(lab)
    top.says("order-stock", BACK)
    top.says("nothing-wrong", ROOMY, rests, seconds=0.5)
    top.says("few", ROOMY, lambda vmm: vmm.do("resize 140"), seconds=2.0)

    def writes(vmm: Vmm) -> None:
        for _ in range(50):
            vmm.do("write 3")

    top.says("guest-writes", SMALL, writes)

    def plugs(vmm: Vmm) -> None:
        for _ in range(3):
            vmm.do("memslot")
            vmm.again()

    top.says("memory-slots", ROOMY, plugs)
