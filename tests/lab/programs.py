# SPDX-License-Identifier: Apache-2.0
"""What runs in the lab's guests: the small VMM, and an initramfs of a real Linux, and one of a KVM host."""

from pathlib import Path

from tests.lab import boot
from tests.lab.cache import Cache, Input
from tests.lab.command import output, require
from tests.lab.kernel import Kernel

VMM = Path(__file__).parent / "vmm.c"
VMX = Path(__file__).parent / "vmx.h"  # of it, the part for Intel
INIT = Path(__file__).parent / "guest" / "init"
NESTED_INIT = Path(__file__).parent / "guest" / "nested-init"


def prepare(cache: Cache, kernel: Kernel) -> Path:
    """Return a folder with `vmm`, `guest.cpio` and `nested.cpio`, made when it is not in the cache."""

    def make(folder: Path) -> None:
        cache.progress("guests: the small VMM, and what a real Linux starts with")
        require("busybox", "cpio", "gcc")
        warnings = ["-Wall", "-Wextra", "-Werror"]
        output(["gcc", "-O2", "-static", *warnings, "-o", folder / "vmm", VMM], cure="libc6-dev has the headers")
        boot.archive(folder / "guest.cpio", {"init": INIT})
        nested: dict[str, Path | bytes] = {
            "init": NESTED_INIT,
            "bin/vmm": folder / "vmm",
            **boot.modules(kernel, ("kvm_amd", "virtio_pci", "9p", "9pnet_virtio")),
        }
        boot.archive(folder / "nested.cpio", nested)

    inputs: list[Input] = [kernel.version, VMM, VMX, INIT, NESTED_INIT, Path(boot.__file__), Path(__file__)]
    return cache.artifact(f"programs-{kernel.host.name}", inputs, make)
