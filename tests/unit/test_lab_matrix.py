# SPDX-License-Identifier: Apache-2.0
"""Rows of the matrix that are kept, so that it goes on where it was stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.lab.matrix import Cell, Kept, Row, cells, missing, page

CELL = Cell("6.1", "stock", "shadow", processors=2)
ROW = Row(
    cell=CELL,
    release="6.1.0-56-amd64",
    workload="zipf-shadow",
    events=12,
    counters=((4, 4), (3, 3), (3, 3)),
    audits=2,
    compared=8,
    differing=0,
    causes={"quota": 3},
    resyncs=0,
    lost=0,
    exact=True,
)


def test_a_row_comes_back_as_it_was(tmp_path: Path) -> None:
    """For its own cell and kernel alone."""
    Kept(tmp_path / "new/matrix.jsonl").add(CELL, ROW.release, [ROW])
    kept = Kept(tmp_path / "new/matrix.jsonl")
    assert kept.of(CELL, "6.1.0-56-amd64") == [ROW]
    assert kept.of(CELL, "6.1.0-57-amd64") == []
    assert kept.of(replace(CELL, processors=1), "6.1.0-56-amd64") == []


def test_rows_of_other_sources_are_left_out(tmp_path: Path) -> None:
    """What the daemon was then is not what it is now."""
    path = tmp_path / "matrix.jsonl"
    Kept(path).add(CELL, ROW.release, [ROW])
    path.write_text(path.read_text().replace('"key": "', '"key": "another-'))
    assert Kept(path).of(CELL, "6.1.0-56-amd64") == []


def test_rows_of_other_machines_are_on_the_page(tmp_path: Path) -> None:
    """Those of Intel's processors come from another lab."""
    intel = replace(ROW, cell=replace(CELL, maker="Intel"))
    for row in (ROW, intel):
        Kept(tmp_path / "matrix.jsonl").add(row.cell, row.release, [row])
    besides = Kept(tmp_path / "matrix.jsonl").besides(list(cells(["6.1"], (1, 2))))
    assert besides == [intel]
    assert "| 6.1.0-56-amd64 | 2 Intel | stock | shadow | zipf-shadow | 12 |" in page(besides, [])


def test_what_did_not_run_is_named() -> None:
    """A cell without a row, and one in which the real Linux has none; nothing of what never has one."""
    nested = replace(CELL, mode="nested")
    assert missing([ROW], [CELL, nested]) == (
        "Not in it, since it did not run to an end: 6.1 stock shadow on 2 AMD (a real Linux),"
        " 6.1 stock nested on 2 AMD.\n\n"
    )
    assert missing([ROW, replace(ROW, workload="linux"), replace(ROW, cell=nested)], [CELL, nested]) == ""


def test_a_row_with_a_difference_is_wrong() -> None:
    """Or one whose counts are not the kernel's, or that lost an event."""
    assert ROW.right
    for wrong in (
        {"differing": 1},
        {"lost": 1},
        {"counters": ((4, 5), (3, 3), (3, 3))},
        {"audits": 0},
        {"exact": False},
    ):
        assert not replace(ROW, **wrong).right


def test_only_debians_kvm_may_count_too_few_reclaimed_pages() -> None:
    """With nested guests, whose pages go with their parents; a patched KVM counts these."""
    counters = ((4, 4), (3, 3), (3, 2))
    nested = replace(ROW, cell=replace(CELL, mode="nested"), counters=counters)
    assert nested.right
    assert not replace(nested, counters=((4, 4), (3, 3), (2, 3))).right
    assert not replace(nested, cell=replace(nested.cell, kvm="patched")).right
    assert not replace(ROW, counters=counters).right
