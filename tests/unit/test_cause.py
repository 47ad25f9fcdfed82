# SPDX-License-Identifier: Apache-2.0
"""Causes of zaps, from the function that asked for them to the figures of the model.

What is expected is written out here from the call graphs of the kernels named, not taken from the program.
"""

from __future__ import annotations

import pytest

from shadowwatch.event.abi import Flags, Kind
from shadowwatch.mmu.cause import CALLERS
from shadowwatch.mmu.model import Model
from shadowwatch.snapshot import CAUSES, Cause, VmSnapshot
from tests.unit.story import FUNCTIONS, PAGE_FAULT, RECLAIM, ROLES, Story, within

#: Callers of __kvm_mmu_prepare_zap_page() with a cause of their own.
BY_ITSELF = {
    # 6.12 and later: zaps of one memory slot's pages, and its helpers.
    "kvm_arch_flush_shadow_memslot": "memslot",
    "kvm_mmu_zap_memslot": "memslot",
    "kvm_mmu_zap_memslot_pages_and_flush": "memslot",
    # The VM's end, and mmu_notifier's release: the first is inlined into the second since 6.12.
    "kvm_mmu_zap_all": "teardown",
    "kvm_arch_flush_shadow_all": "teardown",
    # Writes to a page table that came often or cut across entries; the name until 6.5 and since.
    "kvm_mmu_pte_write": "guest_write",
    "kvm_mmu_track_write": "guest_write",
    # The name until 6.11 and since.
    "kvm_mmu_unprotect_page": "unprotect",
    "__kvm_mmu_unprotect_gfn_and_retry": "unprotect",
    # A page found in the hash that could not be synchronized, from 5.4 to 7.3.
    "kvm_mmu_get_page": "sync",
    "__kvm_mmu_get_shadow_page": "sync",
    "kvm_mmu_find_shadow_page": "sync",
    "mmu_sync_children": "sync",
    "kvm_sync_page": "sync",
    "__kvm_sync_page": "sync",
    # Huge pages that were split against iTLB multihit: 5.4, 5.15, 6.2 and later, 6.8.
    "kvm_nx_lpage_recovery_worker": "nx_recovery",
    "kvm_recover_nx_lpages": "nx_recovery",
    "kvm_nx_huge_page_recovery_worker": "nx_recovery",
    "kvm_recover_nx_huge_pages": "nx_recovery",
    "mmu_free_root_page": "root_free",
    # Debian 6.1 and 6.12: an spte that pointed to another page.
    "__link_shadow_page": "link",
    "link_shadow_page": "link",
}
#: Those whose cause is what the reclaim before was for.
BY_RECLAIM = ("kvm_mmu_zap_oldest_mmu_pages", "prepare_zap_oldest_mmu_page")
RECLAIMS = {"kvm_mmu_change_mmu_pages": "resize", "mmu_shrink_scan": "shrinker", PAGE_FAULT: "quota"}
#: Those whose cause is what kvm_mmu_zap_all_fast() was called for.
BY_FLUSH = ("kvm_mmu_zap_all_fast", "__kvm_mmu_zap_all_fast_front_half", "kvm_zap_obsolete_pages")
FLUSHES = {
    "kvm_page_track_flush_slot": "memslot",
    "kvm_mmu_invalidate_zap_pages_in_memslot": "memslot",
    "kvm_arch_flush_shadow_memslot": "memslot",
    "set_nx_huge_pages": "zap_all",
}
#: Those that zap what is beneath a page that is being zapped.
INHERIT = (
    "__kvm_mmu_prepare_zap_page",
    "kvm_mmu_zap_page",
    "kvm_mmu_page_unlink_children",
    "mmu_zap_unsync_children",
    "mmu_page_zap_pte",
)


def pages(number: int) -> Story:
    """A VM with so many tables, and a directory with number 99."""
    story = Story()
    for page in range(number):
        story.alloc(page + 1)
    story.alloc(99, level=2)
    return story


def frozen(story: Story) -> VmSnapshot:
    """The VM's figures after the story."""
    model = Model(ROLES, FUNCTIONS)
    model.feed(story.records())
    return model.vm(story.kvm).freeze()


def tables_zapped(story: Story) -> dict[str, int]:
    """Cause in words -> tables zapped for it."""
    return {Cause(cause).name.lower(): zaps for (level, cause), zaps in frozen(story).zaps.items() if level == 1}


