# SPDX-License-Identifier: Apache-2.0
"""A capture played to what several policies keep, once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import RECORD, Batch
from shadowwatch.event.facts import Facts
from shadowwatch.simulate.simulator import Simulator
from shadowwatch.snapshot import Estimate


class Capture(Protocol):
    """What is played: capture.format.Reader is one."""

    @property
    def facts(self) -> Facts:
        """The host that it was recorded on."""

    @property
    def fault(self) -> ShadowwatchError | None:
        """Why it breaks off, once it was read so far."""

    def whole_batches(self) -> Iterator[Batch]:
        """What was recorded, up to the fault."""

    def name_of(self, pid: int) -> str:
        """The name that the VM of this process had."""


@dataclass(frozen=True)
class Simulated:
    """VMs of a capture by name and pid, and for each what policies would have made of it; `fault` if it broke off."""

    facts: Facts
    events: int
    vms: Mapping[tuple[str, int], Mapping[str, Estimate]]
    fault: str

    def only(self, wanted: str | None) -> Simulated:
        """Only the VM of this name or pid, all of them without one; ShadowwatchError when there is none."""
        if wanted is None:
            return self
        found = {key: of for key, of in self.vms.items() if wanted in (key[0], str(key[1]))}
        if not found:
            listed = ", ".join(f"{name} (pid {pid})" for name, pid in self.vms) or "none"
            raise ShadowwatchError(f"there is no VM {wanted} that allocated shadow pages; choose from {listed}")
        return replace(self, vms=found)


def simulated(capture: Capture, policies: Sequence[str], progress: Callable[[int], None]) -> Simulated:
    """Play it to its end; `progress` hears after each batch how many events there were so far."""
    simulators = [Simulator(capture.facts, policy) for policy in policies]
    events = 0
    for batch in capture.whole_batches():
        events += len(batch.records) // RECORD.size
        for simulator in simulators:
            simulator.feed(batch.records)
            simulator.miss(batch.missed)
        progress(events)
    names: dict[int, str] = {}
    vms: dict[tuple[str, int], dict[str, Estimate]] = {}
    for simulator in simulators:
        for (_, pid), estimate in simulator.estimates().items():
            if estimate.recorded_faults:
                names.setdefault(pid, capture.name_of(pid))
                vms.setdefault((names[pid], pid), {})[simulator.policy] = estimate
    return Simulated(capture.facts, events, vms, str(capture.fault or ""))
