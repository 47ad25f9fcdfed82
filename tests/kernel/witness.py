# SPDX-License-Identifier: Apache-2.0
"""The kernel's own account of why shadow pages were zapped: a count for every stack that led to a zap."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import dropwhile
from types import TracebackType
from typing import Self

from tests.lab.errors import LabError
from tests.lab.machine import Lab

#: Innermost function first.
Stack = tuple[str, ...]

EVENT = "/sys/kernel/tracing/events/kvmmmu/kvm_mmu_prepare_zap_page"
#: The key got a new name when fields of events could be called `stacktrace`.
KEYS = ("common_stacktrace", "stacktrace")
ENTRIES = 16_384

ZAP = "__kvm_mmu_prepare_zap_page"
#: Through these one zap leads to another, of a page below.
RECURSION = {
    ZAP,
    "kvm_mmu_prepare_zap_page",
    "kvm_mmu_page_unlink_children",
    "mmu_page_zap_pte",
    "mmu_zap_unsync_children",
}

#: How the names of the functions between the event and its histogram begin.
TRACER = ("trace_", "__trace", "__do_trace_", "event_", "__event_", "hist_", "stack_trace_")

_ENTRY = re.compile(r"^\{ \w+:(.*?)\} hitcount: +(\d+)", re.MULTILINE | re.DOTALL)
_DROPPED = re.compile(r"^ +Dropped: (\d+)", re.MULTILINE)
#: A compiler's copies of a function do what the function does.
_FUNCTION = re.compile(
    r"^\s*(?:\[<[0-9a-f]+>\] )?([^\s+.]+)(?:\.(?:cold|constprop|isra|part)(?:\.\d+)?)*\+", re.MULTILINE
)


class ZapStacks:
    """Counts zaps of all VMs by their kernel stacks, from the beginning of a `with` statement to its end."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._trigger = ""

    def __enter__(self) -> Self:
        triggers = [f"hist:keys={key}:size={ENTRIES}" for key in KEYS]
        accepted = (trigger for trigger in triggers if not self._set(trigger))
        self._trigger = next(accepted, "")
        if not self._trigger:
            raise LabError(f"the lab's kernel keeps no histogram of stacks: look at {EVENT}/hist")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._set(f"!{self._trigger}")

    def counts(self) -> Mapping[Stack, int]:
        """Return how often each stack led to a zap so far; a stack begins with the function that zaps."""
        return parse(self._lab.run(["cat", f"{EVENT}/hist"]).stdout)

    def _set(self, trigger: str) -> int:
        return self._lab.run(["tee", f"{EVENT}/trigger"], stdin=trigger, check=False).returncode


def parse(histogram: str) -> Mapping[Stack, int]:
    """Read a histogram as tracefs shows it; the TDP MMU's zaps are of other pages, and left out."""
    if any(int(dropped) for dropped in _DROPPED.findall(histogram)):
        raise LabError(f"more than {ENTRIES} different stacks led to zaps")
    counts: Counter[Stack] = Counter()
    for shown, hits in _ENTRY.findall(histogram):
        functions = _FUNCTION.findall(shown)
        if not any("tdp_mmu" in function for function in functions):
            counts[_zapping(functions)] += int(hits)
    return counts


def _zapping(functions: Iterable[str]) -> Stack:
    """Return the stack from the function that zaps, whatever of the tracer's own part the kernel left out or in."""
    stack = tuple(dropwhile(lambda function: function.startswith(TRACER), functions))
    return stack if stack[:1] == (ZAP,) else (ZAP, *stack)


def recursive(counts: Mapping[Stack, int]) -> int:
    """Add up the counts of the stacks in which one zap led to another, of a page below."""
    return sum(count for stack, count in counts.items() if ZAP in stack[1:])


def by_cause(counts: Mapping[Stack, int]) -> Counter[str]:
    """Add up the counts of the stacks that have the same cause."""
    causes: Counter[str] = Counter()
    for stack, count in counts.items():
        causes[classify(stack)] += count
    return causes


def classify(stack: Stack) -> str:
    """Return the cause of a zap: `root_free` is the second zap of a root, which had been in use at its first."""
    through = [function for function in stack if function not in RECURSION]
    caller = through[0] if through else ""
    if caller == "kvm_mmu_zap_oldest_mmu_pages":
        if "mmu_shrink_scan" in through:
            return "shrinker"
        if "kvm_mmu_change_mmu_pages" in through:
            return "resize"
        return "quota"
    if caller in ("kvm_mmu_zap_all_fast", "__kvm_mmu_zap_all_fast_front_half", "kvm_zap_obsolete_pages"):
        if "kvm_page_track_flush_slot" in through or "kvm_arch_flush_shadow_memslot" in through:
            return "memslot"
        return "zap_all"
    if caller == "kvm_arch_flush_shadow_memslot":
        return "memslot"
    if caller in ("kvm_mmu_zap_all", "kvm_arch_flush_shadow_all"):
        return "teardown"
    if caller in ("kvm_mmu_pte_write", "kvm_mmu_track_write"):
        return "guest_write"
    if caller in ("kvm_mmu_unprotect_page", "__kvm_mmu_unprotect_gfn_and_retry"):
        return "unprotect"
    if caller in ("__kvm_mmu_get_shadow_page", "kvm_mmu_get_page", "kvm_sync_page", "mmu_sync_children"):
        return "sync"
    if caller in ("kvm_nx_lpage_recovery_worker", "kvm_nx_huge_page_recovery_worker", "kvm_recover_nx_lpages"):
        return "nx_recovery"
    if caller in ("__link_shadow_page", "link_shadow_page"):
        return "link"
    if caller == "mmu_free_root_page":
        return "root_free"
    return "other"
