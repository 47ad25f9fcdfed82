# SPDX-License-Identifier: Apache-2.0
"""The limit that is advised, against what the figures say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shadowwatch.snapshot import Limited, VmSnapshot
from shadowwatch.view.advice import PAGE_BYTES, Advice, advice
from shadowwatch.view.columns import Row
from tests.unit.lively import at_the_end

VM = at_the_end().vms[0]._replace(limit=100)


def row(refaults: int, limited: tuple[Limited, ...], before: VmSnapshot | None = None) -> Row:
    """A VM after ten seconds, of which so many refaults came within its limit and as many as these under others."""
    limited = (Limited(1.0, refaults, 0), *limited) if limited else ()
    return Row(VM._replace(refaults={1: refaults}, limited=limited), before, 10.0)


def test_it_is_the_lowest_that_spares_nine_of_ten() -> None:
    """With the memory that it takes more, and QEMU's option in bytes of sptes."""
    advised = advice(row(1000, (Limited(1.5, 600, 0), Limited(2.0, 80, 30), Limited(3.0, 0, 0))))
    assert advised == Advice(200, 0.905, 100 * PAGE_BYTES)
    assert advised.enough
    assert advised.option == "-machine kvm-shadow-mem=819200"


def test_when_none_is_enough_it_is_the_highest() -> None:
    """Which is said not to be."""
    advised = advice(row(1000, (Limited(1.5, 900, 0), Limited(8.0, 700, 0))))
    assert advised
    assert (advised.limit, advised.enough) == (800, False)
    assert advised.spares == pytest.approx(0.3)


def test_it_is_of_the_time_since_the_last_look() -> None:
    """What a VM did hours ago is no reason to advise anything now."""
    before = VM._replace(refaults={1: 1000}, limited=tuple(Limited(times, 1000, 0) for times in (1.0, 1.5, 2.0)))
    advised = advice(row(1100, (Limited(1.5, 1100, 0), Limited(2.0, 1004, 0)), before))
    assert advised
    assert advised.limit == 200
    assert advised.spares == pytest.approx(0.96)
    assert advice(row(1000, (Limited(1.5, 0, 0),), before)) is None


def test_no_limit_is_advised_that_is_not_higher() -> None:
    """Three times nothing is nothing."""
    unlimited = row(1000, (Limited(2.0, 0, 0), Limited(3.0, 0, 0)))
    assert advice(replace(unlimited, vm=unlimited.vm._replace(limit=0))) is None


def test_without_refaults_or_a_curve_nothing_is_advised() -> None:
    """Nor at the first look."""
    limited = (Limited(1.5, 0, 0),)
    assert advice(row(0, limited)) is None
    assert advice(row(1000, ())) is None
    assert advice(replace(row(1000, limited), seconds=0.0)) is None