def test_these_tables_speak_of_every_function_that_is_looked_up() -> None:
    """None is in the program without an expectation here, nor the other way round."""
    looked_up = {*BY_ITSELF, *BY_RECLAIM, *RECLAIMS, *BY_FLUSH, *FLUSHES, *INHERIT} - {PAGE_FAULT, "set_nx_huge_pages"}
    assert looked_up == CALLERS


@pytest.mark.parametrize(("function", "cause"), BY_ITSELF.items())
def test_a_zap_is_filed_under_what_its_caller_does(function: str, cause: str) -> None:
    """Whatever reclaim or flush there was before."""
    story = pages(1)
    story.reclaim("mmu_shrink_scan")
    story.flush("kvm_page_track_flush_slot")
    story.zap(1, caller=function)
    assert tables_zapped(story) == {cause: 1}


@pytest.mark.parametrize("function", ["__kvm_mmu_get_shadow_page", "kvm_mmu_find_shadow_page"])
def test_a_page_in_sync_that_was_found_in_the_hash_had_too_many_parents(function: str) -> None:
    """6.12.118 zaps it at 1,000 (e4558c3d7198), what is beneath it as well; all others there are not in sync."""
    story = pages(3)
    story.zap(1, caller=function, flags=Flags.IN_SYNC)
    story.zap(2, caller="mmu_zap_unsync_children")
    story.zap(3, caller=function)
    assert tables_zapped(story) == {"parent_cap": 2, "sync": 1}


@pytest.mark.parametrize("function", BY_RECLAIM)
@pytest.mark.parametrize(("reclaimer", "cause"), RECLAIMS.items())
def test_reclaim_is_filed_under_what_it_was_for(function: str, reclaimer: str, cause: str) -> None:
    """The event at its begin tells, for each of its zaps, until the next reclaim."""
    story = pages(3)
    story.reclaim(reclaimer)
    story.zap(1, caller=function)
    story.zap(2, caller=function)
    assert tables_zapped(story) == {cause: 2}
    story.reclaim(PAGE_FAULT)
    story.zap(3, caller=function)
    assert sum(tables_zapped(story).values()) == 3
    assert tables_zapped(story)["quota"] == (3 if cause == "quota" else 1)
    assert frozen(story).reclaims == 2


@pytest.mark.parametrize("function", BY_RECLAIM)
def test_reclaim_that_nothing_was_told_of_is_by_quota(function: str) -> None:
    """As in 5.4, where no function of its own can be probed."""
    story = pages(1)
    story.zap(1, caller=function)
    assert tables_zapped(story) == {"quota": 1}


@pytest.mark.parametrize("function", BY_FLUSH)
@pytest.mark.parametrize(("flusher", "cause"), FLUSHES.items())
def test_a_flush_is_filed_under_what_it_was_for(function: str, flusher: str, cause: str) -> None:
    """A memory slot that goes, or else a wish that all pages be gone."""
    story = pages(2)
    story.flush("kvm_page_track_flush_slot" if cause == "zap_all" else "set_nx_huge_pages")
    story.flush(flusher)
    story.zap(1, caller=function)
    assert tables_zapped(story) == {cause: 1}


@pytest.mark.parametrize("function", BY_FLUSH)
def test_a_flush_that_nothing_was_told_of_zaps_all(function: str) -> None:
    """The event comes without a number and may be lost."""
    story = pages(1)
    story.zap(1, caller=function)
    assert tables_zapped(story) == {"zap_all": 1}


@pytest.mark.parametrize("function", INHERIT)
@pytest.mark.parametrize(("above", "cause"), [*BY_ITSELF.items(), *((each, "shrinker") for each in BY_RECLAIM)])
def test_what_is_zapped_beneath_a_page_has_that_pages_cause(function: str, above: str, cause: str) -> None:
    """At any depth: the parent's event comes first, and those that followed it are told apart."""
    story = pages(3)
    story.reclaim("mmu_shrink_scan")
    story.zap(3, caller="kvm_mmu_zap_all_fast")
    story.zap(99, level=2, caller=above)
    story.zap(1, caller=function)
    story.zap(2, caller=function)
    assert tables_zapped(story) == {"zap_all": 1, cause: 2}
    assert frozen(story).recursive_zaps == {1: 2}


