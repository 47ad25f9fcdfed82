# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel for a host, as its packages have it."""

import lzma
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab import debian
from tests.lab.archive import FLAVOUR, KernelSet, kernels
from tests.lab.cache import Cache
from tests.lab.command import output, require
from tests.lab.errors import LabError
from tests.lab.hosts import Host

XZ, ZSTD = b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Kernel:
    """One kernel release, as the lab boots it."""

    host: Host
    packages: KernelSet
    vmlinuz: Path
    modules: Path  # lib/modules/<release> of the stock image, with modules.dep
    headers: Path  # to copy into a root file system as it is: what bcc compiles against

    @property
    def release(self) -> str:
        """The release, as uname has it."""
        return self.packages.release

    @property
    def version(self) -> str:
        """The version of Debian's image."""
        return self.packages.version


def prepare(cache: Cache, host: Host) -> Kernel:
    """Return the host's newest kernel that can be had, unpacked when it is not in the cache."""
    apt = packages(cache, host)
    chosen = _choose(cache, apt, host)
    release = chosen.release

    def unpack(folder: Path) -> None:
        require("modprobe")
        cache.progress(f"kernel: the packages of {release}")
        apt.unpack(folder / "image", chosen.image)
        apt.unpack(folder / "headers", chosen.headers)
        shutil.rmtree(folder / "headers/usr/share")
        output(["depmod", "-b", folder / "image", release])

    inputs = [*sorted({**chosen.image, **chosen.headers}.items())]
    folder = cache.artifact(f"kernel-{host.name}", [repr(inputs), Path(__file__), Path(debian.__file__)], unpack)
    image_folder = folder / "image"
    modules = image_folder / "lib/modules" / release
    places = (image_folder / f"boot/vmlinuz-{release}", modules / "vmlinuz")
    return Kernel(
        host=host,
        packages=chosen,
        vmlinuz=next(place for place in places if place.exists()),
        modules=modules,
        headers=folder / "headers",
    )


def _choose(cache: Cache, apt: debian.Apt, host: Host) -> KernelSet:
    """Return the newest kernel for which all is in the archive."""
    lacks: list[str] = []
    for found in kernels(apt.kernels(), host.series, host.sources.package if host.sources else ""):
        if isinstance(found, KernelSet):
            if lacks:
                cache.progress(f"kernel: {found.release}, since the archive has no {lacks[0]}, which newer ones need")
            return found
        lacks.append(str(found))
    what = f"no {lacks[0]}" if lacks else f"no kernel {host.series}* for {FLAVOUR}"
    raise LabError(f"the mirror has {what} in {' or '.join(host.kernel)}; use one that has")


def packages(cache: Cache, host: Host) -> debian.Apt:
    """Return the packages of the suites that the host's kernel comes from."""
    return debian.Apt(cache, host.name, host.kernel)


def decompressed(vmlinuz: Path) -> bytes:
    """Return the ELF file inside a bzImage."""
    image = vmlinuz.read_bytes()
    # Offsets of the x86 boot protocol's header: setup_sects, and payload_offset with payload_length.
    setup_sects = image[0x1F1]
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sects + 1) * 512 + offset
    payload = image[start : start + length - 4]  # its last word is the size it unpacks to
    if payload.startswith(XZ):
        return lzma.decompress(payload)
    if payload.startswith(ZSTD):
        require("zstd")
        return subprocess.run(["zstd", "-dc"], input=payload, capture_output=True, check=True).stdout
    raise LabError(f"{vmlinuz.name} is compressed with neither xz nor zstd as Debian's kernels are; use one of those")


def dependencies(kernel: Kernel, names: tuple[str, ...]) -> list[Path]:
    """Return the modules of these names and all that they need, in the order that loads them."""
    root = str(kernel.modules.parents[2])
    found: dict[Path, None] = {}
    for name in names:
        shown = output(["modprobe", "-d", root, "-S", kernel.release, "--show-depends", name])
        lines = (line.split() for line in shown.splitlines())
        found.update((Path(words[1]), None) for words in lines if words[0] == "insmod")
    return list(found)
