# SPDX-License-Identifier: Apache-2.0
"""Asking the kernel for a walk, without a capability and without bpf().

The request is a word or two in a map that this process has mapped; a system call that
does nothing here, sched_rr_get_interval(2), which next to nobody makes, has a probe on it
that reads them (probe_ask in bpf/mmu.bpf.c). What it finds comes through the ring.
"""

from __future__ import annotations

import mmap
import os
import time

from shadowwatch.event.abi import REQUEST_FIELDS, Flags, Want

#: How often a probe that does not answer is asked again, and how long after.
TRIES, TRY_SECONDS = 10, 0.01

_SIZE = {"Q": 8, "I": 4}


def _places() -> dict[str, int]:
    """The index of each field, in units of its own size."""
    places = {}
    offset = 0
    for name, code in REQUEST_FIELDS:
        size = _SIZE[code]
        places[name] = offset // size
        offset += size
    return places


_AT = _places()


class Requests:
    """The mapped request; one at a time, from the one process that owns it. Events are made from here on."""

    def __init__(self, requests_fd: int) -> None:
        memory = mmap.mmap(requests_fd, mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._longs = memoryview(memory).cast("Q")
        self._words = memoryview(memory).cast("I")
        self._words[_AT["listening"]] = 1
        self._ask(Want.OWN)

    def _ask(self, want: Want) -> Flags:
        self._words[_AT["want"]] = want
        os.sched_rr_get_interval(0)
        self._words[_AT["want"]] = Want.NOTHING
        return Flags(self._words[_AT["flags"]])

    def _step(self, want: Want, kvm: int, number: int, first: bool) -> Flags:
        self._longs[_AT["kvm"]] = kvm
        self._words[_AT["walk"]] = number
        self._words[_AT["flags"]] = Flags.VOID
        if first:
            self._longs[_AT["place.next"]] = 0
        return self._ask(want)

    @property
    def heard(self) -> bool:
        """Whether the probe is there and takes this process' requests; where it seems not to be, it is asked again."""
        for _ in range(TRIES):
            if self._words[_AT["owner"]]:
                return True
            # Other BPF may have been at work on this processor (misses.py).
            time.sleep(TRY_SECONDS)
            self._ask(Want.OWN)
        return self._words[_AT["owner"]] != 0

    def vms(self, number: int, first: bool) -> Flags:
        """Make the first step, or the next, over vm_list; the answer is VOID or LAST at its end."""
        return self._step(Want.VMS, 0, number, first)

    def walk(self, kvm: int, number: int, first: bool) -> Flags:
        """Make the first step, or the next, over this VM's active_mmu_pages, unless it is in use."""
        return self._step(Want.WALK, kvm, number, first)

    def walk_locked(self, kvm: int, number: int) -> None:
        """Have the VM's list walked by the probes that come by while its mmu_lock is held."""
        self._step(Want.WALK_LOCKED, kvm, number, True)
