# SPDX-License-Identifier: Apache-2.0
"""The command lines of VMs' processes as the kernel kept them, read through mmap alone."""

from __future__ import annotations

import mmap
import os

from shadowwatch.event.abi import COMMAND, COMMANDS


class Commands:
    """The mapped array of struct shadowwatch_command; without a descriptor (-1) one in which nothing is kept."""

    #: Bytes, whole pages.
    SIZE = -(-COMMAND.size * COMMANDS // mmap.PAGESIZE) * mmap.PAGESIZE

    def __init__(self, commands_fd: int) -> None:
        self._memory = mmap.mmap(commands_fd, self.SIZE, mmap.MAP_SHARED, mmap.PROT_READ)

    def of(self, pid: int) -> list[str]:
        """The words of this process' command line, without one that did not fit; none when another took its place."""
        place = pid % COMMANDS * COMMAND.size
        owner, length, words = COMMAND.unpack_from(self._memory, place)
        # Another process may have begun to write there meanwhile.
        if not pid or owner != pid or COMMAND.unpack_from(self._memory, place)[0] != pid:
            return []
        return [os.fsdecode(word) for word in words[:length].split(b"\0")[:-1]]
