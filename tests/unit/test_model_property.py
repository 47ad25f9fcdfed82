# SPDX-License-Identifier: Apache-2.0
"""The fast model equals a slow and obvious one on any sequence of events."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shadowwatch.event.abi import RECORD, Event, Kind, encode
from shadowwatch.mmu.model import Model
from shadowwatch.mmu.page import SPT_MASK
from tests.unit.story import FUNCTIONS, GUEST_WRITE, RECLAIM, ROLES, Story

PAGES = st.integers(1, 12)
STEPS = st.one_of(
    st.tuples(st.just("alloc"), PAGES),
    st.tuples(st.just("link"), PAGES, st.integers(0, 3), PAGES),
    st.tuples(st.just("move"), PAGES),
    st.tuples(st.just("zap"), PAGES, st.sampled_from((RECLAIM, GUEST_WRITE))),
)


def level_of(page: int) -> int:
    """Pages 1–3 are of level 3, 4–7 of level 2, the others tables."""
    return 3 if page < 4 else 2 if page < 8 else 1


class Reference:
    """A list of spts, a set of (spte, child), and nothing clever."""

    def __init__(self) -> None:
        self.order: list[int] = []  # newest first
        self.edges: dict[int, int] = {}  # spte -> child's spt
        self.ever_linked: set[int] = set()
        self.levels: dict[int, int] = {}
        self.inserted = 0  # at the head: allocated or moved
        self.parented: dict[int, int] = {}
        self.recent = 0
        self.positions: list[float] = []

    def alloc(self, page: int) -> None:
        """A new page goes to the front."""
        spt = Story.spt(page)
        self.order.insert(0, spt)
        self.levels[spt] = level_of(page)
        self.inserted += 1

    def link(self, pte: int, child: int) -> None:
        """All above are parented now, however far."""
        if child not in self.order or pte & SPT_MASK not in self.order:
            return
        self.edges[pte] = child
        self.ever_linked.add(child)
        reached = {pte & SPT_MASK}
        while True:
            above = {p & SPT_MASK for p, c in self.edges.items() if c in reached} | reached
            if above == reached:
                break
            reached = above
        self.parented.update(dict.fromkeys(reached, self.inserted))

    def move(self, spt: int) -> None:
        """To the front."""
        self.inserted += 1
        if spt in self.order:
            self.order.remove(spt)
            self.order.insert(0, spt)

    def zap(self, spt: int, caller: str) -> None:
        """Gone, with all of its edges."""
        if spt not in self.order:
            return
        if caller == RECLAIM:
            last = len(self.order) - 1
            self.positions.append(self.order.index(spt) / last if last else 1.0)
            if spt in self.parented and self.inserted - self.parented[spt] < len(self.order):
                self.recent += 1
        self.order.remove(spt)
        self.edges = {p: c for p, c in self.edges.items() if c != spt and p & SPT_MASK != spt}
        self.ever_linked.discard(spt)
        self.parented.pop(spt, None)

    def orphans(self) -> int:
        """Pages that had a parent and have none."""
        return sum(spt in self.ever_linked and spt not in self.edges.values() for spt in self.order)


@given(st.lists(STEPS, max_size=120), st.data())
def test_model_equals_the_slow_reference(steps: list[tuple], data: st.DataObject) -> None:  # type: ignore[type-arg]
    """Order, tree, orphans, recently parented zaps and positions agree, however the events come and are cut."""
    story, reference = Story(), Reference()
    for step in steps:
        match step:
            case ("alloc", page) if Story.spt(page) not in reference.order:
                story.alloc(page, level_of(page))
                reference.alloc(page)
            # A parent is always of a higher level: KVM counts levels down from the root.
            case ("link", parent, index, child) if level_of(parent) > level_of(child):
                story.link(parent, index, child)
                reference.link(story.pte(parent, index), Story.spt(child))
            case ("move", page):
                story.move(page)
                reference.move(Story.spt(page))
            case ("zap", page, caller):
                story.zap(page, level_of(page), caller)
                reference.zap(Story.spt(page), caller)
    story.alloc(99)
    reference.alloc(99)

    model = Model(ROLES, FUNCTIONS)
    records = story.records()
    cut = RECORD.size * data.draw(st.integers(0, len(story.events)))
    model.feed(records[:cut])
    model.feed(records[cut:])

    vm = model.vm(story.kvm)
    tree = vm.tree()
    assert [page.spt for page in tree] == reference.order
    assert {(pte, page.spt) for page in tree for pte in page.parents} == set(reference.edges.items())
    assert {(page.spt, child) for page in tree for child in page.children.values()} == {
        (pte & SPT_MASK, child) for pte, child in reference.edges.items()
    }
    frozen = vm.freeze()
    assert frozen.orphans == reference.orphans()
    assert sum(frozen.recently_parented_zaps.values()) == reference.recent
    total = sum(distribution.total for distribution in frozen.zap_position.values())
    assert abs(total - sum(reference.positions)) < 1e-9
    assert sum(frozen.pages.values()) == len(reference.order)


def test_ages_given_out_again_keep_the_order() -> None:
    """A root at the tail while thousands of tables come and go makes the list renumber; places stay right."""
    story = Story()
    story.alloc(1, level=2)
    for number in range(3000):
        story.alloc(10 + number)
        if number >= 5:
            story.zap(10 + number - 5)
    model = Model(ROLES, FUNCTIONS)
    model.feed(story.records())
    vm = model.vm(story.kvm)
    assert [page.spt for page in vm.tree()] == [Story.spt(page) for page in (3009, 3008, 3007, 3006, 3005, 1)]
    positions = vm.freeze().zap_position[1]
    # Each zap took the oldest but the root: fourth of… six of seven, 1 - 1/6.
    assert abs(positions.total / sum(positions.counts) - (1 - 1 / 6)) < 1e-9


def test_moves_alone_cannot_fill_the_memory() -> None:
    """A guest that makes KVM link the same pages over and over moves parents without an allocation."""
    story = Story()
    for page in range(8):
        story.alloc(page + 1, level=2)
    model = Model(ROLES, FUNCTIONS)
    model.feed(story.records())
    story.events.clear()
    for number in range(5000):
        story.move(number % 8 + 1)
    model.feed(story.records())
    vm = model.vm(story.kvm)
    assert len(vm.active.live) < 1000
    assert [page.spt for page in vm.tree()] == [Story.spt(page) for page in (8, 7, 6, 5, 4, 3, 2, 1)]


#: Few values for each field, so that events meet each other's pages, VMs and sptes.
DAMAGED = st.builds(
    Event,
    kvm=st.integers(0, 2),
    ns=st.integers(0, 3),
    spt=st.integers(0, 4).map(lambda page: page * 0x1000),
    parent_pte=st.integers(0, 5 * 512).map(lambda entry: entry * 8),
    gfn=st.integers(0, 2),
    mapped=st.integers(0, 1),
    seq=st.integers(0, 3),
    role=st.integers(0, 2**32 - 1),
    pid=st.just(1),
    limit=st.just(64),
    used=st.integers(0, 3),
    kind=st.integers(0, max(Kind) + 1),
    flags=st.integers(0, 15),
    walk=st.integers(0, 2),
    caller=st.sampled_from((0, *(start + 1 for _, start, _ in FUNCTIONS))),
)


@given(st.lists(DAMAGED, max_size=60), st.binary(max_size=200))
def test_no_events_whatever_break_the_model(events: list[Event], rest: bytes) -> None:
    """Whatever a damaged stream says, counts are taken, nothing is raised, and the tree stays a tree of two ends."""
    model = Model(ROLES, FUNCTIONS)
    model.feed(b"".join(map(encode, events)) + rest)
    model.forget(0)
    assert model.received == len(events) + len(rest) // RECORD.size
    for frozen in model.snapshot():
        assert frozen.lost >= 0
        if not frozen.ended:
            tree = model.vm(frozen.kvm).tree()
            assert sum(frozen.pages.values()) == len(tree)
            assert {(pte & SPT_MASK, page.spt) for page in tree for pte in page.parents} == {
                (page.spt, child) for page in tree for child in page.children.values()
            }
