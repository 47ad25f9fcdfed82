# SPDX-License-Identifier: Apache-2.0
"""What a person should hear of once, in the journal."""

from __future__ import annotations

from shadowwatch.service.log import Level, say
from shadowwatch.watch import Watch

#: Of so many VMs it is said that their newest pages are reclaimed; nobody needs to hear of more.
MOST_TOLD = 100


class Notices:
    """What a person should hear of once, not at every look."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._newest_first: set[str] = set()
        self._oversize = False
        self._received = 0
        self._lost = self._missed = False
        self._difference = False

    def look(self) -> None:
        """Say what is new."""
        if self._watch.received != self._received:
            # A thousand VMs that rest need not be looked at each time.
            self._received = self._watch.received
            self._look_at_vms()
        if self._watch.missed and not self._missed:
            self._missed = True
            say(
                "the kernel passed probes over while other BPF was at work on their processor; the lists of all VMs"
                " will be read again each time; see shadowwatch_events_lost_total",
                Level.WARNING,
            )
        if self._watch.lost > self._watch.missed and not self._lost:
            self._lost = True
            say(
                "events were lost; the lists of their VMs will be read again; see shadowwatch_events_lost_total",
                Level.WARNING,
            )
        if self._watch.difference and not self._difference:
            self._difference = True
            say(f"an audit found a difference: {self._watch.difference}", Level.WARNING)

    def _look_at_vms(self) -> None:
        for vm in self._watch.newest_first():
            if vm not in self._newest_first and len(self._newest_first) < MOST_TOLD:
                self._newest_first.add(vm)
                say(
                    f"VM {vm}: reclaim takes the newest pages instead of the oldest, as Linux 5.9 to 5.11.1 did by"
                    " mistake; set reclaim_policy to stock, or where there is none boot a kernel that has 8fc517267fb2",
                    Level.WARNING,
                    vm=vm,
                )
        if not self._oversize and (vms := self._watch.oversize()):
            self._oversize = True
            say(
                f"this host has more shadow pages than there is room for, so those of VM {vms[0]} are not kept, nor"
                " those of the next largest while that is so: their allocations and zaps are counted all the same; see"
                ' shadowwatch_vms{state="oversize"}',
                Level.WARNING,
                vm=vms[0],
            )
