# SPDX-License-Identifier: Apache-2.0
"""The tree of a VM as text, JSON and DOT."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowwatch.errors import ShadowwatchError
from shadowwatch.mmu.pick import only, pick
from shadowwatch.snapshot import PageSnapshot, VmDetail
from shadowwatch.view.tree import dot, text, tree
from tests.golden import matches
from tests.unit.story import ROLES, Story
from tests.unit.test_vm import fed

GUEST_MODE = 1 << 17
NOW_NS = 2 * 10**9


def small() -> VmDetail:
    """Two roots, one of a nested guest; a table with two parents; an orphan with a child; one to go next."""
    story = Story()
    story.alloc(1, level=3)
    story.alloc(2, level=2)
    story.link(1, 0, 2)
    story.alloc(10)
    story.link(2, 0, 10)
    story.alloc(3, level=2)
    story.link(1, 511, 3)
    story.link(3, 7, 10)
    story.alloc(11)
    story.link(3, 12, 11)
    story.alloc(4, level=2)
    story.link(1, 5, 4)
    story.alloc(12)
    story.link(4, 1, 12)
    story.alloc(13, level=1)
    story.link(1, 5, 13)
    story.alloc(5, level=4 | GUEST_MODE)
    vm = fed(story)
    vm.name = "web"
    return vm.detail(NOW_NS)()


def test_the_text_is_as_people_see_it() -> None:
    """Golden: roots, children by index, what is shown above, what goes next, orphans on their own."""
    matches("tree.txt", "".join(f"{line}\n" for line in text(small(), ROLES)))


def test_the_json_is_as_scripts_see_it() -> None:
    """Golden, and made of nothing but what JSON has."""
    matches("tree.json", json.dumps(tree(small(), ROLES), indent=1) + "\n")


def test_the_dot_is_as_graphviz_sees_it() -> None:
    """Golden: roots drawn double, orphans dashed, the next page grey."""
    matches("tree.dot", "".join(f"{line}\n" for line in dot(small(), ROLES)))


def test_a_root_at_the_end_of_the_list_is_skipped_not_promised() -> None:
    """KVM leaves roots alone that a vCPU has loaded, and events do not tell which: the page behind is the next."""
    detail = small()
    made = tree(detail, ROLES)
    assert detail.pages[-1].spt == Story.spt(1)
    assert made["reclaim_next"] == hex(Story.spt(2))
    assert made["reclaim_may_skip"] == [hex(Story.spt(1))]


def test_newest_first_turns_the_mark_round() -> None:
    """With the mistake of 5.9 to 5.11.1 the page next to go is at the head."""
    detail = small()
    detail = replace(detail, vm=detail.vm._replace(newest_first=True))
    made = tree(detail, ROLES)
    assert made["reclaim_next"] == hex(Story.spt(13))
    assert made["reclaim_may_skip"] == [hex(Story.spt(5))]


def test_a_vm_without_pages_is_one_line() -> None:
    """No heading above nothing."""
    detail = replace(small(), pages=())
    assert len(list(text(detail, ROLES))) == 1
    assert tree(detail, ROLES)["reclaim_next"] is None


def graph(edges: list[tuple[int, int, int]], pages: int) -> VmDetail:
    """Pages with these edges (parent, index, child), however odd; an index of a parent counts once."""
    kept = {(parent, index): child for parent, index, child in edges}
    made = tuple(
        PageSnapshot(
            spt=Story.spt(number),
            gfn=number,
            role=number % 4 + 1,
            level=number % 4 + 1,
            position=number,
            parents=frozenset(
                Story.spt(parent) + 8 * index for (parent, index), child in kept.items() if child == number
            ),
            children={
                Story.spt(parent) + 8 * index: Story.spt(child)
                for (parent, index), child in kept.items()
                if parent == number
            },
            parented=None,
            parented_ns=None,
        )
        for number in range(pages)
    )
    return replace(small(), pages=made)


@given(
    st.integers(1, 12).flatmap(
        lambda pages: st.tuples(
            st.lists(st.tuples(st.integers(0, pages - 1), st.integers(0, 3), st.integers(0, pages - 1)), max_size=20),
            st.just(pages),
        )
    )
)
def test_every_page_is_shown_once_and_every_edge(drawn: tuple[list[tuple[int, int, int]], int]) -> None:
    """In text, JSON and DOT, even where damaged events have led to circles."""
    edges, pages = drawn
    detail = graph(edges, pages)
    wanted = {(parent, index): child for parent, index, child in edges}
    lines = [line for line in text(detail, ROLES) if "gfn" in line]
    shown = [
        int(found[1], 16) for line in lines if (found := re.search(r"gfn (\w+)", line)) and "shown above" not in line
    ]
    assert sorted(shown) == list(range(pages))
    indices = Counter(
        (int(found[1]), int(found[2], 16)) for line in lines if (found := re.search(r"(\d+): .*gfn (\w+)", line))
    )
    assert indices == Counter((index, child) for (_, index), child in wanted.items())
    made = tree(detail, ROLES)
    assert {
        (int(page["gfn"]), child["index"], int(child["spt"], 16))
        for page in made["pages"]
        for child in page["children"]
    } == {(parent, index, Story.spt(child)) for (parent, index), child in wanted.items()}
    drawn_edges = [line for line in dot(detail, ROLES) if " -> " in line]
    assert len(drawn_edges) == len(wanted)


def big(directories: int) -> VmDetail:
    """A root over so many directories of 400 tables each."""
    story = Story()
    story.alloc(1, level=3)
    for number in range(directories):
        story.alloc(2 + number, level=2)
        story.link(1, number, 2 + number)
        for table in range(400):
            page = 1000 + 400 * number + table
            story.alloc(page)
            story.link(2 + number, table, page)
    return fed(story).detail(NOW_NS)()


@pytest.mark.soak
def test_twenty_thousand_pages_take_linear_time() -> None:
    """Ten times the pages take some ten times as long, by the processor's clock; quadratic would be a hundred."""

    def seconds(detail: VmDetail) -> float:
        begin = time.process_time()
        lines = sum(1 for form in (text, dot) for _ in form(detail, ROLES))
        assert lines > len(detail.pages)
        tree(detail, ROLES)
        return time.process_time() - begin

    few, many = big(5), big(50)
    assert len(many.pages) > 20_000
    assert min(seconds(many) for _ in range(2)) < 40 * min(seconds(few) for _ in range(3))


def test_a_vm_goes_by_its_name_or_else_its_pid() -> None:
    """Each refusal is one line that names what there is."""
    vm = small().vm
    other = vm._replace(name="db", pid=12)
    assert pick([vm, other], "web") is vm
    assert pick([vm, other], "12") is other
    with pytest.raises(ShadowwatchError, match=r"^there is no VM mail; choose from web \(pid 4711\), db \(pid 12\)$"):
        pick([vm, other], "mail")
    twin = vm._replace(name="web-2", ended=True)
    with pytest.raises(
        ShadowwatchError, match=r"^4711 is more than one VM; choose from web \(pid 4711\), web-2 \(pid 4711, ended\)$"
    ):
        pick([vm, twin], "4711")
    with pytest.raises(ShadowwatchError, match=r"^there is no VM web, and no other either;"):
        pick([], "web")
    with pytest.raises(ShadowwatchError, match=r"^there is more than one VM with shadow pages; choose with --vm"):
        only([vm, other])
    assert only([vm, other._replace(allocations={})]) is vm
    with pytest.raises(ShadowwatchError, match="no VM has allocated a shadow page"):
        only([])
