# SPDX-License-Identifier: Apache-2.0
"""KVM with the project's patches, for a host's kernel as Debian has built it.

Only the modules of KVM are rebuilt. Their tree gets the distribution's own configuration, symbol versions and type
information (BTF), so they load into the distribution's kernel. The source may be that of another Debian revision of the
same upstream version, when the image's own is not to be had: what KVM shares with the kernel, the layout of structures
above all, is in the headers, and these are the image's own. The compiler is that of the host's Debian release: this
machine's own, if it runs the same release, and else one that is installed for the time of the build.
"""

import platform
import shlex
import shutil
from os import sched_getaffinity
from pathlib import Path

from tests.lab import debian
from tests.lab.archive import FLAVOUR
from tests.lab.cache import Cache
from tests.lab.command import PATH, output
from tests.lab.errors import LabError
from tests.lab.hosts import HOSTS, Host, Sources
from tests.lab.kernel import Kernel, decompressed, packages

MODULES = ("kvm.ko", "kvm-amd.ko", "kvm-intel.ko")

# What modules_prepare, KVM and the patches read of the kernel's source: less than a tenth of it.
FILES = """
    Documentation/admin-guide/kernel-parameters.txt Documentation/virt/kvm Kbuild Makefile */Kconfig* arch/x86 certs
    kernel/bounds.c kernel/time/timeconst.bc rust scripts security tools/Makefile tools/arch tools/bpf
    tools/build tools/include tools/lib tools/objtool tools/scripts usr virt
"""

# Debian's package for each tool and header that a kernel build asks for, besides the compiler.
TOOLS = {
    "bc": "bc",
    "bison": "bison",
    "depmod": "kmod",
    "flex": "flex",
    "make": "make",
    "objcopy": "binutils",
    "pahole": "dwarves",
    "patch": "patch",
    "perl": "perl",
    "python3": "python3",
    "xz": "xz-utils",
}
HEADERS = {"gelf.h": "libelf-dev", "openssl/evp.h": "libssl-dev"}

# What went wrong comes long before make's own last words.
SCRIPT = """\
set -e
cd "$(dirname "$0")"
make() {{
    command make -s -j{jobs} CC={compiler} HOSTCC={compiler} KERNELRELEASE={release} "$@" >make.log 2>&1 ||
        {{ grep -m 1 -i error make.log >&2; exit 1; }}
}}
unset MAKEFLAGS
make olddefconfig modules_prepare
make M=arch/x86/kvm modules
cd arch/x86/kvm
for module in {modules}; do
    objcopy --strip-debug $module
done
"""


def check(host: Host) -> Sources:
    """Return what the host's patched KVM is built from; LabError when there is no such KVM."""
    if host.sources and host.patches:
        return host.sources
    others = " or ".join(other.name for other in HOSTS.values() if other.sources and other.patches)
    raise LabError(f"there are no patches for the KVM of host {host.name}: take its stock KVM, or host {others}")


def prepare(cache: Cache, kernel: Kernel) -> Path:
    """Return a folder with MODULES for this kernel, built when they are not in the cache."""
    host = kernel.host
    sources = check(host)
    patches = host.patches

    def unpack(folder: Path) -> None:
        cache.progress(f"patched KVM: {sources.package}")
        source = folder.with_name(f"{folder.name}.source")
        packages(cache, host).unpack(source, kernel.packages.source)
        members = [name if name.startswith("*") else f"{sources.package}/{name}" for name in FILES.split()]
        archive = source / f"usr/src/{sources.package}.tar.xz"
        output(["tar", "-xf", archive, "-C", folder, "--strip-components=1", "--wildcards", *members])
        shutil.rmtree(source)
        headers = kernel.headers / f"usr/src/linux-headers-{kernel.release}"
        common = headers.with_name(headers.name.replace(f"-{FLAVOUR}", "-common"))
        for name in ("include", "arch/x86/include"):
            shutil.rmtree(folder / name, ignore_errors=True)
            shutil.copytree(common / name, folder / name, symlinks=True)
        for name in (".config", "Module.symvers"):
            shutil.copy(headers / name, folder)
        # The modules' BTF builds upon that of the running kernel.
        (folder / "vmlinux").write_bytes(decompressed(kernel.vmlinuz))

    tree = cache.artifact(f"source-{host.name}", [*kernel.packages.everything, Path(__file__)], unpack)

    def build(folder: Path) -> None:
        cache.progress(f"patched KVM: {len(patches)} patches")
        work = folder / "tree"
        shutil.copytree(tree, work, symlinks=True)
        for patch in patches:
            cure = f"bring {patch.name} up to date with {sources.package} {kernel.version}"
            output(["patch", "-p1", "-s", "-F0", "-d", work, "-i", patch], cure=cure)
        jobs, modules = len(sched_getaffinity(0)), " ".join(MODULES)
        script = work / "build.sh"
        script.write_text(SCRIPT.format(jobs=jobs, compiler=sources.compiler, release=kernel.release, modules=modules))
        if platform.freedesktop_os_release().get("VERSION_CODENAME") == host.userland[0]:
            _require_tools(sources)
            output(["sh", script], cure=f"{work}/make.log has the rest")
            for name in MODULES:
                shutil.copy(work / "arch/x86/kvm" / name, folder)
        else:
            _build_elsewhere(cache, host, sources, folder)
        for name in MODULES:
            if " .BTF " not in output(["readelf", "-SW", folder / name]):
                raise LabError(f"the patched {name} has no BTF: is Debian's own pahole the first on PATH?")
        shutil.rmtree(work)

    return cache.artifact(f"kvm-{host.name}", [tree.name, *patches], build)


def _build_elsewhere(cache: Cache, host: Host, sources: Sources, folder: Path) -> None:
    """Build in the tree of the folder with the tools of the host's Debian release."""
    tools = sorted({sources.compiler, "libc6-dev", *TOOLS.values(), *HEADERS.values()})
    quoted = shlex.quote(str(folder))
    hooks = [
        f"copy-in {quoted}/tree /",
        'env TMPDIR=/tmp chroot "$1" sh /tree/build.sh',
        f"copy-out {' '.join(f'/tree/arch/x86/kvm/{name}' for name in MODULES)} {quoted}",
    ]
    debian.bootstrap(cache, f"{sources.compiler} of {host.userland[0]}", host.userland, tools, hooks)


def _require_tools(sources: Sources) -> None:
    missing = {package for tool, package in TOOLS.items() if not shutil.which(tool, path=PATH)}
    missing |= {package for header, package in HEADERS.items() if not Path("/usr/include", header).exists()}
    if not shutil.which(sources.compiler):
        missing.add(sources.compiler)
    if missing:
        raise LabError(f"this machine cannot build kernel modules yet: apt-get install {' '.join(sorted(missing))}")
