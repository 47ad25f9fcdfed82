# SPDX-License-Identifier: Apache-2.0
"""What the events of one run cannot be read without; it travels with them into captures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

#: The process of a VM, and the name that it gave it.
Name = tuple[int, str]

#: Which MMU a host's guests use -> what that means here.
PAGING: Mapping[str, str] = {
    "shadow": "shadow paging: every guest's page tables are shadowed",
    "nested": "nested paging without the TDP MMU: all of its pages are on active_mmu_pages",
    "tdp_mmu": "TDP MMU in use: nothing to watch",
    "tdp_mmu_nested": "TDP MMU in use: nothing to watch but nested guests",
    "unknown": "unknown: neither kvm_amd nor kvm_intel is loaded",
}


#: union kvm_mmu_page_role is a word.
_ROLE_BITS = 32

#: Longer ago nothing is recent.
_MOST_SECONDS = 1e9


def printable(text: str) -> str:
    """The text as it may be sent to a terminal: it comes from a command line or a file, and those from anywhere."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _bits(place: Sequence[Any]) -> tuple[int, int]:
    """Where a field of the role is; ValueError when that is outside of the word."""
    bit, width = map(int, place)
    if bit < 0 or width < 1 or bit + width > _ROLE_BITS:
        raise ValueError(place)
    return bit, width


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return printable(value)


@dataclass(frozen=True, slots=True)
class Facts:
    """The host that the events come from.

    `host` is its name, `kernel` its release, `policy` KVM's reclaim policy when the events began
    ("" with a stock KVM), `paging` the key in PAGING of the MMU that its guests use; `probes` maps
    each probe point to the kernel symbol or tracepoint that serves it, `role` maps the fields
    of union kvm_mmu_page_role to (first bit, width), `functions` tells where those who zap are
    in the kernel's text, as (name, first address, address behind), lower halves, and
    `recent_seconds` is the threshold asked for: None is one list-length of allocations. `midway` events
    begin in the middle of VMs' numbers, and those before are not missing. `table_seconds` is what a page fault takes
    for each page table that it builds, as measured last by `shadowwatch cost`, None if it was not, and `fill_seconds`
    what other faults took for each.
    """

    host: str
    kernel: str
    policy: str
    probes: Mapping[str, str]
    role: Mapping[str, tuple[int, int]]
    functions: tuple[tuple[str, int, int], ...] = ()
    paging: str = "unknown"
    recent_seconds: float | None = None
    midway: bool = False
    table_seconds: float | None = None
    fill_seconds: float = 0.0

    def to_json(self) -> str:
        """Write the facts as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote, fit for a terminal.

        Something else is a ValueError, KeyError, TypeError, AttributeError, OverflowError or RecursionError.
        """
        values = json.loads(text)
        role = {printable(str(name)): _bits(place) for name, place in values["role"].items()}
        recent = None if values["recent_seconds"] is None else float(values["recent_seconds"])
        if not {"level", "invalid"} <= role.keys() or values["paging"] not in PAGING:
            raise ValueError(text)
        table = None if values.get("table_seconds") is None else float(values["table_seconds"])
        fill = float(values.get("fill_seconds", 0.0))
        for seconds in (recent, table, fill or None):
            if seconds is not None and not 0 < seconds <= _MOST_SECONDS:
                raise ValueError(seconds)
        return cls(
            host=_text(values["host"]),
            kernel=_text(values["kernel"]),
            policy=_text(values["policy"]),
            probes={_text(point): _text(hook) for point, hook in values["probes"].items()},
            role=role,
            functions=tuple((str(name), int(start), int(end)) for name, start, end in values["functions"]),
            paging=str(values["paging"]),
            midway=bool(values["midway"]),
            recent_seconds=recent,
            table_seconds=table,
            fill_seconds=fill,
        )
