# SPDX-License-Identifier: Apache-2.0
"""What QEMU starts the lab with: the kernel without its decompressor, and an initramfs."""

import lzma
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab import kernel as kernels
from tests.lab.cache import Cache, Input
from tests.lab.command import output, require
from tests.lab.kernel import Kernel, decompressed, dependencies

INIT = Path(__file__).parent / "initramfs" / "init"
# The disk, the network, the shares, the root file system's type, and what keeps its changes in memory.
MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "9p", "9pnet_virtio", "ext4", "overlay")


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
        # Unpacking it here spares the emulated machine four seconds a boot.
        (folder / "vmlinux").write_bytes(decompressed(kernel.vmlinuz))
        archive(folder / "initramfs.cpio", {"init": INIT, **modules(kernel, MODULES)}, ("root",))

    inputs: list[Input] = [kernel.version, INIT, Path(__file__), Path(kernels.__file__)]
    folder = cache.artifact(f"boot-{kernel.host.name}", inputs, make)
    return Boot(vmlinux=folder / "vmlinux", initramfs=folder / "initramfs.cpio")


def modules(kernel: Kernel, names: tuple[str, ...]) -> dict[str, bytes]:
    """Return the files of an initramfs that its init loads these modules from: they, and their order."""
    files = {}
    for module in dependencies(kernel, names):
        packed = module.suffix == ".xz"
        content = module.read_bytes()
        files[module.name.removesuffix(".xz")] = lzma.decompress(content) if packed else content
    files["order"] = "".join(f"{name}\n" for name in files).encode()
    return {f"modules/{name}": content for name, content in files.items()}


def archive(target: Path, files: Mapping[str, Path | bytes], folders: tuple[str, ...] = ()) -> None:
    """Write an initramfs of busybox, these files and empty folders."""
    tree = target.with_name(f"{target.name}.tree")
    for folder in ("bin", "dev", "proc", "sys", *folders):
        (tree / folder).mkdir(parents=True)
    busybox = shutil.which("busybox") or "/bin/busybox"
    for name, source in {"bin/busybox": Path(busybox), **files}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, bytes):
            (tree / name).write_bytes(source)
        else:
            shutil.copy(source, tree / name)
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    command = ["cpio", "--quiet", "-o", "-H", "newc", "-R", "0:0", "-O", str(target)]
    output(command, cwd=tree, stdin="".join(f"{name}\n" for name in names))
    shutil.rmtree(tree)
