# SPDX-License-Identifier: Apache-2.0
"""What `top` can say first, each sentence by a name: of VMs that are made up, and masked, to look for it in the lab."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace

from shadowwatch.snapshot import Cause, Estimate, Limited
from shadowwatch.source import Status
from shadowwatch.view.columns import Row
from shadowwatch.view.insight import insight
from tests.golden import HERE
from tests.unit.lively import at_the_end
from tests.unit.story import FACTS

GOLDEN = "sentences.txt"
STOCK = Status(FACTS, "", None, None)
PATCHED = Status(FACTS, "stock", None, None)
PARENTS = Status(FACTS, "parents", None, None)
SECONDS = 10.0


def rows(**changed: object) -> Sequence[Row]:
    """One VM for ten seconds, with these fields otherwise; of higher limits nothing is known."""
    vm = at_the_end().vms[0]._replace(limited=(), reclaim_ns=(0, 0))
    return [Row(vm._replace(**changed), None, SECONDS)]  # type: ignore[arg-type]


def curve(*refaults: int) -> tuple[Limited, ...]:
    """So many refaults, and so many of them under one and a half times the limit and eight times."""
    return tuple(Limited(times, count, 0) for times, count in zip((1.0, 1.5, 8.0), refaults, strict=True))


def zapped(cause: Cause) -> Sequence[Row]:
    """A VM of which 200 pages a second are zapped for this cause."""
    return rows(zaps={(1, cause): 2000})


def estimated(faults: int) -> Mapping[str, Estimate]:
    """Of 1,000 page faults so many are left with parents moved up."""
    return {"parents": Estimate(faults, 0, 0, 0, 0, 1000, 0, 0, 0)}


def looks() -> Mapping[str, tuple[Sequence[Row], Status]]:
    """What leads to all that it says, by name."""
    (row,) = rows()
    blamed = {"zaps": {(1, Cause.QUOTA): 3000, (2, Cause.QUOTA): 1000}, "recently_parented_zaps": {2: 900}}
    not_blamed = {**blamed, "recently_parented_zaps": {}}
    spares, spares_little = {"limited": curve(1000, 50, 0)}, {"limited": curve(1000, 990, 950)}
    takes = {"reclaim_ns": (3 * 10**8, 5 * 10**8), "limited": curve(3000, 60, 0)}
    tdp: Mapping[str, Mapping[int, int]] = {"pages": {}, "zaps": {}}
    measured = [replace(each, table_seconds=1e-4, fill_seconds=1e-5) for each in rows(**blamed, **takes)]

    def on(paging: str) -> Status:
        return replace(STOCK, facts=replace(FACTS, paging=paging))

    return {
        "tdp": (rows(**tdp), on("tdp_mmu")),
        "tdp-nested": (rows(**tdp), on("tdp_mmu_nested")),
        "no-vm": ([], STOCK),
        "first-look": ([replace(row, seconds=0.0)], STOCK),
        "newest-first": (rows(newest_first=True), PATCHED),
        "nothing-wrong": (rows(zaps={}), STOCK),
        "few": (rows(zaps={(1, Cause.QUOTA): 20}), STOCK),
        "guest-writes": (zapped(Cause.GUEST_WRITE), STOCK),
        "memory-slots": (zapped(Cause.MEMSLOT), STOCK),
        "nx-recovery": (zapped(Cause.NX_RECOVERY), STOCK),
        "parent-cap": (zapped(Cause.PARENT_CAP), STOCK),
        "order-stock": (rows(**blamed, **spares), STOCK),
        "order-stock-no-curve": (rows(**blamed), STOCK),
        "order-patched": (rows(**blamed, **spares), PATCHED),
        "order-switched": (rows(**blamed, **spares), PARENTS),
        "order-switched-no-curve": (rows(**blamed), PARENTS),
        "order-saves": (rows(**blamed, **spares, what_if=estimated(790)), PATCHED),
        "order-saves-nothing": (rows(**blamed, **spares, what_if=estimated(1000)), PATCHED),
        "order-saves-nothing-no-curve": (rows(**blamed, what_if=estimated(1000)), PATCHED),
        "limit": (rows(**not_blamed, **spares), PARENTS),
        "limit-few-recent": (rows(**{**blamed, "recently_parented_zaps": {2: 40}}, **spares), STOCK),
        "limit-no-curve": (rows(**not_blamed), STOCK),
        "limit-spares-little": (rows(**not_blamed, **spares_little), PARENTS),
        "time-of-reclaim": (rows(**blamed, **takes), STOCK),
        "time-of-all": (measured, STOCK),
    }


def made() -> Mapping[str, str]:
    """All that it says, by name."""
    return {name: insight(seen, status) for name, (seen, status) in looks().items()}


def text() -> str:
    """As the golden file has them: a name, then the sentence, indented."""
    return "".join(f"{name}\n{textwrap.indent(textwrap.fill(said, 116), '  ')}\n" for name, said in made().items())


def golden() -> Mapping[str, str]:
    """What the golden file has."""
    parts = re.findall(r"^(\S+)\n((?:  .*\n)+)", (HERE / GOLDEN).read_text(), re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in parts}


def masked(said: str) -> str:
    """A sentence without its numbers, and without the time that reclaim takes, which may be too little to be said."""
    plain = re.sub(r", (?:which|and reclaim alone) takes \d+% of a processor(?: \(.*?\))?", "", said)
    return re.sub(r"\d[\d,.]*\d|\d", "N", plain)
