# SPDX-License-Identifier: Apache-2.0
"""The simulator against a slow and obvious KVM that has each policy, and against what the lab recorded."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowwatch.capture.format import reading
from shadowwatch.mmu.page import GFN_MASK
from shadowwatch.simulate.policies import POLICIES
from shadowwatch.simulate.simulator import Simulator
from shadowwatch.snapshot import Estimate
from tests.captures import CAPTURES
from tests.unit import faulting
from tests.unit.faulting import Address, Faulting
from tests.unit.kernel import PAGE_SIZE
from tests.unit.story import FACTS, GUEST_WRITE, PAGE_FAULT, Story

ADDRESSES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=100, max_size=400)
ALL = sorted(POLICIES)
#: Of a role; and what zaps a page that was led to by nothing else.
GUEST_MODE, BY_PARENT = 1 << 17, "mmu_page_zap_pte"


def run(policy: str, addresses: list[Address], limit: int, only_faults: bool = False) -> Faulting:
    """The slow KVM after these accesses; with `only_faults` the guest leaves out those that would not fault."""
    vm = Faulting(policy, limit)
    for address in addresses:
        if not (only_faults and vm.in_reach(address)):
            vm.access(address)
    return vm


def simulate(vm: Faulting, policy: str) -> tuple[Simulator, Estimate]:
    """What the policy would have made of what this VM recorded."""
    simulator = Simulator(replace(FACTS, policy=vm.policy), policy)
    simulator.feed(vm.ring.take())
    (estimate,) = simulator.estimates().values()
    return simulator, estimate


def test_the_slow_kvm_has_every_policy() -> None:
    """Else the other tests would leave one out."""
    assert sorted(faulting.POLICIES) == ALL


@pytest.mark.parametrize("policy", ALL)
@given(addresses=ADDRESSES, limit=st.integers(30, 60))
def test_the_policy_in_force_makes_the_recorded_zaps_again(policy: str, addresses: list[Address], limit: int) -> None:
    """Each of them, in its reclaim and in its order, and nothing is left unseen."""
    vm = run(policy, addresses, limit)
    _, estimate = simulate(vm, policy)
    zaps = len(vm.zapped)
    assert (estimate.reproduced, estimate.recorded_zaps, estimate.zaps) == (zaps, zaps, zaps)
    assert (estimate.faults, estimate.recorded_faults) == (vm.faults, vm.faults)
    assert (estimate.unseen, estimate.likely) == (0, 0.0)


@pytest.mark.parametrize("policy", ALL)
@given(
    addresses=ADDRESSES,
    forgets=st.dictionaries(st.integers(0, 400), st.sampled_from([2, 3])),
    limit=st.integers(30, 60),
)
def test_so_it_does_of_a_guest_that_clears_entries(
    policy: str, addresses: list[Address], forgets: dict[int, int], limit: int
) -> None:
    """What they led to stays on the list: a directory may have no child then, or no parent, and is zapped as such."""
    vm = Faulting(policy, limit)
    for number, address in enumerate(addresses):
        vm.access(address)
        if number in forgets:
            vm.forget(address, forgets[number])
    _, estimate = simulate(vm, policy)
    zaps = len(vm.zapped)
    assert (estimate.reproduced, estimate.recorded_zaps, estimate.zaps) == (zaps, zaps, zaps)


@pytest.mark.parametrize("policy", [name for name in ALL if not POLICIES[name].by_access])
@pytest.mark.parametrize(
    "recorded",
    [pytest.param(name, marks=() if name in ("stock", "parents") else pytest.mark.soak) for name in ALL],
)
@given(addresses=ADDRESSES, limit=st.integers(30, 60))
def test_of_a_guest_that_always_faults_nothing_is_estimated(
    recorded: str, policy: str, addresses: list[Address], limit: int
) -> None:
    """Then the recording has every access, and the simulated zaps and faults are those of that KVM itself.

    But not if it takes the guest for one that uses what it has.
    """
    nothing_is_estimated(recorded, policy, addresses, limit)


def nothing_is_estimated(recorded: str, policy: str, addresses: list[Address], limit: int) -> None:
    """Of these accesses the guest makes those that fault in the recorded VM."""
    vm = Faulting(recorded, limit)
    accesses = []
    for address in addresses:
        if not vm.in_reach(address):
            vm.access(address)
            accesses.append(address)
    truth = run(policy, accesses, limit)
    _, estimate = simulate(vm, policy)
    assert (estimate.faults, estimate.zaps) == (truth.faults, len(truth.zapped))


def test_no_room_is_made_for_a_fault_that_the_policy_does_not_have() -> None:
    """Two reclaims were for page tables that stock order had kept: it makes room with the next fault it has itself."""
    numbers = random.Random(2)  # noqa: S311
    addresses = [(numbers.randrange(9), numbers.randrange(6)) for _ in range(400)]
    nothing_is_estimated("newest", "stock", addresses, 51)


@pytest.mark.parametrize("policy", ["parents", "mapped", "leaf-first", "childless", "accessed"])
def test_an_estimate_is_near_what_the_policy_really_does(policy: str) -> None:
    """Of a guest whose accesses are mostly not recorded: within five points, and within its bounds."""
    seed = 12345
    addresses = []
    for _ in range(6000):
        seed = (seed * 1103515245 + 12345) % (1 << 31)
        addresses.append((seed >> 8 & 7, (seed >> 16) % 6))
    stock = run("stock", addresses, 40)
    assert stock.faults < 0.7 * len(addresses)
    truth = run(policy, addresses, 40)
    _, estimate = simulate(stock, policy)
    assert abs(estimate.faults + estimate.likely - truth.faults) < 0.05 * stock.faults
    assert estimate.faults <= truth.faults <= estimate.faults + estimate.unseen


def test_pages_that_the_guest_uses_all_the_time_are_kept_by_accessed() -> None:
    """Of tables the k-th of which is used 1/k as often: predicted to two points, though no fault tells of most uses."""
    numbers = random.Random(1)  # noqa: S311
    tables = [(directory, table) for table in range(8) for directory in range(16)]
    often = [1 / (k + 1) for k in range(len(tables))]
    addresses = numbers.choices(tables, often, k=5_000)
    stock, truth = run("stock", addresses, 96), run("accessed", addresses, 96)
    assert truth.faults < 0.7 * stock.faults
    _, estimate = simulate(stock, "accessed")
    assert abs(estimate.faults + estimate.likely - truth.faults) < 0.02 * stock.faults


@pytest.mark.parametrize(("name", "policy"), [("debian", "stock"), ("stock", "stock"), ("parents", "parents")])
def test_the_recorded_zaps_of_a_real_kernel_are_made_again(name: str, policy: str) -> None:
    """Debian's KVM and the patched one: each zap, and as many as the kernel itself counted."""
    counters = json.loads(CAPTURES[name].with_suffix(".json").read_text())["counters"]
    estimate = of_capture(name, policy)
    assert estimate.reproduced == estimate.zaps == estimate.recorded_zaps == counters["mmu_recycled"]


