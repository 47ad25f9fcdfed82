# SPDX-License-Identifier: Apache-2.0
"""Where views get what they show: a running daemon or a capture, alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shadowwatch.facts import Facts
from shadowwatch.mmu.snapshot import Snapshot, VmDetail


@dataclass(frozen=True, slots=True)
class Status:
    """What the watched host and its daemon are like now.

    `policy` is KVM's reclaim policy, "" with a stock KVM; `cpu_ns` is the processor time that the daemon has had
    and `resident` its memory in bytes, both None for a capture.
    """

    facts: Facts
    policy: str
    cpu_ns: int | None
    resident: int | None


class Source(Protocol):
    """Something to look at again and again; each call is of one moment."""

    def status(self) -> Status:
        """The host and the daemon."""

    def snapshot(self) -> Snapshot:
        """All VMs."""

    def detail(self, name: str) -> VmDetail | None:
        """One VM page by page; None when there is none of this name."""
