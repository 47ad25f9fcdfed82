# SPDX-License-Identifier: Apache-2.0
"""QEMU for the lab itself: Debian 12's, whatever this machine runs.

Under the QEMU of later releases a real Linux does not leave its firmware as a guest of the lab. It comes into the cache
with its own libraries and dynamic linker, so it needs neither root nor anything of this machine.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.lab import debian
from tests.lab.cache import Cache
from tests.lab.hosts import HOSTS

HOST = HOSTS["6.1"]  # its Debian release is 12
PACKAGE = "qemu-system-x86"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
FIRMWARE = ("usr/share/qemu", "usr/share/seabios")

#: KVM has VMRUN hand an interrupt to its guest, and QEMU's helper_vmrun() delivers it at once. But it has also set
#: exception_index to it (the first instruction here), and what is there is delivered when QEMU next leaves its loop
#: (cpu_handle_interrupt(): another processor's turn, or all instructions counted), unless the guest has exited before.
#: So now and then a guest gets an interrupt twice, the second time with interrupts off, and waits for a lock for ever.
#: Without that instruction exception_index stays as it was: nothing (target/i386/tcg/sysemu/svm_helper.c).
TWICE = bytes.fromhex("89b354efffff c7838433000000000000 48c78388330000ffffffff")
ONCE = bytes.fromhex("660f1f440000") + TWICE[6:]


@dataclass(frozen=True)
class Program:
    """A QEMU that can be started."""

    words: tuple[str, ...]  # its command, still without arguments
    version: str  # of Debian's package


def deliver_once(program: Path) -> bool:
    """Have this QEMU deliver no interrupt twice; return whether it is the one of which that is known how."""
    code = program.read_bytes()
    if code.count(TWICE) != 1:
        return False
    program.write_bytes(code.replace(TWICE, ONCE))
    return True


def prepare(cache: Cache) -> Program:
    """Return the lab's QEMU, unpacked when it is not in the cache; what is there stays, whatever fixes Debian makes."""

    def unpack(folder: Path) -> None:
        apt = debian.Apt(cache, HOST.name, debian.sources(HOST.userland))
        whole = folder / "whole"

        def fetch() -> str:
            packages = apt.resolved(PACKAGE)
            cache.progress(f"emulator: QEMU {packages[PACKAGE]} of Debian {HOST.userland[0]}")
            apt.unpack(whole, packages)
            return packages[PACKAGE]

        (folder / "version").write_text(apt.fetch(fetch))
        for part in ("usr/bin/qemu-system-x86_64", LIBRARIES, *FIRMWARE):
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            (whole / part).rename(folder / part)
        shutil.rmtree(whole)
        if not deliver_once(folder / "usr/bin/qemu-system-x86_64"):
            cache.progress("emulator: in this QEMU a real Linux may hang as a guest (tests/lab/README.md)")

    root = cache.artifact("qemu", [Path(__file__), Path(debian.__file__)], unpack)
    libraries = root / LIBRARIES
    words = [
        *("env", f"QEMU_MODULE_DIR={libraries}/qemu", f"{libraries}/ld-linux-x86-64.so.2"),
        *("--library-path", str(libraries), f"{root}/usr/bin/qemu-system-x86_64"),
    ]
    for folder in FIRMWARE:
        words += ["-L", f"{root}/{folder}"]
    return Program(tuple(words), (root / "version").read_text())
