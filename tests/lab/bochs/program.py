# SPDX-License-Identifier: Apache-2.0
"""Bochs itself: Debian 12's, whatever this machine runs, with its own libraries, as the lab has QEMU."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.lab import debian
from tests.lab.cache import Cache
from tests.lab.command import output
from tests.lab.hosts import HOSTS
from tests.lab.qemu import LIBRARIES

HOST = HOSTS["6.1"]  # its Debian release is 12
# The one of Bochs' screens that needs neither a window nor a port; it asks for Bochs itself.
PACKAGE = "bochs-term"
PROGRAM = "usr/bin/bochs-bin"
LOADER = "ld-linux-x86-64.so.2"
PLUGINS = f"{LIBRARIES}/bochs/plugins"
SCREEN = "libbx_term_gui.so"
BIOS = "usr/share/bochs/BIOS-bochs-latest"
VGA_BIOS = "usr/share/vgabios/vgabios.bin"


@dataclass(frozen=True)
class Program:
    """A Bochs that can be started."""

    root: Path

    @property
    def words(self) -> tuple[str, ...]:
        """Its command, still without arguments."""
        libraries = self.root / LIBRARIES
        return (
            *("env", f"LTDL_LIBRARY_PATH={self.root / PLUGINS}", f"{libraries}/{LOADER}"),
            *("--library-path", str(libraries), f"{self.root}/{PROGRAM}"),
        )

    @property
    def bios(self) -> Path:
        """The firmware of the machine."""
        return self.root / BIOS

    @property
    def vga_bios(self) -> Path:
        """The firmware of its screen."""
        return self.root / VGA_BIOS


def prepare(cache: Cache) -> Program:
    """Return Bochs, unpacked when it is not in the cache; what is there stays, whatever fixes Debian makes."""

    def unpack(folder: Path) -> None:
        apt = debian.Apt(cache, HOST.name, debian.sources(HOST.userland))
        whole = folder / "whole"

        def fetch() -> None:
            packages = apt.resolved(PACKAGE)
            cache.progress(f"emulator: Bochs {packages[PACKAGE]} of Debian {HOST.userland[0]}")
            apt.unpack(whole, packages)

        apt.fetch(fetch)
        libraries = whole / LIBRARIES
        # Of four times as much that the packages bring, what the program is linked with.
        loader: list[str | Path] = [libraries / LOADER, "--library-path", libraries, "--list"]
        linked = "".join(output([*loader, whole / part]) for part in (PROGRAM, f"{PLUGINS}/{SCREEN}"))
        names = {name for name in re.findall(r"^\t(lib\S+) => ", linked, re.MULTILINE) if (libraries / name).exists()}
        for part in (PROGRAM, PLUGINS, BIOS, VGA_BIOS, *(f"{LIBRARIES}/{name}" for name in {*names, LOADER})):
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            (whole / part).resolve().rename(folder / part)
        shutil.rmtree(whole)

    return Program(cache.artifact("bochs", [Path(__file__), Path(debian.__file__)], unpack))
