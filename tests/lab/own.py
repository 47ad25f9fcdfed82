# SPDX-License-Identifier: Apache-2.0
"""A kernel of one's own in the place of Debian's: patches/README.md tells how to build one that looks after its locks.

All that the machine needs before its root file system is there has to be in vmlinux.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

from tests.lab.boot import INIT, Boot, archive
from tests.lab.cache import Cache
from tests.lab.command import output
from tests.lab.errors import LabError
from tests.lab.parts import Parts

#: Names a source tree in which `make vmlinux modules` is done.
VARIABLE = "SHADOWWATCH_LAB_TREE"
#: How many times as long the machine may take for all that it does: lockdep looks at each lock.
SLOWNESS = 6 if VARIABLE in os.environ else 1
#: Of the initramfs: what it copies into the root file system.
EXTRA = "extra"


def kernel_of_a_tree(cache: Cache, parts: Parts) -> Parts:
    """Return these parts with the kernel and KVM of the tree that VARIABLE names, if it is of the host's series."""
    if VARIABLE not in os.environ:
        return parts
    tree = Path(os.environ[VARIABLE])
    named = tree / "include/config/kernel.release"
    if not (tree / "vmlinux").exists() or not named.exists():
        raise LabError(f"${VARIABLE} is {tree}, in which no kernel was built: make vmlinux modules there")
    release = named.read_text().strip()
    if not release.startswith(parts.kernel.host.series):
        return parts

    def make(folder: Path) -> None:
        cache.progress(f"kernel: {release} of {tree}")
        output(["objcopy", "--strip-debug", tree / "vmlinux", folder / "vmlinux"])
        into = ["INSTALL_MOD_STRIP=1", f"INSTALL_MOD_PATH={folder}"]
        output(["make", "-s", "-C", tree, *into, "modules_install"])
        library = folder / "lib/modules" / release
        files: dict[str, Path | bytes] = {
            f"{EXTRA}/usr/{path.relative_to(folder)}": path for path in library.rglob("*") if path.is_file()
        }
        # What bcc reads of the headers does not depend on the configuration.
        modules = f"/{EXTRA}/usr/lib/modules/{release}"
        link = f"ln -s ../{parts.kernel.release}/build ../{parts.kernel.release}/source {modules}\n"
        init = INIT.read_text().replace("mount --move", f"{link}cp -a /{EXTRA}/. /root\nmount --move")
        (folder / "init").write_text(init)
        (folder / "init").chmod(0o755)
        archive(folder / "initramfs.cpio", {"init": folder / "init", "modules/order": b"", **files}, ("root",))
        (folder / "kvm").mkdir()
        for path in library.rglob("kvm*.ko"):
            shutil.copy(path, folder / "kvm")

    folder = cache.artifact("own", [tree / "vmlinux", *sorted(tree.rglob("*.ko")), INIT, Path(__file__)], make)
    return replace(
        parts,
        kernel=replace(parts.kernel, packages=replace(parts.kernel.packages, release=release)),
        boot=Boot(folder / "vmlinux", folder / "initramfs.cpio"),
        patched=folder / "kvm" if parts.patched else None,
    )
