# SPDX-License-Identifier: Apache-2.0
"""What runs in the lab's guests: the small VMM, and initramfs of a real Linux, and of a KVM host with either."""

from pathlib import Path

from tests.lab import boot
from tests.lab.cache import Cache, Input
from tests.lab.command import output, require
from tests.lab.kernel import Kernel, decompressed

VMM = Path(__file__).parent / "vmm.c"
VMX = Path(__file__).parent / "vmx.h"  # of it, the part for Intel
LINUX = Path(__file__).parent / "linux.c"
INIT = Path(__file__).parent / "guest" / "init"
NESTED_INIT = Path(__file__).parent / "guest" / "nested-init"


def prepare(cache: Cache, kernel: Kernel) -> Path:
    """Return a folder with `vmm` and the archives `guest`, `nested` and `nested-linux`, made when not in the cache."""

    def make(folder: Path) -> None:
        cache.progress("guests: the small VMM, and what a real Linux starts with")
        require("busybox", "cpio", "gcc")
        warnings = ["-Wall", "-Wextra", "-Werror"]
        for name, source in (("vmm", VMM), ("linux", LINUX)):
            output(["gcc", "-O2", "-static", *warnings, "-o", folder / name, source], cure="libc6-dev has the headers")
        boot.archive(folder / "guest.cpio", {"init": INIT})
        nested: dict[str, Path | bytes] = {
            "init": NESTED_INIT,
            "bin/vmm": folder / "vmm",
            **boot.modules(kernel, ("kvm_amd",)),
        }
        boot.archive(folder / "nested.cpio", nested)
        with_linux: dict[str, Path | bytes] = {
            "bin/linux": folder / "linux",
            "vmlinux": decompressed(kernel.vmlinuz),
            "guest.cpio": folder / "guest.cpio",
        }
        boot.archive(folder / "nested-linux.cpio", nested | with_linux)

    inputs: list[Input] = [kernel.version, VMM, VMX, LINUX, INIT, NESTED_INIT, Path(boot.__file__), Path(__file__)]
    return cache.artifact(f"programs-{kernel.host.name}", inputs, make)
