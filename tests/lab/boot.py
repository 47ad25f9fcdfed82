# SPDX-License-Identifier: Apache-2.0
"""What QEMU starts the lab with: the kernel without its decompressor, and an initramfs."""

import lzma
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab.cache import Cache
from tests.lab.command import output, require
from tests.lab.errors import LabError
from tests.lab.kernel import Kernel

INIT = Path(__file__).parent / "initramfs" / "init"
# The disk, the network, the shares, and the root file system's type with its checksum.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "9p", "9pnet_virtio", "crc32c_generic", "ext4")


@dataclass(frozen=True)
class Boot:
    """The kernel and initramfs of a lab."""

    vmlinux: Path
    initramfs: Path


def prepare(cache: Cache, kernel: Kernel) -> Boot:
    """Return what starts this kernel, made when it is not in the cache."""

    def make(folder: Path) -> None:
        cache.progress("initramfs: busybox and the modules of the root file system")
        require("busybox", "cpio", "modprobe")
        (folder / "vmlinux").write_bytes(decompressed(kernel.vmlinuz))
        modules = dependencies(kernel, MODULES)
        files = {f"modules/{module.name}": module for module in modules}
        order = folder / "order"
        order.write_text("".join(f"{module.name}\n" for module in modules))
        archive(folder / "initramfs.cpio", {"init": INIT, "modules/order": order, **files}, ("root",))

    folder = cache.artifact("boot", [kernel.vmlinuz, INIT, Path(__file__)], make)
    return Boot(vmlinux=folder / "vmlinux", initramfs=folder / "initramfs.cpio")


def decompressed(vmlinuz: Path) -> bytes:
    """Return the ELF file inside a bzImage: unpacking it here spares the emulated machine four seconds a boot."""
    image = vmlinuz.read_bytes()
    # Offsets of the x86 boot protocol's header: setup_sects, and payload_offset with payload_length.
    setup_sects = image[0x1F1]
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sects + 1) * 512 + offset
    payload = image[start : start + length - 4]  # its last word is the size it unpacks to
    if not payload.startswith(b"\xfd7zXZ"):
        raise LabError(f"{vmlinuz.name} is not compressed with xz as Debian 12's kernels are; use one of those")
    return lzma.decompress(payload)


def dependencies(kernel: Kernel, names: tuple[str, ...]) -> list[Path]:
    """Return the modules of these names and all that they need, in the order that loads them."""
    root = str(kernel.modules.parents[2])
    found: dict[Path, None] = {}
    for name in names:
        shown = output(["modprobe", "-d", root, "-S", kernel.release, "--show-depends", name])
        lines = (line.split() for line in shown.splitlines())
        found.update((Path(words[1]), None) for words in lines if words[0] == "insmod")
    return list(found)


def archive(target: Path, files: Mapping[str, Path], folders: tuple[str, ...] = ()) -> None:
    """Write an initramfs of busybox, these files and empty folders."""
    tree = target.with_suffix(".tree")
    for folder in ("bin", "dev", "proc", "sys", *folders):
        (tree / folder).mkdir(parents=True)
    busybox = shutil.which("busybox") or "/bin/busybox"
    for name, source in {"bin/busybox": Path(busybox), **files}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tree / name)
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    command = ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", "-O", str(target)]
    output(command, cwd=tree, stdin="".join(f"{name}\n" for name in names))
    shutil.rmtree(tree)
