# SPDX-License-Identifier: Apache-2.0
"""Where views get what they show: a running daemon or a capture, alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shadowwatch.event.facts import Facts
from shadowwatch.snapshot import Snapshot, VmDetail


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


class Seekable(Protocol):
    """What is not live: `length` is in seconds, and `position` is where it is now."""

    length: float
    position: float

    @property
    def fault(self) -> str:
        """Why it ends before it should, once it was read so far."""

    def seek(self, position: float) -> None:
        """Go there, at most to the end, and at least to the beginning."""


class Source(Protocol):
    """Something to look at again and again; each call is of one moment."""

    @property
    def replay(self) -> Seekable | None:
        """The capture, in which one can go to another time; None for what is live."""

    def status(self) -> Status:
        """The host and the daemon."""

    def snapshot(self) -> Snapshot:
        """All VMs."""

    def detail(self, name: str) -> VmDetail | None:
        """One VM page by page, by its name or else its pid; None when there is none now."""
