# SPDX-License-Identifier: Apache-2.0
"""The model of one VM: its tree, its list, and the zaps that the RFC would have avoided."""

from __future__ import annotations

import pytest

from shadowwatch.event.abi import Kind
from shadowwatch.mmu.model import Model
from shadowwatch.mmu.vm import Vm
from shadowwatch.snapshot import Cause, VmSnapshot
from tests.unit.story import FUNCTIONS, GUEST_WRITE, ROLES, Story


def fed(story: Story, recent_ns: int | None = None) -> Vm:
    """The VM after the story."""
    model = Model(ROLES, FUNCTIONS, recent_ns)
    model.feed(story.records())
    return model.vm(story.kvm)


def frozen(story: Story, recent_ns: int | None = None) -> VmSnapshot:
    """The VM's figures after the story."""
    return fed(story, recent_ns).freeze()


def directory_with_tables(tables: int) -> Story:
    """Root 1, directory 2 beneath it, and so many tables beneath that: 10, 11, 12 and so on."""
    story = Story()
    story.alloc(1, level=3)
    story.alloc(2, level=2)
    story.link(1, 0, 2)
    for number in range(tables):
        story.alloc(10 + number)
        story.link(2, number, 10 + number)
    return story


def test_new_pages_stand_at_the_head() -> None:
    """active_mmu_pages is newest first, as list_add() leaves it."""
    tree = fed(directory_with_tables(3)).tree()
    assert [page.spt for page in tree] == [Story.spt(page) for page in (12, 11, 10, 2, 1)]
    assert [page.position for page in tree] == [0, 1, 2, 3, 4]


def test_a_move_takes_a_page_to_the_head() -> None:
    """mmu_parent_walk() leaves the order root, directory, table, rest."""
    story = directory_with_tables(2)
    story.move(2)
    story.move(1)
    vm = fed(story)
    assert [page.spt for page in vm.tree()] == [Story.spt(page) for page in (1, 2, 11, 10)]
    assert vm.freeze().moves == 2


def test_links_make_the_tree() -> None:
    """A link joins the page that holds the spte and the page that it points to."""
    story = directory_with_tables(2)
    by_spt = {page.spt: page for page in fed(story).tree()}
    directory, table = by_spt[Story.spt(2)], by_spt[Story.spt(10)]
    assert directory.children == {story.pte(2, 0): Story.spt(10), story.pte(2, 1): Story.spt(11)}
    assert directory.parents == {story.pte(1, 0)}
    assert table.parents == {story.pte(2, 0)}


def test_an_spte_that_is_overwritten_orphans_its_old_child() -> None:
    """One spte points to one page: a second link of it takes the first child's parent away."""
    story = directory_with_tables(1)
    story.alloc(20)
    story.link(2, 0, 20)
    vm = frozen(story)
    assert vm.orphans == 1
    assert vm.links == 3


def test_children_of_a_zapped_directory_are_orphans_until_linked_again() -> None:
    """kvm_mmu_page_unlink_children() leaves synced children on the list, and a hash hit revives them."""
    story = directory_with_tables(3)
    story.zap(2, level=2)
    assert frozen(story).orphans == 3
    story.zap(10)
    assert frozen(story).orphans == 2
    story.alloc(3, level=2)
    story.link(3, 1, 11)
    assert frozen(story).orphans == 1
    assert frozen(story).pages == {1: 2, 2: 1, 3: 1}


def test_a_page_with_two_parents_is_no_orphan_after_losing_one() -> None:
    """A guest table in two directories has two parent ptes (struct kvm_rmap_head)."""
    story = directory_with_tables(1)
    story.alloc(3, level=2)
    story.link(3, 7, 10)
    story.zap(2, level=2)
    assert frozen(story).orphans == 0
    story.zap(3, level=2)
    assert frozen(story).orphans == 1


def test_a_directory_zapped_right_after_a_child_came_is_recently_parented() -> None:
    """The RFC's case: the oldest page is a directory that was just given a child."""
    story = directory_with_tables(3)
    story.zap(2, level=2)
    vm = frozen(story)
    assert vm.recently_parented_zaps == {2: 1}
    assert vm.zaps == {(2, Cause.QUOTA): 1}


