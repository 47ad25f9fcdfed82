# SPDX-License-Identifier: Apache-2.0
"""What the events of one run cannot be read without; it travels with them into captures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Self

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


@dataclass(frozen=True, slots=True)
class Facts:
    """The host that the events come from.

    `host` is its name, `kernel` its release, `policy` KVM's reclaim policy when the events began
    ("" with a stock KVM), `paging` the key in PAGING of the MMU that its guests use; `probes` maps
    each probe point to the kernel symbol or tracepoint that serves it, `role` maps the fields
    of union kvm_mmu_page_role to (first bit, width), `functions` tells where those who zap are
    in the kernel's text, as (name, first address, address behind), lower halves, and
    `recent_seconds` is the threshold asked for: None is one list-length of allocations. `midway` events
    begin in the midst of VMs' numbers, and those before are not missing.
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

    def to_json(self) -> str:
        """Write the facts as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote; ValueError, KeyError or TypeError when it is something else."""
        values = json.loads(text)
        return cls(
            host=str(values["host"]),
            kernel=str(values["kernel"]),
            policy=str(values["policy"]),
            probes={str(point): str(hook) for point, hook in values["probes"].items()},
            role={str(name): (int(bit), int(width)) for name, (bit, width) in values["role"].items()},
            functions=tuple((str(name), int(start), int(end)) for name, start, end in values["functions"]),
            paging=str(values["paging"]),
            midway=bool(values["midway"]),
            recent_seconds=None if values["recent_seconds"] is None else float(values["recent_seconds"]),
        )