def test_what_goes_with_its_parent_was_not_chosen() -> None:
    """Its place on the list says nothing of the order of reclaim: the newest may go so."""
    story = pages(90)
    for page in range(1, 46):
        story.zap(page)
        story.zap(91 - page, caller="__kvm_mmu_prepare_zap_page")
    vm = frozen(story)
    assert vm.zaps == {(1, Cause.QUOTA): 90}
    assert vm.recursive_zaps == {1: 45}
    assert sum(vm.zap_position[1].counts) == 45
    assert vm.zap_position[1].total == 45


@pytest.mark.parametrize("function", INHERIT)
def test_children_of_a_root_freed_at_last_are_filed_under_that(function: str) -> None:
    """Its second zap, invalid by then, is one of root_zaps and no zap; what it takes along is root_free."""
    story = pages(1)
    story.zap(99, level=2, caller="kvm_mmu_zap_all_fast")
    story.zap(99, level=2, caller="mmu_free_root_page", invalid=True)
    story.zap(1, caller=function)
    vm = frozen(story)
    assert vm.zaps == {(2, Cause.ZAP_ALL): 1, (1, Cause.ROOT_FREE): 1}
    assert vm.root_zaps == 1
    assert vm.unknown_pages == {}


@pytest.mark.parametrize("address", [0, 0x1234, 0xFFFF_FFFF])
def test_an_address_in_no_known_function_is_another_cause(address: int) -> None:
    """Before the first, between two and behind the last."""
    story = pages(1)
    story.zap(1)
    story.events[-1] = story.events[-1]._replace(caller=address)
    assert tables_zapped(story) == {"other": 1}


def test_a_return_address_right_behind_a_function_is_of_that_function() -> None:
    """A call may be its last instruction; the address of its first is in no call of it."""
    story = pages(2)
    name, start, end = next(function for function in FUNCTIONS if function[0] == "kvm_mmu_zap_all")
    for page, address in ((1, start), (2, end)):
        story.zap(page, caller=name)
        story.events[-1] = story.events[-1]._replace(caller=address)
    assert tables_zapped(story) == {"other": 1, "teardown": 1}


@pytest.mark.parametrize(
    ("function", "counts"),
    [
        *((name, False) for name in (*BY_ITSELF, *BY_FLUSH)),
        *((name, True) for name in BY_RECLAIM),
    ],
)
def test_only_reclaim_makes_a_zap_recently_parented(function: str, counts: bool) -> None:
    """By quota, by resize and by the shrinker alike; other causes do not look at the order of the list."""
    for reclaimer in RECLAIMS:
        story = pages(1)
        story.link(99, 0, 1)
        story.reclaim(reclaimer)
        story.zap(99, level=2, caller=function)
        assert frozen(story).recently_parented_zaps == ({2: 1} if counts else {})
        assert set(frozen(story).zap_position) == ({2} if counts else set())


def test_a_reclaim_of_one_vm_says_nothing_of_another() -> None:
    """The shrinker goes from VM to VM."""
    first, second = Story(kvm=0x1000), Story(kvm=0x2000)
    for story in (first, second):
        story.alloc(1)
    first.reclaim("mmu_shrink_scan")
    for story in (first, second):
        story.zap(1)
    model = Model(ROLES, FUNCTIONS)
    model.feed(first.records() + second.records())
    assert model.vm(0x1000).freeze().zaps == {(1, Cause.SHRINKER): 1}
    assert model.vm(0x2000).freeze().zaps == {(1, Cause.QUOTA): 1}


def test_every_cause_can_come_about() -> None:
    """One story with each of them, and the sum is the number of zaps."""
    callers = {cause: function for function, cause in BY_ITSELF.items()}
    causes = set(CAUSES) - {Cause.RECLAIM, Cause.UNKNOWN}  # of zaps that no event tells
    story = pages(len(causes))
    page = 0
    for reclaimer in RECLAIMS:
        story.reclaim(reclaimer)
        page += 1
        story.zap(page, caller=RECLAIM)
    story.flush("set_nx_huge_pages")
    page += 1
    story.zap(page, caller="__kvm_mmu_get_shadow_page", flags=Flags.IN_SYNC)
    for function in (*callers.values(), "kvm_mmu_zap_all_fast", PAGE_FAULT):
        page += 1
        story.zap(page, caller=function)
    assert set(tables_zapped(story)) == {cause.name.lower() for cause in causes}
    assert sum(tables_zapped(story).values()) == page == len(causes)
    assert story.events[-1].kind == Kind.ZAP
    assert story.events[-1].caller == within(PAGE_FAULT)