def test_parents_is_predicted_as_the_patched_kernel_did_it() -> None:
    """From the recording in stock order: the kernel's own change in faults, to two points; in zaps, to three."""
    kernel = {
        name: json.loads(CAPTURES[name].with_suffix(".json").read_text())["counters"] for name in ("stock", "parents")
    }
    estimate = of_capture("stock", "parents")
    predicted = (estimate.faults + estimate.likely - estimate.recorded_faults) / kernel["stock"]["pf_taken"]
    assert abs(predicted - (kernel["parents"]["pf_taken"] / kernel["stock"]["pf_taken"] - 1)) < 0.02
    zaps = (estimate.zaps + estimate.likely) / estimate.recorded_zaps
    assert abs(zaps - kernel["parents"]["mmu_recycled"] / kernel["stock"]["mmu_recycled"]) < 0.03


def of_capture(name: str, policy: str) -> Estimate:
    """The estimate for the one VM of a capture."""
    with reading(str(CAPTURES[name])) as reader:
        simulator = Simulator(reader.facts, policy)
        for batch in reader.batches():
            simulator.feed(batch.records)
    (estimate,) = simulator.estimates().values()
    return estimate


def test_what_the_guest_takes_away_is_a_fault_to_every_policy() -> None:
    """A page that went by a write of the guest is not counted as one that a policy would have kept."""
    story = Story()
    story.alloc(1, level=2)
    for _ in range(3):
        story.alloc(2, gfn=7)
        story.link(1, 0, 2)
        story.zap(2, caller=GUEST_WRITE)
    simulator = Simulator(FACTS, "parents")
    simulator.feed(story.records())
    (estimate,) = simulator.estimates().values()
    assert (estimate.faults, estimate.recorded_faults, estimate.refaults, estimate.zaps) == (3, 3, 0, 0)


