# SPDX-License-Identifier: Apache-2.0
"""Measurements that are kept, so that `make limits` goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.kept import Kept


@dataclass(frozen=True)
class Row:
    """What comes of a measurement."""

    guest: str
    share: float


def never() -> Iterator[Row]:
    """What is kept is not measured again."""
    raise AssertionError("measured again")


ROWS = [Row("zipf", 0.5), Row("zipf", 0.25)]


def test_what_was_measured_comes_back_as_it_was(tmp_path: Path) -> None:
    """In another process, too, and for what was measured alone."""
    path = tmp_path / "new/limits.jsonl"
    assert Kept(path, ["a source"]).or_done("zipf 1", Row, lambda: ROWS) == ROWS
    kept = Kept(path, ["a source"])
    assert kept.or_done("zipf 1", Row, never) == ROWS
    assert kept.or_done("zipf 2", Row, lambda: ROWS[:1]) == ROWS[:1]


def test_what_other_sources_came_to_is_measured_again(tmp_path: Path) -> None:
    """A daemon that has changed may say something else."""
    path = tmp_path / "limits.jsonl"
    Kept(path, ["a source"]).or_done("zipf 1", Row, lambda: ROWS)
    assert Kept(path, ["another"]).or_done("zipf 1", Row, lambda: ROWS[1:]) == ROWS[1:]
    assert Kept(path, ["a source"]).or_done("zipf 1", Row, never) == ROWS


def test_what_was_stopped_half_way_is_not_kept(tmp_path: Path) -> None:
    """Neither a measurement that failed, nor a line of the file that was cut off."""
    path = tmp_path / "limits.jsonl"
    with pytest.raises(AssertionError, match="measured again"):
        Kept(path, []).or_done("zipf 1", Row, never)
    Kept(path, []).or_done("zipf 2", Row, lambda: ROWS)
    path.write_text(path.read_text()[:-10])
    assert Kept(path, []).or_done("zipf 2", Row, lambda: ROWS) == ROWS
    assert Kept(path, []).or_done("zipf 2", Row, never) == ROWS
