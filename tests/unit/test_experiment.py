# SPDX-License-Identifier: Apache-2.0
"""The experiment outside the lab: the order of runs, the rows that are kept, the verdicts, and what documents say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.experiment.analysis import Ended, InReach, Turns
from tests.experiment.cases import CASES
from tests.experiment.claims import CLAIMS, Claim, named
from tests.experiment.figures import Effect, Figures
from tests.experiment.kept import Kept
from tests.experiment.report import DOCS, MARKS, PAGE, ROOT, between, page, quoted, read
from tests.experiment.runs import COUNTING, RECORDING, Block, blocks
from tests.unit.story import Story

POLICIES = ("stock", "parents", "mapped", "leaf-first")


def test_a_block_is_every_policy_at_every_limit_in_an_order_of_its_own() -> None:
    """The same each time, another for each seed, and not stock order first in all of them."""
    orders = [Block(CASES["zipf"], "bare", seed).runs(POLICIES) for seed in (1, 2, 3, 4, 5)]
    for order in orders:
        assert {(run.limit, run.policy) for run in order} == {(n, policy) for n in (64, 96) for policy in POLICIES}
    assert orders[0] == Block(CASES["zipf"], "bare", 1).runs(POLICIES)
    assert len({tuple((run.limit, run.policy) for run in order) for order in orders}) == 5
    assert {order[0].policy for order in orders} != {"stock"}


def test_five_seeds_run_of_each_case() -> None:
    """And something is timed, and recorded but for one that takes too long by the clock."""
    for name, case in CASES.items():
        parts = [block.part for block in blocks(case, (*COUNTING, *RECORDING))]
        assert parts.count("bare") >= 5
        assert {"held", "linked"} <= set(parts)
        assert "recorded" in parts or name == "nested-linux"


def test_a_block_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    """Nor if more seeds are asked for; but for another KVM, and for another limit."""
    block, rows = Block(CASES["zipf"], "bare", 1), [{"case": "zipf", "page_faults": 3}]
    path = tmp_path / "new" / "experiment.jsonl"
    Kept(path, "kvm-6.1-a").add(block, rows)
    assert Kept(path, "kvm-6.1-a").of(block) == rows
    assert Kept(path, "kvm-6.1-b").of(block) is None
    more = replace(CASES["zipf"], seeds=(1, 2, 3, 4, 5, 6), says="the same in other words")
    assert Kept(path, "kvm-6.1-a").of(replace(block, case=more)) == rows
    higher = replace(CASES["zipf"], limits=(64, 128))
    for other in (replace(block, seed=2), replace(block, part="held"), replace(block, case=higher)):
        assert Kept(path, "kvm-6.1-a").of(other) is None


def test_a_block_that_was_cut_off_is_done_again(tmp_path: Path) -> None:
    """When the machine stopped while its line was written, that line is as if it were not there."""
    path = tmp_path / "experiment.jsonl"
    first, second = (Block(CASES["zipf"], "bare", seed) for seed in (1, 2))
    for block in (first, second):
        Kept(path, "kvm").add(block, [{"case": "zipf"}])
    path.write_text(path.read_text()[:-10])
    assert Kept(path, "kvm").of(first) == [{"case": "zipf"}]
    assert Kept(path, "kvm").of(second) is None
    Kept(path, "kvm").add(second, [{"case": "zipf"}])
    assert Kept(path, "kvm").of(second) == [{"case": "zipf"}]


@pytest.mark.parametrize(
    ("changes", "sign"),
    [
        ((-0.2, -0.1, -0.3), -1),
        ((0.02, 0.03), 1),
        ((-0.2, 0.01, -0.1), 0),  # within the spread
        ((-0.009, -0.02, -0.005), 0),  # in all runs, but nothing to speak of
        ((0.0,), 0),
    ],
)
def test_an_effect_is_what_all_pairs_show(changes: tuple[float, ...], sign: int) -> None:
    """Else none is seen."""
    assert Effect(changes).sign == sign


def rows(case: str, faults: dict[str, list[int]]) -> list[dict[str, Any]]:
    """Page faults by policy and seed."""
    return [
        {"case": case, "limit": 64, "seed": seed, "policy": policy, "page_faults": count}
        for policy, counts in faults.items()
        for seed, count in enumerate(counts, 1)
    ]


def test_runs_with_a_seed_are_compared_by_it_and_those_of_linux_all_with_all() -> None:
    """So a Linux whose runs differ by more than the policies do shows no effect, however its runs are numbered."""
    counts = {"stock": [100, 200], "parents": [90, 180]}
    seeded, linux = (
        Figures(rows(case, counts)).effect((case, 64), "parents", "page_faults") for case in ("zipf", "linux")
    )
    assert seeded
    assert linux
    assert seeded.changes == pytest.approx((-0.1, -0.1))
    assert sorted(linux.changes) == pytest.approx([-0.55, -0.1, -0.1, 0.8])
    assert (seeded.sign, linux.sign) == (-1, 0)


FAULTS: Claim = next(claim for claim in CLAIMS if "still in use" in claim.says)


@pytest.mark.parametrize(
    ("parents", "verdict"),
    [
        ([80, 81], "confirmed"),
        ([99, 101], "no effect seen"),
        ([120, 121], "refuted"),
    ],
)
def test_a_verdict_is_what_the_figures_say(parents: list[int], verdict: str) -> None:
    """Of one guest; with another one that goes the other way it is conditional. The real Linux counts like any."""
    one = rows("zipf", {"stock": [100, 100], "parents": parents})
    assert FAULTS.verdict(Figures(one)) == verdict
    both = Figures([*one, *rows("linux", {"stock": [100, 100], "parents": [150, 150]})])
    assert FAULTS.verdict(both) == ("conditional" if verdict == "confirmed" else "refuted")
    if verdict == "confirmed":
        assert "the other way: linux 64" in FAULTS.shows(both)
    assert FAULTS.verdict(Figures([])) == "not measured"


def test_places_are_named_by_case() -> None:
    """With all of its limits, but without the one that is in its name."""
    places = [("zipf", 64), ("nested", 64), ("nested", 96), ("zipf-256", 256), *(("wide", at) for at in (64, 96, 128))]
    assert named(places) == "zipf 64, nested 64 and 96, zipf-256, wide 64, 96 and 128"


def test_a_walk_is_what_a_link_takes_longer() -> None:
    """330 instructions for each of 1,000 links are 3 % of 11 million, and as many mappings would take a third more."""
    timed = {"timed_links": 1000, "mappings": 3000}
    stock, parents = rows("zipf", {"stock": [100], "parents": [100]})
    stock |= {"timed_links": 500, "link_ns": 500 * 1000, "instructions": 12_000_000}
    parents |= timed | {"link_ns": 1000 * 1330, "instructions": 11_000_000}
    figures, place = Figures([stock, parents]), ("zipf", 64)
    walks, unthrottled = figures.walks(place), figures.unthrottled(place)
    assert figures.walk(place) == 330
    assert walks
    assert unthrottled
    assert walks.median == pytest.approx(0.03)
    assert unthrottled.median == pytest.approx(0.12)


def test_the_share_of_what_was_possible() -> None:
    """Half of the faults that knowing the future spares are half of it; more faults are less than nothing."""
    figures = Figures(rows("zipf", {"stock": [100], "parents": [80], "mapped": [110], "farthest next use": [60]}))
    assert figures.possible(("zipf", 64), "parents") == [0.5]
    assert figures.possible(("zipf", 64), "mapped") == [-0.25]
    assert figures.policies() == ["stock", "parents", "mapped"]


def test_what_is_there_of_nested_guests_that_have_ended() -> None:
    """When the next one's root comes: what the last one's does not lead to is of those before, whatever came again."""
    story = Story()
    story.alloc(1, level=4, gfn=100)
    story.alloc(2, level=3)
    story.link(1, 0, 2)
    story.alloc(3, level=4, gfn=200)
    story.zap(3, level=4)
    story.alloc(3, level=4, gfn=200)
    story.alloc(4)
    story.link(3, 0, 4)
    story.alloc(5)
    story.alloc(6, level=4, gfn=300)
    turns, tree, levels = Turns(), InReach(), {level: level for level in range(1, 5)}
    for event in story.events:
        turns.take(event, tree, levels)
        tree.take(event, levels)
    assert turns.ended == [Ended(held=2, stale=0, directories=0), Ended(held=5, stale=3, directories=2)]


def test_a_document_is_written_between_its_marks_only() -> None:
    """What stands around them stays."""
    begin, end = MARKS
    assert between(f"a\n{begin}\nold\nlines\n{end}\nb\n", "new \\1") == f"a\n{begin}\nnew \\1\n{end}\nb\n"


def test_documents_say_what_the_rows_say() -> None:
    """docs/experiment.md, and what README and docs/policies.md quote of it: all of it follows from the rows."""
    figures = Figures(read())
    assert PAGE.read_text() == page(figures)
    for name, text in quoted(figures).items():
        document = (ROOT / name).read_text()
        assert document == between(document, text)
        assert text in document
    assert (DOCS / "experiment-faults.svg").exists()
