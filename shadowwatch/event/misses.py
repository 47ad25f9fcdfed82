# SPDX-License-Identifier: Apache-2.0
"""How often the kernel passed the probes' programs over, read from procfs: no capability, no bpf().

It runs no kprobe's program on a processor where another one is at work, or a bpf(2) call that copies a map's value
(bpf_prog_active). The event that is not made has no number, so nothing else tells that it is missing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence

#: Between two looks, each of which costs some ten microseconds for a program.
LOOK_NS = 10**9

#: A program's /proc/self/fdinfo has some 300 bytes.
_MOST = 4096

_MISSES = re.compile(rb"^recursion_misses:\t(\d+)$", re.MULTILINE)


def open_infos(programs: Sequence[int]) -> tuple[int, ...]:
    """Open what procfs has about these descriptors of this process; nothing without procfs."""
    try:
        return tuple(os.open(f"/proc/self/fdinfo/{program}", os.O_RDONLY | os.O_CLOEXEC) for program in programs)
    except OSError:
        return ()


class Misses:
    """The times since this was made, of all programs; `infos` are open files with what procfs says of each.

    A kernel that does not count them (before 9ed9e9ba2337, v5.12, and of kprobes before dd8657894c11, v6.7) says 0, or
    nothing.
    """

    def __init__(self, infos: Sequence[int], clock: Callable[[], int]) -> None:
        self._infos = infos
        self._clock = clock
        self._due_ns = clock() + LOOK_NS
        self._before = self._read()
        self._count = 0

    def _read(self) -> int:
        found = (_MISSES.search(os.pread(info, _MOST, 0)) for info in self._infos)
        return sum(int(misses[1]) for misses in found if misses)

    def count(self) -> int:
        """As it was at the last look, at most LOOK_NS ago."""
        now_ns = self._clock()
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + LOOK_NS
            self._count = self._read() - self._before
        return self._count
