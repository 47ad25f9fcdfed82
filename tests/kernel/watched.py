# SPDX-License-Identifier: Apache-2.0
"""A lab in which the daemon runs, and what it says of itself."""

from __future__ import annotations

from tests.lab.machine import Lab
from tests.lab.scrape import PORT, Metrics, scrape, scrape_until, settled

#: The daemon looks into the kernel's own lists all the time.
AUDITS = "--audit-interval 0.3 --difference /var/lib/shadowwatch/difference.capture"
#: What the journal may have of it: its start, and what tests do to KVM.
EXPECTED = ("probes on Linux", "newest pages", "the kvm module was unloaded")


class Watched:
    """A lab in which the daemon runs."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.port = lab.forward(PORT)

    def metrics(self) -> Metrics:
        """Scrape now."""
        return scrape(self.port)

    def settled(self, vm: str, allocations: int) -> Metrics:
        """Scrape once the daemon has heard of as many allocations as the kernel counts."""
        return settled(self.port, vm, allocations)

    def said(self) -> list[str]:
        """What the journal has of the daemon."""
        return self.lab.run("journalctl -o cat _COMM=python3 -u shadowwatch").stdout.splitlines()


def audited(watched: Watched, vm: str) -> Metrics:
    """The metrics after one more whole audit of this VM; it found no difference."""
    before = watched.metrics().sum("vm_audits_total", vm=vm)
    metrics = scrape_until(watched.port, lambda metrics: metrics.sum("vm_audits_total", vm=vm) >= before + 2)
    assert metrics.sum("vm_audit_entries_total", vm=vm, result="differing") == 0
    assert metrics.sum("vm_audit_entries_total", vm=vm, result="same") > 0
    assert metrics.sum("vm_exact", vm=vm) == 1
    return metrics


def unexpected(said: list[str]) -> list[str]:
    """The lines that nothing which tests do to the daemon explains."""
    return [line for line in said if not any(words in line for words in EXPECTED)]
