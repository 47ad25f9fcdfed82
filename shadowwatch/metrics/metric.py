# SPDX-License-Identifier: Apache-2.0
"""What it takes to declare a metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shadowwatch.event.facts import Facts
from shadowwatch.mmu.tree import LEVELS
from shadowwatch.snapshot import UNKNOWN_LEVEL, Distribution, Snapshot, VmSnapshot

Value = float | Distribution
#: Label values, in the order of the declaration's labels, and the value.
Samples = Iterable[tuple[tuple[str, ...], Value]]


@dataclass(frozen=True, slots=True)
class VmMetric:
    """A metric with a sample or more for each VM; the label `vm` comes first by itself.

    `of` names an attribute of VmSnapshot: a value, None where there is none, or those of levels. Or it tells the
    samples of a VM, which has some only if the attribute `needs` is not empty.
    """

    name: str
    type: str
    help: str
    of: str | Callable[[VmSnapshot], Samples]
    labels: tuple[str, ...] = ()
    needs: str = ""

    def samples(self, vm: VmSnapshot) -> Samples:
        """Those of this VM; text.py makes the same at once of all VMs."""
        if callable(self.of):
            return self.of(vm)
        value = getattr(vm, self.of)
        if self.labels:
            return [(LABELS[level], each) for level, each in value.items()]
        return () if value is None else (((), +value if isinstance(value, bool) else value),)


@dataclass(frozen=True, slots=True)
class DaemonMetric:
    """A metric of the daemon itself."""

    name: str
    type: str
    help: str
    samples: Callable[[Snapshot, Facts], Samples]
    labels: tuple[str, ...] = ()


#: Level -> the values of labels that it makes; 6 to 15 only if an event is damaged.
LABELS = tuple(("unknown" if level == UNKNOWN_LEVEL else str(level),) for level in range(LEVELS))