def test_one_list_length_of_allocations_later_it_is_not() -> None:
    """At exactly a list-length the RFC's kernel would have zapped it too; one fewer is recent."""
    for others, recent in ((5, {2: 1}), (6, {})):
        story = directory_with_tables(3)  # 5 pages on the list
        for number in range(others):
            story.alloc(100 + number)
            if number:  # one page of growth: the list has 6 pages
                story.zap(99 + number, caller=GUEST_WRITE)
        story.zap(2, level=2)
        assert frozen(story).recently_parented_zaps == recent


def test_moved_pages_age_the_others_too() -> None:
    """What the patched KVM puts at the head pushes the rest back, allocated or moved."""
    for moves, recent in ((4, {2: 1}), (5, {})):
        story = directory_with_tables(3)  # 5 pages on the list
        for _ in range(moves):
            story.move(1)
        story.zap(2, level=2)
        assert frozen(story).recently_parented_zaps == recent


def test_a_child_of_a_child_counts_as_beneath() -> None:
    """mmu_parent_walk() moves every ancestor, so every ancestor is recently parented."""
    story = directory_with_tables(1)
    story.zap(1, level=3)
    assert frozen(story).recently_parented_zaps == {3: 1}


def test_ancestors_over_all_paths_are_parented() -> None:
    """A directory in two roots parents both."""
    story = directory_with_tables(0)
    story.alloc(3, level=3)
    story.link(3, 0, 2)
    for number in range(8):
        story.alloc(30 + number)
    story.alloc(10)
    story.link(2, 0, 10)
    for root in (1, 3):
        story.zap(root, level=3)
    assert frozen(story).recently_parented_zaps == {3: 2}


def test_only_reclaim_counts() -> None:
    """A directory zapped for another cause says nothing of the reclaim order."""
    story = directory_with_tables(3)
    story.zap(2, level=2, caller=GUEST_WRITE)
    vm = frozen(story)
    assert vm.recently_parented_zaps == {}
    assert vm.parenting_age == {}
    assert vm.zap_position == {}


def test_a_zap_by_an_unknown_function_is_another_cause() -> None:
    """The zap is one, whatever for, and no reclaim."""
    story = directory_with_tables(1)
    story.zap(10)
    story.events[-1] = story.events[-1]._replace(caller=0x42)
    vm = frozen(story)
    assert vm.zaps == {(1, Cause.OTHER): 1}
    assert vm.zap_position == {}
    assert vm.pages == {2: 1, 3: 1}


def test_tables_and_childless_directories_are_never_recently_parented() -> None:
    """Level 1 has no children, and a directory that got none was not parented."""
    story = directory_with_tables(1)
    story.zap(10)
    story.alloc(5, level=2)
    story.zap(5, level=2)
    assert frozen(story).recently_parented_zaps == {}


def test_the_threshold_can_be_a_time() -> None:
    """With seconds as the threshold the allocations between do not matter."""
    story = directory_with_tables(1)
    for number in range(50):
        story.alloc(100 + number)
    story.zap(2, level=2)  # 51 ms after the link
    assert frozen(story).recently_parented_zaps == {2: 1}
    assert frozen(story, recent_ns=51_000_000).recently_parented_zaps == {}
    assert frozen(story, recent_ns=51_000_001).recently_parented_zaps == {2: 1}


def test_age_and_position_at_zap_are_kept() -> None:
    """The histograms hold the allocations and the time since parenting, and the place on the list."""
    story = directory_with_tables(3)
    story.alloc(50)
    story.alloc(51)
    story.zap(2, level=2)  # 7 pages, only the root is older
    vm = frozen(story)
    assert vm.parenting_age[2].total == 2
    assert vm.parenting_age_seconds[2].total == 0.003
    assert vm.zap_position[2].total == 1 - 1 / 6
    story.zap(51)
    assert frozen(story).zap_position[1].total == 0


