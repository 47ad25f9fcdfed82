# SPDX-License-Identifier: Apache-2.0
"""How long KVM reclaims under mmu_lock, from the events that are there: between two bounds."""

from __future__ import annotations


class ReclaimTime:
    """Nanoseconds that reclaim took at least and at most.

    It has begun when the oldest pages are about to be zapped, goes on at least until the last of them is, and is over
    when the fault that it made room for does something else.
    """

    __slots__ = ("began_ns", "last_ns", "least_ns", "most_ns")

    def __init__(self) -> None:
        #: When the last one began.
        self.began_ns = 0
        #: Its last zap so far.
        self.last_ns = 0
        self.least_ns = 0
        self.most_ns = 0

    def begin(self, ns: int) -> None:
        """The oldest pages are about to be zapped."""
        self.began_ns = self.last_ns = ns

    def over(self, ns: int) -> None:
        """Something else has happened."""
        self.least_ns += max(0, self.last_ns - self.began_ns)
        self.most_ns += max(0, ns - self.began_ns)
