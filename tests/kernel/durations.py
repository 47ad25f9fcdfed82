# SPDX-License-Identifier: Apache-2.0
"""The kernel's own account of what page faults and reclaim take: its function graph tracer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from tests.lab.errors import LabError
from tests.lab.machine import Lab

TRACING = "/sys/kernel/tracing"
FAULT = ("paging64_page_fault", "paging32_page_fault", "ept_page_fault", "direct_page_fault")
RECLAIM = "kvm_mmu_zap_oldest_mmu_pages"
#: It allocates pages of the TDP MMU, by the same event: these are no shadow pages, and no counter of KVM's has them.
TDP_MMU = "kvm_tdp_mmu_map"
TRACED = (*FAULT, RECLAIM, TDP_MMU)
#: Its comment in the graph ends with `new` when KVM has allocated the page.
EVENT = "kvmmmu/kvm_mmu_get_page"
BUFFER_KIB = 32_768

#: Only these functions are traced, what a thread sleeps in them is left out, and the task is in each line.
BEGIN = f"""
cd {TRACING} && echo nop >current_tracer && echo 0 >tracing_on && echo {BUFFER_KIB} >buffer_size_kb && echo >trace &&
grep -E '^({"|".join(TRACED)})([.]| |$)' available_filter_functions | cut -d' ' -f1 >set_ftrace_filter &&
echo function_graph >current_tracer && echo 0 >options/sleep-time && echo 1 >options/funcgraph-proc &&
echo 1 >options/funcgraph-tail && echo 1 >events/{EVENT}/enable && echo 1 >tracing_on
"""
END = f"""
cd {TRACING} && echo 0 >tracing_on && cat trace && cat per_cpu/cpu*/stats >&2 && echo 1 >options/sleep-time &&
echo nop >current_tracer && echo 0 >events/{EVENT}/enable && echo >set_ftrace_filter && echo >trace &&
echo 1 >tracing_on
"""

#: CPU) task-pid | duration | what
_LINE = re.compile(r"^ *\d+\) +\S.*?-(\d+) +\|(?: +(?:\S )? *([\d.]+) us)? +\| +(.*)$", re.MULTILINE)
_LOST = re.compile(r"^(?:overrun|dropped events): (?!0$)", re.MULTILINE)


@dataclass
class Fault:
    """A call of a page fault handler: µs of it and of the reclaim in it, and how many shadow pages it allocated."""

    us: float = 0.0
    reclaim_us: float = 0.0
    reclaims: int = 0
    tables: int = 0


class Durations:
    """Traces page faults and reclaim of all VMs, from the beginning of a `with` statement to its end."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.faults: Sequence[Fault] = ()

    def __enter__(self) -> Self:
        self._lab.run(BEGIN)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        done = self._lab.run(END)
        if _LOST.search(done.stderr):
            raise LabError(f"the lab's trace buffer of {BUFFER_KIB} KiB was too small")
        self.faults = list(parse(done.stdout))


def parse(graph: str) -> Iterator[Fault]:
    """Read a function graph; calls of which it has no end are left out."""
    open_faults: dict[str, Fault] = {}
    in_tdp_mmu: set[str] = set()
    for task, us, what in _LINE.findall(graph):
        name = re.sub(r"^\} /\* ", "", what).split("(")[0].split(" ")[0].split(".")[0]
        if name in FAULT:
            fault = open_faults.pop(task, None) if us else None
            if what.endswith("{"):
                open_faults[task] = Fault()
            elif us:
                fault = fault or Fault()
                fault.us = float(us)
                yield fault
        elif name == RECLAIM and us and task in open_faults:
            open_faults[task].reclaim_us += float(us)
            open_faults[task].reclaims += 1
        elif name == TDP_MMU:
            (in_tdp_mmu.discard if us else in_tdp_mmu.add)(task)
        elif what.startswith("/* kvm_mmu_get_page:") and what.endswith("new */") and task in open_faults:
            open_faults[task].tables += task not in in_tdp_mmu
