# SPDX-License-Identifier: Apache-2.0
"""pid → the VM name that a person knows. The only user of psutil."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from os.path import basename

import psutil

#: Programs that take QEMU's -name, or a value of its form; StratoVirt does as QEMU does.
_QEMU = re.compile(r"qemu|^kvm(-spice)?$|stratovirt")

#: Options that give a VM its name: Firecracker and Kata, crosvm and kvmtool; and VirtualBox's, which has KVM beneath it
#: in some distributions.
_OPTIONS = ("--id", "--name")
_VIRTUALBOX = ("--comment",)

#: The next word is a kernel's command line, whatever it looks like: QEMU and StratoVirt; crosvm and kvmtool; Cloud
#: Hypervisor.
_TEXTS = ("-append", "--append", "-p", "--params", "--cmdline")


def name_in(command: Sequence[str]) -> str | None:
    """Find the VM's name in the command line of its VMM."""
    program = basename(command[0]) if command else ""
    qemu = _QEMU.search(program) is not None
    options = _VIRTUALBOX if program.startswith(("VBox", "VirtualBox")) else _OPTIONS
    name = None
    words = iter(command[1:])
    for word in words:
        if word in _TEXTS:
            next(words, None)
        elif word == "-name" or (word == "--name" and qemu):
            # More of them add to the first.
            name = _guest(next(words, "")) or name
        elif not qemu:
            if word == "--":  # what follows is for the guest
                break
            option, has_value, value = word.partition("=")
            if option in options:
                name = name or value or (None if has_value else next(words, None))
    return name or None


def _guest(value: str) -> str:
    """What QEMU takes for the guest's name of `guest=web1,debug-threads=on` and the like: guest= may be left out."""
    name = ""
    for number, part in enumerate(_parts(value)):
        key, equals, rest = part.partition("=")
        if key == "guest" and equals:
            name = rest
        elif not number and (not equals or "," in key):
            name = part
    return name


def _parts(value: str) -> Iterator[str]:
    """The parts between single commas; two commas are one in a part."""
    return (part.replace("\0", ",") for part in value.replace(",,", "\0").split(","))


def _command(pid: int) -> Sequence[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return ()


def name_of(pid: int, kept: Callable[[int], Sequence[str]] = lambda pid: ()) -> str:
    """Name the VM of this process, by its pid when nothing better is known.

    What was `kept` of its command line when its VM began is of use when it has ended since, or has overwritten that.
    """
    return name_in(_command(pid)) or name_in(kept(pid)) or str(pid)
