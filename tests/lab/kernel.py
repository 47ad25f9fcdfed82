# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel for a host, as its packages have it."""

import json
import lzma
import shutil
import struct
import subprocess
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tests.lab import debian
from tests.lab.archive import KernelSet
from tests.lab.cache import Cache, Input
from tests.lab.command import output, require
from tests.lab.errors import LabError
from tests.lab.hosts import Host

DESCRIPTION = "packages.json"  # beside what was unpacked
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


def kind(host: Host) -> str:
    """Return the kind of artifact that the host's kernels are."""
    return f"kernel-{host.name}"


def prepare(cache: Cache, apt: debian.Apt, host: Host, packages: KernelSet) -> Kernel:
    """Return the kernel of these packages, fetched and unpacked when it is not in the cache."""

    def unpack(folder: Path) -> None:
        require("modprobe")
        cache.progress(f"kernel: the packages of {packages.release}")
        apt.unpack(folder / "image", packages.image)
        apt.unpack(folder / "headers", packages.headers)
        shutil.rmtree(folder / "headers/usr/share", ignore_errors=True)
        output(["depmod", "-b", folder / "image", packages.release])
        (folder / DESCRIPTION).write_text(json.dumps(asdict(packages), indent=2))

    inputs: list[Input] = [*packages.binaries, Path(__file__), Path(debian.__file__)]
    # What was unpacked for a lab of the stock KVM does not know the source.
    return replace(unpacked(host, cache.artifact(kind(host), inputs, unpack)), packages=packages)


def unpacked(host: Host, folder: Path) -> Kernel:
    """Return the kernel that was unpacked in this folder."""
    packages = KernelSet(**json.loads((folder / DESCRIPTION).read_text()))
    modules = folder / "image/lib/modules" / packages.release
    places = (folder / f"image/boot/vmlinuz-{packages.release}", modules / "vmlinuz")
    return Kernel(
        host=host,
        packages=packages,
        vmlinuz=next(place for place in places if place.exists()),
        modules=modules,
        headers=folder / "headers",
    )


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
