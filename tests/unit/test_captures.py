# SPDX-License-Identifier: Apache-2.0
"""What the lab recorded, replayed: the figures are the kernel's, and the two ways to watch agree."""

from __future__ import annotations

import json

import pytest

from shadowwatch.capture.format import Reader
from shadowwatch.event.abi import RECORD, Event, Kind, decode
from shadowwatch.metrics.text import exposition
from shadowwatch.mmu.model import Model
from shadowwatch.mmu.page import SPT_MASK
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.snapshot import RECLAIM, VmSnapshot
from shadowwatch.watch import Watch
from tests.captures import CAPTURES
from tests.golden import matches


def replayed(name: str) -> Watch:
    """The watch after a replay of this capture."""
    with CAPTURES[name].open("rb") as file:
        reader = Reader(file, name)
        watch = Watch(reader.facts, reader.name_of)
        for batch in reader.batches():
            watch.take(batch)
    return watch


def only_vm(name: str) -> VmSnapshot:
    """The capture's one VM that has shadow pages; the lab has another."""
    now = replayed(name).snapshot()
    assert (now.lost, now.undecodable, now.untracked) == (0, 0, 0)
    (vm,) = (vm for vm in now.vms if vm.allocations)
    return vm


@pytest.mark.parametrize("name", CAPTURES)
def test_figures_are_the_kernels(name: str) -> None:
    """Allocations and reclaims to the page, and at the end every page was zapped."""
    vm = only_vm(name)
    counters = json.loads(CAPTURES[name].with_suffix(".json").read_text())["counters"]
    reclaimed = sum(zaps for (_, cause), zaps in vm.zaps.items() if cause in RECLAIM)
    assert sum(vm.allocations.values()) == counters["mmu_cache_miss"]
    assert reclaimed == counters["mmu_recycled"] > 2000
    assert sum(vm.zaps.values()) == sum(vm.allocations.values())
    assert vm.pages == vm.unknown_pages == {}
    assert vm.differing == 0
    assert vm.name == "zipf"
    assert vm.ended


def test_debians_kvm_and_the_patched_one_in_stock_order_do_the_same() -> None:
    """Raw tracepoint or kprobe, the same workload gives the same figures; only times and names differ."""
    debian, patched = only_vm("debian"), only_vm("stock")
    for field in (
        *("pages", "orphans", "allocations", "zaps", "recently_parented_zaps", "links", "moves"),
        *("refaults", "refault_distance", "parenting_age", "zap_position"),
    ):
        assert getattr(debian, field) == getattr(patched, field), field


def test_moving_parents_up_leaves_no_recently_parented_zap() -> None:
    """What the metric counts in stock order is what the RFC's order avoids."""
    stock, parents = only_vm("stock"), only_vm("parents")
    assert sum(stock.recently_parented_zaps.values()) > 500
    assert stock.moves == 0
    assert parents.recently_parented_zaps == {}
    assert parents.moves > 5000


def test_the_tree_is_whole_at_every_step() -> None:
    """Fed event by event: children are below their parents, edges have two ends, and the list has each page once."""
    with CAPTURES["parents"].open("rb") as file:
        reader = Reader(file, "parents")
        records = b"".join(batch.records for batch in reader.batches())
    events = [Event(*fields) for fields in decode(records)[0]]
    kvm = next(event.kvm for event in events if event.kind == Kind.ALLOC)
    # What was there before the first of its pages, a walk over an empty list among it.
    early = next(number for number, event in enumerate(events) if event.kind == Kind.ALLOC)
    model = Model(RoleLayout(reader.facts.role), reader.facts.functions)
    step = 97
    checked = 0
    model.feed(records[: RECORD.size * early])
    for number in range(early, len(events) - 400, step):  # the last 400 are the VM's end
        model.feed(records[RECORD.size * number : RECORD.size * (number + step)])
        vm = model.vm(kvm)
        tree = vm.tree()
        levels = {page.spt: page.level for page in tree}
        edges = {(pte & SPT_MASK, page.spt) for page in tree for pte in page.parents}
        assert edges == {(page.spt, child) for page in tree for child in page.children.values()}
        assert all(levels[parent] > levels[child] for parent, child in edges)
        assert len(levels) == len(tree) == len(vm.pages)
        checked += len(edges)
    assert checked > 5000
    assert {Kind.ALLOC, Kind.LINK, Kind.MOVE, Kind.ZAP, Kind.RECLAIM, Kind.DESTROY} <= {event.kind for event in events}


@pytest.mark.parametrize("name", CAPTURES)
def test_replayed_metrics_are_what_they_were(name: str) -> None:
    """Golden: all metrics of a real run, its times included."""
    matches(f"metrics-{name}.txt", exposition(replayed(name)).decode())
