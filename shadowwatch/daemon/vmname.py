# SPDX-License-Identifier: Apache-2.0
"""pid → the VM name that a person knows. The only user of psutil."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

#: Options that give a VM its name: QEMU and libvirt, Firecracker and Kata, crosvm and kvmtool.
NAME_OPTIONS = ("-name", "--id", "--name")


def name_in(command: Sequence[str]) -> str | None:
    """Find the VM's name in the command line of its VMM.

    QEMU's value may carry more: `guest=web1,debug-threads=on`.
    """
    for position, word in enumerate(command):
        option, has_value, value = word.partition("=")
        if option not in NAME_OPTIONS:
            continue
        if not has_value:
            value = command[position + 1] if position + 1 < len(command) else ""
        name = value.split(",")[0].removeprefix("guest=")
        if name:
            return name
    return None


def name_of(pid: int) -> str:
    """Name the VM of this process, by its pid when nothing better is known."""
    try:
        return name_in(psutil.Process(pid).cmdline()) or str(pid)
    except psutil.Error:
        return str(pid)