def test_a_gfn_that_no_guest_has_does_no_harm() -> None:
    """A forged capture may have one of more than 40 bits, which are the role's where both are one number."""
    story = Story()
    story.alloc(1, gfn=1 << 41)
    story.zap(1)
    vm = frozen(story)
    assert vm.pages == {}
    assert sum(vm.zaps.values()) == 1


@pytest.mark.parametrize("caller", [GUEST_WRITE, "__kvm_mmu_prepare_zap_page"])
def test_a_position_is_that_of_the_moment(caller: str) -> None:
    """What goes between two pages that reclaim chooses, for another cause or along with a parent, is older no more."""
    story = Story()
    for page in range(5):
        story.alloc(page)
    story.zap(1)
    story.zap(0, caller=caller)
    story.zap(2)
    story.zap(4)
    positions = frozen(story).zap_position[1]
    assert positions.total == (1 - 1 / 4) + 1 + 0
    assert sum(positions.counts) == 3


def test_a_refault_is_the_same_gfn_and_role_again() -> None:
    """Same gfn and role: a refault with its distance; another level of that gfn: none."""
    story = Story()
    story.alloc(1, gfn=77)
    story.zap(1)
    story.alloc(2, gfn=78)
    story.alloc(3, level=2, gfn=77)
    assert frozen(story).refaults == {}
    story.alloc(4, gfn=77)
    vm = frozen(story)
    assert vm.refaults == {1: 1}
    assert vm.refault_distance.total == 3


def test_the_second_zap_of_a_root_is_counted_apart() -> None:
    """A root zapped in use is off the list at once; mmu_free_root_page() zaps it again, invalid."""
    story = directory_with_tables(0)
    story.zap(1, level=3, caller=GUEST_WRITE)
    story.zap(1, level=3, caller=GUEST_WRITE, invalid=True)
    vm = frozen(story)
    assert vm.zaps == {(3, Cause.GUEST_WRITE): 1}
    assert vm.root_zaps == 1
    assert vm.unknown_pages == {}
    assert vm.pages == {2: 1}


def test_a_zap_of_a_page_never_seen_is_a_counted_oddity() -> None:
    """It is a zap, and a stranger, and nothing else."""
    story = directory_with_tables(0)
    story.zap(99, level=2)
    story.move(99)
    story.link(98, 0, 1)
    vm = frozen(story)
    assert vm.zaps == {(2, Cause.QUOTA): 1}
    assert vm.unknown_pages == {Kind.ZAP: 1, Kind.MOVE: 1, Kind.LINK: 1}
    assert vm.pages == {2: 1, 3: 1}
    assert vm.recently_parented_zaps == {}
    assert vm.zap_position == {}


def test_a_lost_event_makes_the_vm_inexact_until_the_old_pages_are_gone() -> None:
    """After a gap the model holds only pages that it knows to be there, and says so until these are all."""
    story = directory_with_tables(2)
    assert frozen(story).exact
    story.alloc(50)
    del story.events[-1]
    story.alloc(51)
    vm = frozen(story)
    assert (vm.lost, vm.exact, vm.resyncs) == (1, False, 0)
    assert vm.pages == {1: 1}
    for page, level in ((1, 3), (2, 2), (10, 1), (11, 1)):
        story.zap(page, level)
    story.alloc(52)
    assert not frozen(story).exact  # page 50 is still there, unseen
    story.zap(50)
    story.alloc(53)
    vm = frozen(story)
    assert (vm.lost, vm.exact, vm.resyncs) == (1, True, 1)
    assert vm.pages == {1: 3}


def test_a_vm_first_seen_in_mid_life_is_inexact() -> None:
    """Pages from before the probes came are not in the model, and KVM's own count shows it."""
    story = directory_with_tables(2)
    story.events = story.events[-2:]
    story.events = [event._replace(seq=number + 1) for number, event in enumerate(story.events)]
    vm = frozen(story)
    assert not vm.exact
    assert vm.lost == 0
