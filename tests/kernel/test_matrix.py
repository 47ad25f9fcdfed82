# SPDX-License-Identifier: Apache-2.0
"""The matrix: every way in which a host comes to use the shadow MMU, stock and patched; Linux 6.1 in each run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kernel.causes import TRIGGERS, Trigger
from tests.kernel.filed import filed_as_the_stack_says
from tests.kernel.watched import AUDITS, Watched
from tests.lab.hosts import DEFAULT, HOSTS
from tests.lab.machine import Lab, say
from tests.lab.matrix import Cell, cells, watch
from tests.lab.scrape import PORT, scrape_until
from tests.lab.snapshot import ready
from tests.lab.workload import Vmm, Workload


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A lab to load one KVM after another in."""
    with ready("any", kvm="patched", progress=say) as lab:
        yield lab


@pytest.mark.parametrize(
    "cell",
    [
        # Others watch what is in mode "shadow" here, and the patched KVM.
        pytest.param(cell, marks=[] if cell.kvm == "stock" and cell.mode != "shadow" else [pytest.mark.soak])
        for cell in cells([DEFAULT])
    ],
    ids=lambda cell: f"{cell.kvm}-{cell.mode}",
)
def test_the_model_is_the_kernels_list(lab: Lab, cell: Cell) -> None:
    """Counts = the kernel's counters, nothing lost, and audits without a difference."""
    for row in watch(lab, cell, accesses=5_000):
        assert row.right, row.line()
        if row.workload in ("zipf-shadow", "uniform-shadow"):
            assert set(row.causes) == {"quota"}, row.line()


OTHERS = list(cells([host for host in HOSTS if host != DEFAULT]))


@pytest.fixture(scope="module")
def other(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A lab with another Linux."""
    host: str = request.param
    with ready("any", host=host, kvm="patched" if HOSTS[host].sources else "stock", progress=say) as lab:
        yield lab


@pytest.mark.soak
@pytest.mark.parametrize(
    ("other", "cell"),
    [(cell.host, cell) for cell in OTHERS],
    ids=[f"{cell.host}-{cell.kvm}-{cell.mode}" for cell in OTHERS],
    indirect=["other"],
)
def test_the_model_is_the_list_of_every_kernel(other: Lab, cell: Cell) -> None:
    """The rest of the matrix, with its own workloads."""
    for row in watch(other, cell):
        assert row.right, row.line()


@pytest.mark.soak
def test_a_host_with_the_tdp_mmu_is_told_so(lab: Lab) -> None:
    """By doctor, by the log and by a metric, and a guest without guests of its own has no shadow page."""
    lab.run("systemctl stop shadowwatch", check=False)
    lab.load_kvm("stock", "nested")
    lab.start_daemon()
    words = "TDP MMU in use: nothing to watch but nested guests"
    assert words in lab.run("shadowwatch doctor").stdout
    assert words in lab.run("journalctl -o cat -u shadowwatch -n 3").stdout
    with Vmm(lab, Workload("plain", accesses=1_000)) as vmm:
        vmm.finished()
        lab.run("systemctl restart shadowwatch")
        port = lab.forward(PORT)
        metrics = scrape_until(port, lambda metrics: metrics.sum("vm_exact", vm="plain") == 1)
        assert metrics.sum("paging_info", mmu="tdp_mmu_nested", meaning=words) == 1
        assert metrics.sum("pages", vm="plain") == 0
        assert metrics.sum("allocations_total", vm="plain") == 0


@pytest.mark.soak
@pytest.mark.parametrize("trigger", [each for each in TRIGGERS.values() if each.nested], ids=lambda each: each.name)
def test_what_goes_with_its_parent_has_the_parents_cause(lab: Lab, trigger: Trigger) -> None:
    """A nested guest's tables are zapped with the last that pointed to them, and that has a cause of its own."""
    lab.run("systemctl stop shadowwatch", check=False)
    lab.load_kvm("stock", "nested")
    lab.start_daemon(AUDITS)
    filed_as_the_stack_says(Watched(lab), trigger)