def test_what_goes_along_with_a_nested_root_is_counted_whole() -> None:
    """The patched KVM has then zapped as many as it wanted, and leaves the pages between them alone."""
    story = Story()
    root, directory, table, leaf = (GUEST_MODE | level for level in (4, 3, 2, 1))
    for first in (1, 100):
        story.alloc(first, level=root)
        story.alloc(first + 1, level=directory)
        story.link(first, 0, first + 1)
        story.alloc(first + 2, level=table)
        story.link(first + 1, 0, first + 2)
    for index in range(27):
        for first in (1, 100):
            story.alloc(first + 3 + index, level=leaf)
            story.link(first + 2, index, first + 3 + index)
    story.reclaim()
    story.zap(1, level=root)
    for page, level in ((2, directory), (3, table), *((4 + index, leaf) for index in range(27))):
        story.zap(page, level=level, caller=BY_PARENT)
    story.alloc(200, level=leaf)
    story.link(102, 27, 200)
    simulator = Simulator(FACTS, "stock")
    simulator.feed(story.records())
    (estimate,) = simulator.estimates().values()
    assert (estimate.reproduced, estimate.recorded_zaps, estimate.zaps) == (30, 30, 30)


def test_childless_starts_over_when_a_page_takes_others_along() -> None:
    """As KVM does, whose list is another one then: the oldest directory has no child left by that time."""
    story = Story()
    root, directory, leaf, idle, between, unsync, full, first = range(1, 9)
    story.alloc(root, level=3)
    for page, level, parent in (
        *((directory, 2, root), (leaf, 1, directory), (idle, 3, 0), (between, 2, idle), (unsync, 1, between)),
        *((full, 2, root), *((first + index, 1, full) for index in range(53))),
    ):
        story.alloc(page, level=level)
        if parent:
            story.link(parent, page, page)
    story.reclaim()
    story.zap(leaf)
    story.zap(idle, level=3)
    story.zap(unsync, caller=BY_PARENT)
    story.zap(directory, level=2)
    story.zap(between, level=2)
    for index in range(16):
        story.zap(first + index)
    story.alloc(first + 53)
    story.link(full, first + 53, first + 53)
    simulator = Simulator(replace(FACTS, policy="childless"), "childless")
    simulator.feed(story.records())
    (estimate,) = simulator.estimates().values()
    assert (estimate.reproduced, estimate.recorded_zaps, estimate.zaps) == (21, 21, 21)


def test_childless_goes_on_with_what_only_a_page_led_to_that_it_took() -> None:
    """The guest cleared the entry for the upper of two directories: with that, the lower has no parent either."""
    story = Story()
    root, upper, lower, leaf, full, first = range(1, 7)
    story.alloc(root, level=4)
    for page, level, parent in (
        *((upper, 3, root), (lower, 2, upper), (leaf, 1, lower), (full, 3, root)),
        *((first + index, 1, full) for index in range(55)),
    ):
        story.alloc(page, level=level)
        story.link(parent, page, page)
    story.write(root * PAGE_SIZE + 8 * upper)
    story.reclaim()
    for page, level in ((upper, 3), (lower, 2), (leaf, 1), *((first + index, 1) for index in range(18))):
        story.zap(page, level=level)
    story.alloc(first + 55)
    story.link(full, first + 55, first + 55)
    simulator = Simulator(replace(FACTS, policy="childless"), "childless")
    simulator.feed(story.records())
    (estimate,) = simulator.estimates().values()
    assert (estimate.reproduced, estimate.recorded_zaps, estimate.zaps) == (21, 21, 21)


def test_room_for_a_root_may_be_made_of_what_it_was() -> None:
    """KVM reclaims before it loads a root, and takes the one that the guest goes back to, which nothing has loaded."""
    story = Story()
    idle, root, full, first = range(1, 5)
    story.alloc(idle, level=3)
    story.alloc(root, level=3)
    for page, level, parent in ((full, 2, root), *((first + index, 1, full) for index in range(57))):
        story.alloc(page, level=level)
        story.link(parent, page, page)
    story.reclaim()
    story.zap(idle, level=3)
    story.zap(full, level=2)
    for index in range(19):
        story.zap(first + index)
    story.alloc(idle, level=3)
    story.alloc(full, level=2)
    story.link(idle, full, full)
    simulator = Simulator(FACTS, "stock")
    simulator.feed(story.records())
    (estimate,) = simulator.estimates().values()
    assert (estimate.reproduced, estimate.recorded_zaps, estimate.zaps) == (21, 21, 21)


