# SPDX-License-Identifier: Apache-2.0
"""Each column by itself: what it counts, against figures added up here."""

from __future__ import annotations

import pytest

from shadowwatch.errors import ShadowwatchError
from shadowwatch.snapshot import Limited, VmSnapshot
from shadowwatch.view.columns import COLUMNS, DEFAULT, Row, Units, bar, choose, sparkline
from tests.unit.lively import at_the_end
from tests.unit.story import Story
from tests.unit.test_text import a_bit_of_everything


def vm(name: str) -> VmSnapshot:
    """One of the lively VMs at the end."""
    return next(vm for vm in at_the_end().vms if vm.name == name)


def test_what_a_vm_loses_is_reclaim_and_what_is_built_again() -> None:
    """Since the last look, at least and at most; without what was measured on this kernel, reclaim alone.

    What the highest limit would have again, too, may have another reason, and what is built again may stay empty.
    """
    vm = at_the_end().vms[0]

    def limited(*refaults: int) -> tuple[Limited, ...]:
        return tuple(Limited(times, count, 0) for times, count in zip((1.0, 1.5, 8.0), refaults, strict=True))

    now = vm._replace(reclaim_ns=(10**8, 2 * 10**8), limited=limited(1200, 600, 300))
    before = now._replace(reclaim_ns=(0, 10**8), limited=limited(200, 200, 200))
    assert Row(now, before, 10.0).loses() == pytest.approx((0.01, 0.01))
    assert Row(now, None, 10.0).loses() == pytest.approx((0.01, 0.02))
    assert Row(now, before, 10.0, table_seconds=0.0002).loses() == pytest.approx((0.028, 0.03))
    assert Row(now, before, 10.0, table_seconds=0.0002, fill_seconds=0.0001).loses() == pytest.approx((0.028, 0.04))
    assert Row(now, before, 0.0).loses() == (0.0, 0.0)
    restarted = before._replace(reclaim_ns=(10**9, 10**9), limited=limited(9000, 9000, 9000))
    assert Row(now, restarted, 10.0, table_seconds=0.0002).loses() == (0.0, 0.0)


def test_refaults_from_before_the_first_reclaim_are_not_of_now() -> None:
    """They are in the figures of every limit from the beginning."""
    vm = at_the_end().vms[0]._replace(refaults={1: 900}, limited=())
    now = vm._replace(refaults={1: 1000}, limited=(Limited(1.0, 1000, 0), Limited(1.5, 920, 20)))
    assert Row(now, vm, 10.0).limited() == {1.0: 100, 1.5: 30}
    assert Row(now, None, 10.0).limited() == {1.0: 1000, 1.5: 930}
    assert Row(vm, None, 10.0).limited() == Row(now, vm, 0.0).limited() == {}


def test_a_counter_is_shown_in_each_unit() -> None:
    """Per second, since the look before, in all; what came with a VM that was not there came since."""
    now = vm("web1")
    before = next(vm for vm in a_bit_of_everything().snapshot().vms if vm.name == "web1")
    allocated = COLUMNS["allocated"]
    new, old = sum(now.allocations.values()), sum(before.allocations.values())
    row = Row(now, before, 2.0)
    assert allocated.value(row) == (new - old) / 2
    assert allocated.text(row, Units.RATE) == f"{(new - old) / 2:,.0f}"
    assert allocated.text(row, Units.CHANGE) == f"{new - old:,}"
    assert allocated.text(row, Units.TOTAL) == f"{new:,}"
    assert allocated.value(Row(now, None, 2.0)) == new / 2
    assert allocated.value(Row(now, None, 0.0)) == 0


def test_a_pid_is_a_name_and_no_number() -> None:
    """It is there to be copied: no comma in it."""
    web1 = next(vm for vm in a_bit_of_everything().snapshot().vms if vm.pid == 4711)
    assert COLUMNS["pid"].text(Row(web1, None, 1.0), Units.RATE) == "4711"


def test_small_rates_keep_a_decimal() -> None:
    """0.4 a second is not none."""
    story = Story()
    story.alloc(1)
    assert COLUMNS["allocated"].text(Row(vm("idle3"), None, 2.5), Units.RATE) == "0.4"


def test_the_share_is_of_reclaimed_directories() -> None:
    """All of them in the lively VM; none when none was reclaimed."""
    row = Row(vm("web1"), None, 1.0)
    assert COLUMNS["share"].value(row) == 1.0
    assert COLUMNS["share"].text(row, Units.RATE) == "100%"
    assert COLUMNS["share"].text(Row(vm("db1"), None, 1.0), Units.RATE) == "–"


def test_causes_are_those_since_the_look_before() -> None:
    """The most frequent first, and nothing at the first look."""
    now = vm("web1")
    assert COLUMNS["causes"].text(Row(now, None, 2.0), Units.RATE) == "quota:2,128"
    assert COLUMNS["causes"].text(Row(now, now, 2.0), Units.RATE) == ""
    assert COLUMNS["causes"].text(Row(now, None, 0.0), Units.RATE) == ""


@pytest.mark.parametrize(
    ("name", "tdp", "state"),
    [("web1", False, "exact"), ("gone", False, "ended"), ("lossy", False, "resyncing"), ("lossy", True, "resyncing")],
)
def test_the_state_is_one_word(name: str, tdp: bool, state: str) -> None:
    """Exact, resyncing or ended, whatever the host's MMU."""
    now = next(vm for vm in a_bit_of_everything().snapshot().vms if vm.name == name)
    assert COLUMNS["state"].value(Row(now, None, 1.0, tdp)) == state


def test_a_bar_is_full_at_the_limit_and_not_longer() -> None:
    """And empty without any."""
    assert (bar(0, 4), bar(0.5, 4), bar(1, 4), bar(7, 4)) == ("····", "██··", "████", "████")


def test_a_sparkline_shows_the_last_values_against_the_largest() -> None:
    """The newest stands right; no value is no tick; all 0 is flat."""
    assert sparkline([9, 0, 4, 8], 3) == "▁▄█"
    assert sparkline([5], 3) == "  █"
    assert sparkline([0, 0], 2) == "▁▁"


def test_columns_are_chosen_by_key_and_a_wrong_one_names_the_nearest() -> None:
    """In the order asked for; what is nothing like one gets all of them."""
    assert [column.key for column in choose(["pages", "name"])] == ["pages", "name"]
    assert len(choose(DEFAULT)) == len(DEFAULT)
    with pytest.raises(ShadowwatchError, match="there is no column refalts; did you mean refaults"):
        choose(["refalts"])
    with pytest.raises(ShadowwatchError, match="there is no column xyzzy; choose from name, pid"):
        choose(["xyzzy"])
    with pytest.raises(ShadowwatchError, match="no column is left"):
        choose([])


def test_every_column_says_what_it_means() -> None:
    """Keys are what they are declared under, and help is there."""
    for key, column in COLUMNS.items():
        assert column.key == key
        assert column.help
        assert column.heading
