# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel for a host, as its packages have it."""

import lzma
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab import debian
from tests.lab.cache import Cache
from tests.lab.command import output, require
from tests.lab.errors import LabError
from tests.lab.hosts import Host

FLAVOUR = "amd64"
# What a kernel consists of: of other packages that these ask for, nothing is needed here.
PARTS = re.compile(r"\blinux-(?:image|binary|modules|base|headers|kbuild)-\d[\w.+~-]*")
XZ, ZSTD = b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Kernel:
    """One kernel release, as the lab boots it."""

    host: Host
    release: str
    version: str  # of Debian's packages
    vmlinuz: Path
    modules: Path  # lib/modules/<release> of the stock image, with modules.dep
    headers: Path  # to copy into a root file system as it is: what bcc compiles against


def prepare(cache: Cache, host: Host) -> Kernel:
    """Return the host's current kernel, unpacked when it is not in the cache."""
    apt = packages(cache, host)
    version = apt.show(f"linux-image-{FLAVOUR}", "Version")
    image = re.search(rf"\blinux-image-(\d\S+-{FLAVOUR})\b", apt.show(f"linux-image-{FLAVOUR}", "Depends"))
    if not version or not image:
        raise LabError(f"the mirror has no kernel for {FLAVOUR} in {' or '.join(host.kernel)}; use one that has")
    release = image[1]

    def unpack(folder: Path) -> None:
        require("modprobe")
        cache.progress(f"kernel: the packages of {release}")
        image = set(_parts(apt, f"linux-image-{FLAVOUR}", version))
        headers = set(_parts(apt, f"linux-headers-{FLAVOUR}", version))
        apt.unpack(folder / "image", version, sorted(image))
        apt.unpack(folder / "headers", version, sorted(headers - image))
        shutil.rmtree(folder / "headers/usr/share")
        output(["depmod", "-b", folder / "image", release])

    folder = cache.artifact(f"kernel-{host.name}", [version, Path(__file__), Path(debian.__file__)], unpack)
    image_folder = folder / "image"
    modules = image_folder / "lib/modules" / release
    places = (image_folder / f"boot/vmlinuz-{release}", modules / "vmlinuz")
    return Kernel(
        host=host,
        release=release,
        version=version,
        vmlinuz=next(place for place in places if place.exists()),
        modules=modules,
        headers=folder / "headers",
    )


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


def _parts(apt: debian.Apt, package: str, version: str) -> Iterator[str]:
    """Yield the parts of a kernel that a package of it asks for, and that these ask for."""
    for part in PARTS.findall(apt.show(f"{package}={version}", "Depends")):
        yield part
        yield from _parts(apt, part, version)
