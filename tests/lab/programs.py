# SPDX-License-Identifier: Apache-2.0
"""What runs in the lab's guests: the small VMM, and the initramfs of a real Linux."""

from pathlib import Path

from tests.lab import boot
from tests.lab.cache import Cache
from tests.lab.command import output, require

VMM = Path(__file__).parent / "vmm.c"
INIT = Path(__file__).parent / "guest" / "init"


def prepare(cache: Cache) -> Path:
    """Return a folder with `vmm` and `guest.cpio`, made when it is not in the cache."""

    def make(folder: Path) -> None:
        cache.progress("guests: the small VMM, and an initramfs for a real Linux")
        require("busybox", "cpio", "gcc")
        warnings = ["-Wall", "-Wextra", "-Werror"]
        output(["gcc", "-O2", "-static", *warnings, "-o", folder / "vmm", VMM], cure="libc6-dev has the headers")
        boot.archive(folder / "guest.cpio", {"init": INIT})

    return cache.artifact("programs", [VMM, INIT, Path(boot.__file__), Path(__file__)], make)
