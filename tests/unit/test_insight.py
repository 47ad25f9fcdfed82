# SPDX-License-Identifier: Apache-2.0
"""The sentence that says which VM thrashes, whether the order of reclaim is to blame, and what would help."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from shadowwatch.event.facts import PAGING
from shadowwatch.snapshot import Cause, Estimate, Limited
from shadowwatch.source import Status
from shadowwatch.view import insight as insight_module
from shadowwatch.view.columns import Row
from shadowwatch.view.insight import insight
from tests.golden import matches
from tests.kernel.test_sentences import NAMES
from tests.unit import sentences
from tests.unit.lively import at_the_end
from tests.unit.story import FACTS

STOCK = Status(FACTS, "", None, None)
PATCHED = Status(FACTS, "stock", None, None)
PARENTS = Status(FACTS, "parents", None, None)


def rows(seconds: float = 10.0, **changed: object) -> Sequence[Row]:
    """The lively VMs, of which the first one has these fields otherwise; of higher limits nothing is known."""
    first, *others = at_the_end().vms
    changed = {"limited": ()} | changed
    return [Row(first._replace(**changed), None, seconds), *(Row(vm, None, seconds) for vm in others)]  # type: ignore[arg-type]


def test_the_order_of_reclaim_is_blamed_with_its_cure() -> None:
    """The VM, its rate, the share, and what would keep the directories on this very kernel."""
    said = insight(rows(), STOCK)
    keeps = (
        "reclaim_policy accessed would keep directories (tables that point to tables) that are in use: 100% of those"
    )
    assert said == (
        "web1 thrashes: KVM reclaims 426 shadow pages/s at its limit of 64. A higher limit may help. A KVM with"
        f" {keeps} reclaimed had just gained a child, which went with them."
    )
    assert f" limit of 64. {keeps} reclaimed had" in insight(rows(), PATCHED)
    assert (
        " A higher limit would help: reclaim_policy parents keeps what it can already, and still 100% of the reclaimed"
    ) in insight(rows(), PARENTS)


def estimated(recorded: int, by_parents: float) -> Mapping[str, Estimate]:
    """So many page faults, and as many as they are estimated to be with parents moved up, half of these for sure."""
    sure = int(by_parents / 2)
    # Of what does not keep directories, or has another limit, it says nothing.
    others = dict.fromkeys(("leaf-first", "accessed@2x"), Estimate(0, 0, 0, recorded, 0, recorded, 0, 0, 0))
    return {"parents": Estimate(sure, 0, 0, recorded, by_parents - sure, recorded, 0, 0, 0), **others}


def test_an_estimate_says_what_it_would_save() -> None:
    """Instead of what the policy would keep; on a kernel that moves parents up nothing is left to save."""
    spared = rows(what_if=estimated(1000, 787.4))
    saves = "reclaim_policy parents would save about 21% of its page faults: 100% of the reclaimed directories"
    assert f" limit of 64. {saves}" in insight(spared, PATCHED)
    assert f" limit of 64. A KVM with {saves}" in insight(spared, STOCK)
    assert insight(spared, PARENTS) == insight(rows(), PARENTS)


def test_the_best_of_those_that_are_estimated_is_named() -> None:
    """And where two are alike, the one that does best where no estimate knows of it."""
    by = {name: estimated(1000, faults)["parents"] for name, faults in (("parents", 800), ("childless", 700))}
    assert "reclaim_policy childless would save about 30% of its page faults:" in insight(rows(what_if=by), PATCHED)
    alike = by | {"accessed": by["childless"]}
    assert "reclaim_policy accessed would save about 30%" in insight(rows(what_if=alike), PATCHED)


@pytest.mark.parametrize("by_parents", [996.4, 1000, 1300])
def test_an_estimate_of_nothing_says_what_it_needs_instead(by_parents: float) -> None:
    """Of less than half a percent, of none, or more faults than there were."""
    said = insight(rows(what_if=estimated(1000, by_parents)), PATCHED)
    assert (
        " The VM needs a higher limit: reclaim_policy parents would save no page faults, although 100% of the reclaimed"
    ) in said


def test_an_estimate_is_of_the_time_since_the_last_look() -> None:
    """Also after a daemon that estimated nothing; of no faults, or of counters that started over, nothing is said."""
    (row, *_) = rows(what_if=estimated(2000, 1000))

    def since(what_if: Mapping[str, Estimate]) -> str:
        before = row.vm._replace(zaps={}, recently_parented_zaps={}, what_if=what_if)
        return insight([replace(row, before=before)], PATCHED)

    assert "would save about 10% of its page faults:" in since(estimated(1000, 100))
    assert "would save about 50% of its page faults:" in since({})
    assert "reclaim_policy accessed would keep" in since(estimated(2000, 1000))
    assert "reclaim_policy accessed would keep" in since(estimated(9000, 7000))


def test_thrashing_without_recently_parented_directories_is_not_blamed_on_the_order() -> None:
    """In stock order and with parents moved up."""
    for status in (STOCK, PARENTS):
        said = insight(rows(recently_parented_zaps={}), status)
        assert said.startswith("web1 thrashes")
        assert said.endswith(
            " The VM needs a higher limit. The order of reclaim is not to blame: none of the reclaimed directories"
            " (tables that point to tables) had just gained a child."
        )


def test_what_it_takes_is_said_with_bounds() -> None:
    """Of reclaim alone until a fault was measured on this kernel; nothing where it is next to nothing."""
    (row, *_) = rows(reclaim_ns=(3 * 10**8, 5 * 10**8), limited=(Limited(1.0, 3000, 0), Limited(8.0, 0, 0)))
    assert " limit of 64, and reclaim alone takes 4% of a processor (3% to 5%). " in insight([row], STOCK)
    measured = replace(row, table_seconds=0.0001)
    assert " limit of 64, which takes 7% of a processor (6% to 8%). " in insight([measured], STOCK)
    assert "of a processor" not in insight(rows(reclaim_ns=(10**6, 2 * 10**6)), STOCK)


SPARING = (Limited(1.0, 1000, 0), Limited(1.5, 600, 0), Limited(2.0, 300, 40), Limited(3.0, 40, 20), Limited(4.0, 0, 0))


def test_a_limit_that_would_end_it_is_named_with_its_memory() -> None:
    """Before the reason: it is what an operator can do; then nothing vague is said of a higher limit."""
    refaults: Mapping[str, Any] = {"refaults": {1: 1000}, "limited": SPARING}
    limit = " at its limit of 64. A limit of 192 would spare 95% of its refaults, for 1.0 MiB."
    for status, cure in (
        (STOCK, "A KVM with reclaim_policy accessed would keep"),
        (PARENTS, "reclaim_policy parents keeps what it can already"),
        (PATCHED, "reclaim_policy accessed would keep"),
    ):
        assert f"{limit} {cure}" in insight(rows(**refaults), status)
    not_blamed = insight(rows(**refaults, recently_parented_zaps={}), STOCK)
    assert f"{limit} The order of reclaim is not to blame: none of the reclaimed" in not_blamed
    said = insight(rows(**refaults, what_if=estimated(1000, 1300)), PATCHED)
    assert f"{limit} reclaim_policy parents would save no page faults" in said


def test_a_limit_that_spares_little_is_not_praised() -> None:
    """A guest that goes round through more than that gains nothing."""
    limited = (Limited(1.0, 1000, 0), Limited(1.5, 1000, 0), Limited(8.0, 970, 0))
    said = insight(rows(refaults={1: 1000}, limited=limited), STOCK)
    assert " limit of 64. Even a limit of 512 would spare only 3% of its refaults. A KVM with" in said


def test_little_reclaim_is_no_thrashing() -> None:
    """A VM may go on for long at its limit."""
    assert insight(rows(zaps={(1, Cause.QUOTA): 20}), STOCK) == (
        "web1: KVM reclaims 2 shadow pages/s, few for its limit of 64; it does not thrash."
    )
    assert insight(rows(zaps={(1, Cause.QUOTA): 10}), STOCK).startswith("web1: KVM reclaims 1 shadow page/s, few ")
    assert insight(rows(zaps={(1, Cause.TEARDOWN): 2000}), STOCK) == "KVM reclaims no shadow pages now."


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (Cause.GUEST_WRITE, "its guest writes to its page tables; no limit helps. Nested paging would end that"),
        (Cause.UNPROTECT, "its guest writes to its page tables; no limit helps. Nested paging would end that"),
        (Cause.MEMSLOT, "its memory slots change, or all pages are to go; no limit helps. Look for what does that"),
        (Cause.ZAP_ALL, "its memory slots change, or all pages are to go; no limit helps. Look for what does that"),
        (
            Cause.NX_RECOVERY,
            "they were split for nx_huge_pages and are to be huge again; no limit helps. See kvm's",
        ),
        (Cause.PARENT_CAP, "a page has 1,000 parents and gets one more; no limit helps. Nested paging would end that"),
    ],
)
def test_what_else_takes_pages_away_has_its_sentence_and_cure(cause: Cause, said: str) -> None:
    """When it takes as many as the VM may have within ten seconds, and nothing thrashes by reclaim; else nothing."""
    assert insight(rows(zaps={(1, cause): 2000}), STOCK).startswith(f"web1: KVM zaps 200 shadow pages/s because {said}")
    assert insight(rows(zaps={(1, cause): 60}), STOCK) == "KVM reclaims no shadow pages now."
    assert insight(rows(zaps={(1, cause): 2000, (1, Cause.QUOTA): 2000}), STOCK).startswith("web1 thrashes")


def test_no_rate_is_judged_before_it_is_known() -> None:
    """At the first look nothing is said of a VM that may well thrash, nor that none does."""
    assert insight(rows(seconds=0.0), STOCK) == "Measuring: rates come with the next update."
    assert insight(rows(seconds=0.0, newest_first=True), STOCK).startswith("web1: reclaim takes the newest pages")


def test_few_recently_parented_directories_are_counted() -> None:
    """Below the share from which on the order is to blame, they are not said to be none."""
    said = insight(rows(zaps={(1, Cause.QUOTA): 4000, (2, Cause.QUOTA): 400}, recently_parented_zaps={2: 40}), STOCK)
    assert said == (
        "web1 thrashes: KVM reclaims 440 shadow pages/s at its limit of 64. The VM needs a higher limit. The order of"
        " reclaim is not to blame: only 40 of the 400 reclaimed directories (tables that point to tables) had just"
        " gained a child."
    )


def busy(name: str, limit: int, reclaimed: int, recent: int = 0) -> Row:
    """A VM that reclaims so many directories in ten seconds, so many of them recently parented."""
    (vm, *_) = at_the_end().vms
    zaps, parented = {(2, Cause.QUOTA): reclaimed}, {2: recent} if recent else {}
    vm = vm._replace(name=name, limit=limit, zaps=zaps, recently_parented_zaps=parented, limited=())  # type: ignore[arg-type]
    return Row(vm, None, 10.0)


def test_a_vm_that_thrashes_is_not_hidden_by_one_that_reclaims_more() -> None:
    """The worst is looked for among those that thrash: by recently parented zaps, then by turnover."""
    large, small = busy("large", limit=100_000, reclaimed=20_000), busy("small", limit=64, reclaimed=640)
    assert insight([large, small], STOCK).startswith("small thrashes: KVM reclaims 64 shadow pages/s")
    parented = busy("parented", limit=64, reclaimed=100, recent=90)
    assert insight([large, small, parented], STOCK).startswith("parented thrashes: KVM reclaims 10 shadow pages/s")
    slower = busy("slower", limit=640, reclaimed=1_000)
    assert insight([slower, small], STOCK).startswith("small thrashes")
    rare = busy("rare", limit=64, reclaimed=20, recent=20)
    assert insight([small, rare], STOCK).startswith("small thrashes")
    assert insight([large], STOCK) == (
        "large: KVM reclaims 2,000 shadow pages/s, few for its limit of 100,000; it does not thrash."
    )


def test_reclaim_of_the_newest_is_named() -> None:
    """Before anything else, with the cure for either kernel that does it: Linux 5.9 to 5.11.1, and the patched one."""
    said = insight(rows(newest_first=True), STOCK)
    assert "reclaim takes the newest pages" in said
    assert said.endswith("; set reclaim_policy to stock, or boot another kernel where there is none.")


@pytest.mark.parametrize("paging", ["tdp_mmu", "tdp_mmu_nested"])
def test_a_host_with_the_tdp_mmu_is_told_so(paging: str) -> None:
    """Unless a nested guest has shadow pages, which are then what matters."""
    status = replace(STOCK, facts=replace(FACTS, paging=paging))
    empty = [Row(row.vm._replace(pages={}, zaps={}), None, 1.0) for row in rows()]
    assert insight(empty, status) == f"{PAGING[paging]}."
    assert "thrashes" in insight(rows(), status)


def test_no_vm_is_said_in_words() -> None:
    """Ended ones are none."""
    assert insight([], STOCK) == "No VM is running."
    assert insight([Row(row.vm._replace(ended=True), None, 1.0) for row in rows()], STOCK) == "No VM is running."


def test_each_sentence_is_in_the_golden_file() -> None:
    """By a name, with which a test in the lab looks for it."""
    matches(sentences.GOLDEN, sentences.text())
    assert sentences.golden() == sentences.made()
    assert len(set(sentences.made().values())) == len(sentences.made())


def test_each_sentence_has_a_guest_in_the_lab() -> None:
    """By which a test there has `top` say it: one that is new needs one, too."""
    assert set(NAMES) == sentences.made().keys()


def test_no_sentence_is_forgotten() -> None:
    """Each text in the code, between what is put in, is in the golden file."""
    tree = ast.parse(inspect.getsource(insight_module))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    golden = " ".join(sentences.golden().values())
    texts = [
        node.value.strip()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
    ]
    said = [text for text in texts if " " in text]
    assert len(said) > 40
    assert [text for text in said if text not in golden] == []
