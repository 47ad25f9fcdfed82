# SPDX-License-Identifier: Apache-2.0
"""Debian 12's kernel for the lab: the stock packages, and a KVM with the project's patches.

Only the modules of KVM are rebuilt. Their tree gets the distribution's own configuration, symbol versions and type
information (BTF), so they load into the distribution's kernel. The packages come from wherever apt is told to look.
"""

import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from os import sched_getaffinity
from pathlib import Path

from tests.lab.cache import Cache, Progress, default_root
from tests.lab.command import PATH, output
from tests.lab.errors import LabError

PATCHES = Path(__file__).resolve().parents[2] / "patches" / "linux-6.1"
MODULES = ("kvm.ko", "kvm-amd.ko", "kvm-intel.ko")

# What modules_prepare, KVM and the patches read of the kernel's source: less than a tenth of it.
SOURCES = """
    Documentation/admin-guide/kernel-parameters.txt Documentation/virt/kvm Kbuild Makefile */Kconfig* arch/x86 certs
    include kernel/bounds.c kernel/time/timeconst.bc rust scripts security tools/Makefile tools/arch tools/bpf
    tools/build tools/include tools/lib tools/objtool tools/scripts usr virt
"""

# Debian's package for each host tool and header that a kernel build asks for.
TOOLS = {
    "bc": "bc",
    "bison": "bison",
    "depmod": "kmod",
    "flex": "flex",
    "gcc-12": "gcc-12",
    "make": "make",
    "objcopy": "binutils",
    "pahole": "dwarves",
    "patch": "patch",
    "perl": "perl",
    "xz": "xz-utils",
}
HEADERS = {"gelf.h": "libelf-dev", "openssl/evp.h": "libssl-dev"}


@dataclass(frozen=True)
class Kernel:
    """One kernel release, as the lab boots it."""

    release: str
    vmlinuz: Path
    modules: Path  # lib/modules/<release> of the stock image, with modules.dep
    headers: Path  # to copy into a root file system as it is: what bcc compiles against
    patched: Path  # kvm.ko, kvm-amd.ko and kvm-intel.ko with the project's patches


def prepare(root: Path, progress: Progress) -> Kernel:
    """Return Debian 12's current kernel; what is not below `root` yet is made there."""
    _require_tools()
    cache = Cache(root.resolve(), progress)
    release, version = _current()

    def unpack(folder: Path) -> None:
        progress(f"kernel: the packages of {release}")
        common = f"linux-headers-{release.removesuffix('-amd64')}-common"
        _download(folder / "image", version, [f"linux-image-{release}"])
        _download(folder / "headers", version, [f"linux-headers-{release}", common, "linux-kbuild-6.1"])
        shutil.rmtree(folder / "headers/usr/share")
        output(["depmod", "-b", folder / "image", release])

    packages = cache.artifact("kernel", [version, Path(__file__)], unpack)
    image = packages / "image"
    vmlinuz = image / f"boot/vmlinuz-{release}"

    def configure(folder: Path) -> None:
        progress("kernel: a tree to build modules in")
        source = folder.with_suffix(".source")
        _download(source, version, ["linux-source-6.1"])
        members = [name if name.startswith("*") else f"linux-source-6.1/{name}" for name in SOURCES.split()]
        archive = source / "usr/src/linux-source-6.1.tar.xz"
        output(["tar", "-xf", archive, "-C", folder, "--strip-components=1", "--wildcards", *members])
        shutil.rmtree(source)
        for name in (".config", "Module.symvers"):
            shutil.copy(packages / f"headers/usr/src/linux-headers-{release}" / name, folder)
        # The modules' BTF builds upon that of the running kernel.
        output(["sh", "-c", 'sh scripts/extract-vmlinux "$0" >vmlinux', vmlinuz], cwd=folder)
        _make(folder, release, ["olddefconfig", "modules_prepare"])

    tree = cache.artifact("kbuild", [version, Path(__file__)], configure)
    patches = sorted(PATCHES.glob("000[1-9]-*.patch"))

    def build(folder: Path) -> None:
        progress(f"kernel: KVM with {len(patches)} patches")
        work = folder.with_suffix(".tree")
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(tree, work, symlinks=True)
        for patch in patches:
            cure = f"bring {patch.name} up to date with linux-source-6.1 {version}"
            output(["patch", "-p1", "-s", "-F0", "-d", work, "-i", patch], cure=cure)
        _make(work, release, ["M=arch/x86/kvm", "modules"])
        for name in MODULES:
            output(["objcopy", "--strip-debug", work / "arch/x86/kvm" / name, folder / name])
            if " .BTF " not in output(["readelf", "-SW", folder / name]):
                raise LabError(f"the patched {name} has no BTF: is Debian 12's own pahole the first on PATH?")
        shutil.rmtree(work)

    return Kernel(
        release=release,
        vmlinuz=vmlinuz,
        modules=image / "lib/modules" / release,
        headers=packages / "headers",
        patched=cache.artifact("kvm", [tree.name, *patches], build),
    )


def _current() -> tuple[str, str]:
    """Return release and package version of the kernel that apt would install."""
    shown = output(["apt-cache", "show", "--no-all-versions", "linux-image-amd64"], cure="apt-get update")
    image = re.search(r"^Depends:.*\blinux-image-(6\.1\.\S+-amd64)\b", shown, re.MULTILINE)
    version = re.search(r"^Version: (\S+)", shown, re.MULTILINE)
    if not image or not version:
        raise LabError("apt offers no Linux 6.1: the lab needs the package sources of Debian 12 (bookworm), amd64")
    return image[1], version[1]


def _download(folder: Path, version: str, names: Sequence[str]) -> None:
    """Unpack these packages into a folder."""
    folder.mkdir(exist_ok=True)
    output(["apt-get", "download", *(f"{name}={version}" for name in names)], cwd=folder, cure="apt-get update")
    for package in folder.glob("*.deb"):
        output(["dpkg-deb", "-x", package, folder])
        package.unlink()


def _make(tree: Path, release: str, goals: Sequence[str]) -> None:
    jobs = len(sched_getaffinity(0))
    command = shlex.join(["make", "-s", f"-j{jobs}", "CC=gcc-12", "HOSTCC=gcc-12", f"KERNELRELEASE={release}", *goals])
    # What went wrong comes long before make's own last words.
    script = f"{command} >make.log 2>&1 || {{ grep -m 1 -i error make.log >&2; exit 1; }}"
    output(["sh", "-c", script], cwd=tree, env={"MAKEFLAGS": ""}, cure=f"{tree}/make.log has the rest")


def _require_tools() -> None:
    missing = {package for tool, package in TOOLS.items() if not shutil.which(tool, path=PATH)}
    missing |= {package for header, package in HEADERS.items() if not Path("/usr/include", header).exists()}
    if missing:
        raise LabError(f"this machine cannot build kernel modules yet: apt-get install {' '.join(sorted(missing))}")


if __name__ == "__main__":
    try:
        print(prepare(default_root(), print))
    except LabError as error:
        sys.exit(f"kernel: {error}")
