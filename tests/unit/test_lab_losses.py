# SPDX-License-Identifier: Apache-2.0
"""What `make limits` writes of the time that guests lose."""

from __future__ import annotations

from tests.lab.losses import Loss, document

LOSSES = [
    Loss("zipf", 1, took=450.0, least=380.0, most=440.0, saved=480.0, bare=430.0),
    Loss("zipf", 2, took=460.0, least=390.0, most=450.0, saved=441.0, bare=420.0),
]


def test_a_row_has_both_bounds_and_how_far_their_middle_is_from_what_was_saved() -> None:
    """In milliseconds, and as a part of what was saved."""
    assert LOSSES[0].line() == "| zipf | 1 | 450 | 410 (380–440) | 430 | -5% | 480 | -15% |"


def test_the_page_sums_up_how_far_it_was_off() -> None:
    """In the median and at the worst, and how often the truth was within the bounds."""
    text = document(LOSSES, 20_000)
    assert "| no daemon | 2% | 5% | 2 of 2 |" in text
    assert "| beside a daemon | 10% | 15% | 1 of 2 |" in text
    assert all(len(line) <= 120 for line in text.splitlines() if not line.startswith("|"))
