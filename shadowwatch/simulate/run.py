# SPDX-License-Identifier: Apache-2.0
"""A capture played to what several policies keep, once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from shadowwatch.errors import ShadowwatchError, clipped
from shadowwatch.event.abi import RECORD, Batch
from shadowwatch.event.facts import Facts
from shadowwatch.event.names import unique
from shadowwatch.simulate.policies import LOWEST
from shadowwatch.simulate.simulator import Key, Simulator
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
    """VMs of a capture by name and pid, and for each what policies would have made of it; `fault` if it broke off.

    `raised` are those, with multiples of their limit, for which KVM's lowest limit stands.
    """

    facts: Facts
    events: int
    vms: Mapping[tuple[str, int], Mapping[str, Estimate]]
    fault: str
    raised: Sequence[tuple[tuple[str, int], str]] = ()

    def lowest(self) -> str:
        """A line about multiples that are lower than KVM's lowest limit, which stands for them; "" without any."""
        too_low = [f"{text} of {key[0]}" for key, text in self.raised if key in self.vms]
        if not too_low:
            return ""
        return f"KVM takes no limit below {LOWEST}, which stands for {clipped(', '.join(too_low))}"

    def only(self, wanted: str | None) -> Simulated:
        """Only the VM of this name or pid, all of them without one; ShadowwatchError when there is none."""
        if wanted is None:
            return self
        named = {key: of for key, of in self.vms.items() if key[0] == wanted}
        found = named or {key: of for key, of in self.vms.items() if str(key[1]) == wanted}
        if not found:
            listed = ", ".join(f"{name} (pid {pid})" for name, pid in self.vms) or "none"
            raise ShadowwatchError(f"there is no VM {wanted} that allocated shadow pages; choose from {listed}")
        return replace(self, vms=found)


def simulated(capture: Capture, policies: Sequence[str], progress: Callable[[int], None]) -> Simulated:
    """Play it to its end; `progress` hears after each batch how many events there were so far."""
    simulators = [Simulator(capture.facts, policy) for policy in policies]
    first = simulators[0]
    events = born = 0
    called: dict[Key, str] = {}
    for batch in capture.whole_batches():
        events += len(batch.records) // RECORD.size
        for simulator in simulators:
            simulator.feed(batch.records)
            simulator.miss(batch.missed)
        if first.born > born:
            # Now, for its process may call another VM otherwise later.
            born = first.born
            called = {key: called[key] if key in called else capture.name_of(key[1]) for key in first.known()}
        progress(events)
    names: dict[Key, str] = {}
    taken: set[str] = set()
    for key, name in called.items():
        names[key] = unique(name, key[1], taken.__contains__)
        taken.add(names[key])
    vms: dict[tuple[str, int], dict[str, Estimate]] = {}
    raised: dict[tuple[tuple[str, int], str], None] = {}
    for simulator in simulators:
        for key, estimate in simulator.estimates().items():
            if estimate.recorded_faults:
                vm = names[key], key[1]
                vms.setdefault(vm, {})[simulator.policy] = estimate
                if key in simulator.raised:
                    raised[vm, simulator.policy.partition("@")[2]] = None
    return Simulated(capture.facts, events, vms, str(capture.fault or ""), tuple(raised))
