# SPDX-License-Identifier: Apache-2.0
"""One lab for the patched KVM and one for Debian's own, each with the daemon as a service."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.machine import Lab, say
from tests.lab.scrape import PORT, Metrics, scrape, scrape_until, settled

#: The daemon looks into the kernel's own lists all the time.
AUDITS = "--audit-interval 0.3 --difference /var/lib/shadowwatch/difference.capture"


class Watched:
    """A lab in which the daemon runs."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        lab.start_daemon(AUDITS)
        self.port = lab.forward(PORT)

    def metrics(self) -> Metrics:
        """Scrape now."""
        return scrape(self.port)

    def settled(self, vm: str, allocations: int) -> Metrics:
        """Scrape once the daemon has heard of as many allocations as the kernel counts."""
        return settled(self.port, vm, allocations)


def audited(watched: Watched, vm: str) -> Metrics:
    """The metrics after one more whole audit of this VM; it found no difference."""
    before = watched.metrics().sum("vm_audits_total", vm=vm)
    metrics = scrape_until(watched.port, lambda metrics: metrics.sum("vm_audits_total", vm=vm) >= before + 2)
    assert metrics.sum("vm_audit_entries_total", vm=vm, result="differing") == 0
    assert metrics.sum("vm_audit_entries_total", vm=vm, result="same") > 0
    assert metrics.sum("vm_exact", vm=vm) == 1
    return metrics


@pytest.fixture(scope="session")
def patched() -> Iterator[Watched]:
    """The patched KVM, which serves all orders."""
    with Lab.boot(kvm="patched", progress=say) as lab:
        yield Watched(lab)


@pytest.fixture(scope="session")
def stock() -> Iterator[Watched]:
    """Debian's own KVM."""
    with Lab.boot(kvm="stock", progress=say) as lab:
        yield Watched(lab)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests here need the lab."""
    for item in items:
        if "tests/lab/" in item.path.as_posix():
            item.add_marker("lab")
