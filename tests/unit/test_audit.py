# SPDX-License-Identifier: Apache-2.0
"""Audits: the model compared with a walk over the kernel's own list, case by case."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from shadowwatch.mmu.audit import Difference
from shadowwatch.view.audit import audit_table
from tests.unit import lively
from tests.unit.heard import KVM, Heard, spt
from tests.unit.kernel import PAGE_SIZE, KernelVm, role_of


def test_an_audit_of_a_right_model_finds_nothing() -> None:
    """Every place on the list is compared, none differs, and figures stay as they are."""
    heard = Heard()
    vm = heard.walk()
    assert (vm.audits, vm.audited, vm.differing) == (1, 5, 0)
    heard.walk()
    assert (vm.audits, vm.audited, vm.differing) == (2, 10, 0)
    assert vm.resyncs == 0
    assert heard.same()
    assert heard.model.difference is None


def test_events_go_on_while_an_audit_walks() -> None:
    """Zaps, allocations, links and writes between the steps go to both sides."""
    heard = Heard(tables=8, patched=True)
    heard.vm.step_records = 2
    heard.kernel.walk_locked(KVM, 1)
    for page in range(10, 14):
        heard.vm.reclaim()
        heard.vm.zap(spt(page))
        heard.vm.alloc(spt(page + 20), page + 20, role_of(1))
        heard.vm.link(spt(2) + 8 * page, spt(page + 20))
        heard.vm.move(spt(2))
        heard.vm.write(2 * PAGE_SIZE + 8 * page)
    for _ in range(10):
        heard.vm.reclaim()
    vm = heard.hear()
    assert (vm.audits, vm.audited, vm.differing) == (1, 10, 0)
    assert heard.same()


def _edge_gone(vm: KernelVm) -> None:
    del vm.edges[spt(2) + 8]


def _edge_more(vm: KernelVm) -> None:
    vm.edges[spt(2) + 800] = spt(11)


def _page_gone(vm: KernelVm) -> None:
    del vm.edges[spt(2) + 8]
    vm.order.remove(spt(11))
    del vm.pages[spt(11)]


def _role_changed(vm: KernelVm) -> None:
    vm.pages[spt(11)].role |= 0x80


def _gfn_changed(vm: KernelVm) -> None:
    vm.pages[spt(11)].gfn += 1


def _order_changed(vm: KernelVm) -> None:
    vm.order[1], vm.order[2] = vm.order[2], vm.order[1]


@pytest.mark.parametrize(
    ("astray", "differing"),
    [(_edge_gone, 1), (_edge_more, 1), (_role_changed, 1), (_gfn_changed, 1), (_page_gone, 4), (_order_changed, 2)],
)
def test_an_audit_finds_what_no_event_told(astray: Callable[[KernelVm], None], differing: int) -> None:
    """The first place where the two differ, counted from the newest page; then the model is as the kernel."""
    heard = Heard()  # 12, 11, 10, 2, 1
    heard.model.vm(KVM).name = "web1"
    before = {page.spt: page for page in heard.model.vm(KVM).tree()}
    astray(heard.vm)
    truth = heard.vm.tree()
    vm = heard.walk()
    assert (vm.audits, vm.audited, vm.differing) == (1, 5, differing)
    difference = heard.model.difference
    assert isinstance(difference, Difference)
    assert difference.vm == "web1"
    assert difference.position == 1
    assert difference.model
    assert difference.model.spt == spt(11)
    assert difference.model.parents == before[spt(11)].parents
    assert difference.kernel
    assert (difference.kernel.spt, difference.kernel.gfn, difference.kernel.role, difference.kernel.parents) == truth[1]
    assert str(difference).startswith(f"VM web1, position 1: model has spt {spt(11):#x} gfn 0xb role 0x1 parents 0x")
    assert heard.same()
    assert vm.resyncs == 1
    heard.walk()
    assert (vm.audits, vm.differing) == (2, differing)
    assert heard.model.difference is difference  # the first one stays


def test_a_list_that_is_longer_than_the_model_differs_at_its_end() -> None:
    """The place that the model has not is told as such."""
    heard = Heard()
    heard.vm.pages[spt(77)] = heard.vm.pages[spt(1)]
    heard.vm.order.append(spt(77))
    heard.walk()
    difference = heard.model.difference
    assert isinstance(difference, Difference)
    assert (difference.position, difference.model) == (5, None)
    assert "model has None, kernel has spt" in str(difference)
    assert heard.same()


def test_a_mended_model_still_knows_when_directories_were_parented() -> None:
    """Mending costs no figure: a directory that an event spoke of is still recently parented."""
    heard = Heard()
    _edge_gone(heard.vm)
    heard.walk()
    assert heard.model.difference
    heard.vm.zap(spt(2), "kvm_mmu_zap_oldest_mmu_pages")
    heard.hear()
    assert heard.model.snapshot()[0].recently_parented_zaps == {2: 1}


def test_an_audit_that_does_not_end_counts_nothing() -> None:
    """Void, or left when a VM ends."""
    heard = Heard()
    _edge_gone(heard.vm)
    heard.vm.step_records = 2
    heard.kernel.walk(KVM, 1, True)
    heard.vm.zap(spt(12))
    heard.kernel.walk(KVM, 1, False)
    vm = heard.hear()
    assert vm.audits == 0
    heard.kernel.walk(KVM, 2, True)
    heard.kernel.end(KVM)
    heard.model.feed(heard.kernel.ring.take())
    (ended,) = heard.model.snapshot()
    assert (ended.ended, ended.audits, ended.differing) == (True, 0, 0)
    assert heard.model.difference is None


def test_the_walk_after_a_loss_in_an_audit_makes_the_model_exact() -> None:
    """The audit is over with the loss; the next walk is no part of it."""
    heard = Heard(patched=True)
    heard.vm.step_records = 2
    heard.kernel.walk_locked(KVM, 1)
    heard.vm.reclaim()
    heard.kernel.ring.full = lambda: True
    heard.vm.zap(spt(12))
    heard.kernel.ring.full = lambda: False
    heard.vm.zap(spt(11))
    heard.hear()
    heard.number = 1
    vm = heard.walk()
    assert vm.exact
    assert heard.same()


def test_a_long_name_takes_nothing_from_the_figures() -> None:
    """Of the table that `audit` ends with, wherever that goes."""
    now = lively.at_the_end()
    first = now.vms[0]._replace(name="web" * 30, audited=1_234_567)
    out = io.StringIO()
    assert not audit_table(replace(now, vms=(first,)), out)
    heading, line = out.getvalue().splitlines()
    assert heading.split() == ["VM", "pages", "audits", "compared", "differing", "resyncs", "lost"]
    assert line.split() == ["web" * 30, "64", "0", "1,234,567", "0", "0", "0"]
