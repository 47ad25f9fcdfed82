# SPDX-License-Identifier: Apache-2.0
"""The causes of zaps while a tracer of returns has its own place where a function's return address was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.kernel.causes import TRIGGERS
from tests.kernel.filed import filed_as_the_stack_says
from tests.kernel.watched import Watched
from tests.lab.machine import Lab

TRACING = "/sys/kernel/tracing"

#: All that the daemon asks for its caller, and what is between that and the one who tells why.
TRACED = ("__kvm_mmu_prepare_zap_page", "kvm_mmu_zap_oldest_mmu_pages", "kvm_mmu_zap_all_fast", "mmu_page_zap_pte")


@contextmanager
def function_graph(lab: Lab) -> Iterator[None]:
    """The function graph tracer."""
    lab.run(["tee", f"{TRACING}/set_ftrace_filter"], stdin="\n".join(TRACED))
    lab.run(["tee", f"{TRACING}/current_tracer"], stdin="function_graph")
    try:
        yield
    finally:
        lab.run(["tee", f"{TRACING}/current_tracer"], stdin="nop")
        lab.run(["tee", f"{TRACING}/set_ftrace_filter"], stdin="\n")


@contextmanager
def kretprobes(lab: Lab) -> Iterator[None]:
    """A probe of each return."""
    events = "".join(f"r:traced/{function} {function}\n" for function in TRACED)
    lab.run(["tee", f"{TRACING}/kprobe_events"], stdin=events)
    lab.run(["tee", f"{TRACING}/events/traced/enable"], stdin="1")
    try:
        yield
    finally:
        lab.run(["tee", f"{TRACING}/events/traced/enable"], stdin="0")
        lab.run(["tee", f"{TRACING}/kprobe_events"], stdin="\n")


Tracer = Callable[[Lab], AbstractContextManager[None]]


@pytest.mark.parametrize(
    "trigger", ["resize", *(pytest.param(each, marks=pytest.mark.soak) for each in ("memslot", "flood"))]
)
@pytest.mark.parametrize("tracer", [function_graph, kretprobes], ids=lambda tracer: tracer.__name__)
def test_a_tracer_of_returns_hides_no_cause(stock: Watched, tracer: Tracer, trigger: str) -> None:
    """Whatever a tracer does to the stack, each zap is filed as the kernel's own unwinder says."""
    with tracer(stock.lab):
        filed_as_the_stack_says(stock, TRIGGERS[trigger])
