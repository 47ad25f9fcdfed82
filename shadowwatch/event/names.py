# SPDX-License-Identifier: Apache-2.0
"""What VMs are called, each in its own way, by whatever the processes that run them called them."""

from __future__ import annotations

from collections.abc import Callable

from shadowwatch.event.facts import printable

#: Characters of a VM's name: whoever starts one chooses it, and each line of a scrape has it.
LONGEST_NAME = 128


def clipped(name: str, most: int = LONGEST_NAME) -> str:
    """The name, or of a long one the beginning, and a sign that there is more."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _numbered(name: str, pid: int, number: int) -> str:
    suffix = f"-{pid}" if number == 1 else f"-{pid}-{number}"
    return clipped(name, LONGEST_NAME - len(suffix)) + suffix


def unique(called: str, pid: int, taken: Callable[[str], bool]) -> str:
    """A name that no other VM has, as both would be one: the later one of those called so gets its pid, then a number.

    A VM that was not called anything goes by its pid.
    """
    name = printable(clipped(called)) or str(pid)
    if not taken(name):
        return name
    # One process may have thousands: the first number that is free is looked for by halves.
    low, free = 0, 1
    while taken(_numbered(name, pid, free)):
        low, free = free, 2 * free
    while free - low > 1:
        middle = (low + free) // 2
        low, free = (middle, free) if taken(_numbered(name, pid, middle)) else (low, middle)
    return _numbered(name, pid, free)
