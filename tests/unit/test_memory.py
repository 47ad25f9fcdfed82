# SPDX-License-Identifier: Apache-2.0
"""What a VM of the size that hosts have costs the daemon."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from shadowwatch.mmu.model import MOST_PAGES, Model
from tests.lab.machine import CHECKOUT
from tests.unit.big import big, walk
from tests.unit.heard import KVM, Heard, grown, spt
from tests.unit.kernel import role_of
from tests.unit.story import FUNCTIONS, ROLES

#: Of a VM as large as hosts have, and of one that takes less time to make and costs as much a page.
MANY, FEWER = 24_000, 6_000
#: What a page costs at rest; during an audit it is twice that.
BYTES = 330
#: The daemon without a page: docs/speed.md.
REST = 60 << 20


@contextmanager
def traced() -> Iterator[Callable[[], tuple[int, int]]]:
    """Count what Python allocates from here on: now, and at most."""
    gc.collect()
    tracemalloc.start()
    try:
        yield tracemalloc.get_traced_memory
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("pages", "moves"),
    [
        pytest.param(MANY, False, marks=pytest.mark.soak),
        pytest.param(MANY, True, marks=pytest.mark.soak),
        (FEWER, True),
    ],
)
def test_a_page_costs_330_bytes_and_twice_that_during_an_audit(pages: int, moves: bool) -> None:
    """With all that is remembered of zapped pages; also when the walk comes to each child before its parent."""
    story = big(pages, moves)
    records, walked, pages = story.records(), walk(story), story.used
    del story
    model = Model(ROLES, FUNCTIONS)
    with traced() as memory:
        model.feed(records)
        size, _ = memory()
        tracemalloc.reset_peak()
        model.feed(walked)
        _, peak = memory()
    (vm,) = model.snapshot()
    assert vm.all_pages == pages
    assert (vm.audited, vm.differing) == (pages, 0)
    assert size <= BYTES * pages
    assert peak <= 2 * BYTES * pages


def test_the_unit_has_room_for_all_pages_that_are_kept() -> None:
    """During an audit of all of them, so that the OOM killer has no reason to come."""
    unit = (CHECKOUT / "systemd/shadowwatch.service").read_text()
    (line,) = (line for line in unit.splitlines() if line.startswith("MemoryMax="))
    assert line.endswith("G")
    assert int(line.removeprefix("MemoryMax=").removesuffix("G")) << 30 >= 2 * BYTES * MOST_PAGES + REST


#: The address of a second VM.
LARGE = KVM + 0x10000


def two(most_pages: int) -> Heard:
    """A VM of 5 pages, one of 12, and a model that keeps so many."""
    heard = Heard()
    heard.model = Model(ROLES, FUNCTIONS, most_pages=most_pages)
    grown(heard.kernel.add(LARGE), 10)
    for kvm in (KVM, LARGE):
        heard.kernel.vms_by_address[kvm].limit = 16
        heard.kernel.walk(kvm, 1, True)
    heard.hear()
    return heard


def test_of_more_pages_than_there_is_room_for_the_largest_vms_are_only_counted() -> None:
    """Others stay exact; the VM is not exact, and nobody walks it in vain."""
    heard = two(16)
    small, large = (heard.model.vm(kvm).freeze() for kvm in (KVM, LARGE))
    assert (small.state, small.all_pages) == ("exact", 5)
    assert (large.state, large.exact, large.all_pages) == ("oversize", False, 0)
    assert set(heard.model.progress()) == {KVM}
    assert heard.model.oversize() == ("",)
    vm = heard.kernel.vms_by_address[LARGE]
    before = large.all_allocations
    for _ in range(3):
        vm.alloc(spt(77), 77, role_of(1))
        vm.zap(vm.order[0])
        heard.hear()
    large = heard.model.vm(LARGE).freeze()
    assert large.all_allocations == before + 3
    assert large.all_zaps == 3
    assert large.state == "oversize"


def test_a_vm_is_kept_again_when_there_is_room() -> None:
    """For as many pages as it may have; its list is walked then."""
    heard = two(16)
    heard.kernel.end(KVM)
    vm = heard.kernel.vms_by_address[LARGE]
    vm.reclaim()
    heard.hear()
    assert heard.model.oversize() == ()
    assert set(heard.model.progress()) == {LARGE}
    heard.kernel.walk(LARGE, 2, True)
    heard.hear()
    large = heard.model.vm(LARGE).freeze()
    assert (large.state, large.all_pages) == ("exact", 12)


def test_an_audit_that_is_under_way_ends_with_that() -> None:
    """What it had read is not kept either."""
    heard = two(20)
    vm = heard.kernel.vms_by_address[LARGE]
    vm.step_records = 3
    heard.kernel.walk(LARGE, 3, True)
    for page in range(5):
        vm.alloc(spt(90 + page), 90 + page, role_of(1))
    heard.hear()
    large = heard.model.vm(LARGE).freeze()
    assert (large.state, large.audits) == ("oversize", 1)  # that one of its start
    assert heard.model.difference is None