def test_after_a_loss_it_goes_on_with_what_it_hears() -> None:
    """The counts stay, and pages that are not known are passed over."""
    story = Story()
    story.alloc(1, level=2)
    story.alloc(2)
    story.link(1, 0, 2)
    simulator = Simulator(FACTS, "stock")
    simulator.feed(story.records())
    story.events.clear()
    story.seq += 5
    story.link(1, 1, 3)
    story.reclaim(PAGE_FAULT)
    story.zap(2)
    story.alloc(1, level=2)
    story.alloc(4)
    story.link(1, 1, 4)
    simulator.feed(story.records())
    (estimate,) = simulator.estimates().values()
    assert estimate.recorded_faults == 2


def test_a_vm_that_ended_keeps_its_estimate_and_its_address_is_another_ones() -> None:
    """By destroy, and by numbers that start over."""
    simulator = Simulator(FACTS, "stock")
    for pid in (1, 2, 3):
        story = Story(pid=pid)
        story.alloc(1, level=2)
        story.alloc(2)
        story.link(1, 0, 2)
        if pid == 1:
            story.destroy()
        simulator.feed(story.records())
    assert [pid for _, pid, _ in simulator.estimates()] == [1, 2, 3]
    assert {estimate.recorded_faults for estimate in simulator.estimates().values()} == {1}


def test_a_recording_from_mid_run_begins_with_what_its_walk_tells() -> None:
    """Pages that the walk told of are there when the next fault links beneath them."""
    vm = run("stock", [(0, 0), (0, 1), (1, 0)], 60)
    vm.ring.take()
    vm.wanted = 1
    vm.access((0, 2))
    simulator = Simulator(replace(FACTS, midway=True), "stock")
    simulator.feed(vm.ring.take())
    (estimate,) = simulator.estimates().values()
    assert (estimate.faults, estimate.recorded_faults) == (1, 1)


def test_a_walk_looks_at_64_parents() -> None:
    """Of a directory that 100 pages lead to, 32 of them move and what they share: it is looked at once for each."""
    story = Story()
    story.alloc(1, level=4, limit=200)
    for number in range(100):
        story.alloc(10 + number, level=3, gfn=number, limit=200)
        story.link(1, number, 10 + number)
    story.alloc(2, level=2, gfn=1000, limit=200)
    for number in range(100):
        story.link(10 + number, 0, 2)
    story.alloc(3, gfn=1001, limit=200)
    story.link(2, 0, 3)
    simulator = Simulator(FACTS, "parents")
    simulator.feed(story.records())
    (vm,) = simulator._vms.values()
    pages = [(page.identity & GFN_MASK, page.level) for page in vm._list]
    assert [level for _, level in pages[pages.index((1001, 1)) :]] == [1, 2, 3, 4] + [3] * 31


def test_memory_is_bounded_by_the_list() -> None:
    """However many gfns are shadowed once and never again."""
    vm = Faulting("stock", 40)
    simulator = Simulator(FACTS, "parents")
    for directory in range(100):
        for table in range(99):
            vm.access((directory, table))
        simulator.feed(vm.ring.take())
        vm.ring.events.clear()
        vm.ring._taken = 0
    (simulated,) = simulator._vms.values()
    assert len(simulated._pages) < 5000 < 100 * 99


def test_more_moves_than_pages_before_a_reclaim_end_nothing() -> None:
    """As when a recording goes on under `parents` after `accessed`, or a larger limit makes reclaims rare."""
    facts = replace(FACTS, policy="accessed")
    story = Story()
    story.alloc(1, level=2, limit=8)
    story.alloc(2, limit=8)
    story.link(1, 0, 2)
    for _ in range(20):
        story.move(1)
    for page in range(3, 9):
        story.alloc(page, limit=8)
        story.link(1, page, page)
    story.reclaim()
    story.zap(2)
    story.alloc(9, limit=8)
    simulator = Simulator(facts, "accessed")
    simulator.feed(story.records())
    (estimate,) = simulator.estimates().values()
    assert estimate.recorded_zaps == 1
