# SPDX-License-Identifier: Apache-2.0
"""One row for each run, of all that was kept of it, and one for each reference beside it."""

from __future__ import annotations

from collections.abc import Iterator

from shadowwatch.simulate.policies import POLICIES
from tests.experiment.cases import CASES, Case
from tests.experiment.kept import Kept
from tests.experiment.reference import ORDERS, simulated
from tests.experiment.runs import COUNTING, RECORDING, Block, Row, blocks


def joined(kept: Kept) -> list[Row]:
    """The rows of all blocks that are done; those of references only where the kernel ran the same."""
    rows: list[Row] = []
    for case in CASES.values():
        by_run: dict[tuple[int, int, str], Row] = {}
        for block in blocks(case, (*COUNTING, *RECORDING)):
            for row in kept.of(block) or ():
                by_run.setdefault((row["limit"], row["seed"], row["policy"]), {}).update(row)
        # The reference has one guest of a guest.
        for seed in sorted({seed for _, seed, _ in by_run} if case.workloads and not case.in_turn else ()):
            for row in _references(kept, Block(case, "reference", seed)):
                of_run = by_run.setdefault((row["limit"], seed, row["policy"]), row)
                of_run.update({"reference_faults": row["page_faults"], "reference_zaps": row["zaps"]})
        rows += (by_run[key] for key in sorted(by_run, key=_in_order))
    return rows


def _in_order(run: tuple[int, int, str]) -> tuple[int, int, int]:
    """By limit, by policy with stock order first and the references last, and by seed."""
    limit, seed, policy = run
    return limit, list(dict.fromkeys((*POLICIES, *ORDERS))).index(policy), seed


def _references(kept: Kept, block: Block) -> list[Row]:
    rows = kept.of(block)
    if rows is None:
        rows = list(references(block.case, block.seed))
        kept.add(block, rows)
    return rows


def references(case: Case, seed: int) -> Iterator[Row]:
    """What a seed of a case comes to with each order of the reference."""
    for limit in case.limits:
        for order in ORDERS:
            guests = [simulated(vm, order) for vm in case.vms(limit, seed, order)]
            yield {
                "case": case.name,
                "limit": limit,
                "seed": seed,
                "policy": order,
                "page_faults": sum(guest.faults for guest in guests),
                "allocations": sum(guest.allocations for guest in guests),
                "zaps": sum(guest.zaps for guest in guests),
            }
