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
from tests.lab.archive import FLAVOUR, KernelSet
from tests.lab.cache import Cache, Input
from tests.lab.command import PATH, output
from tests.lab.errors import LabError
from tests.lab.hosts import HOSTS, Host, Kvm, Sources
from tests.lab.kernel import Kernel, decompressed

MODULES = ("kvm.ko", "kvm-amd.ko", "kvm-intel.ko")

# What modules_prepare, KVM and the patches read of the kernel's source: less than a tenth of it.
FILES = """
    Documentation/admin-guide/kernel-parameters.txt Documentation/virt/kvm Kbuild Makefile */Kconfig* arch/x86 certs
    kernel/*.h kernel/bounds.c kernel/sched kernel/time/timeconst.bc rust scripts security tools/Makefile tools/arch
    tools/bpf tools/build tools/include tools/lib tools/objtool tools/scripts tools/testing/selftests/kvm usr virt
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


def check(host: Host, kvm: Kvm = "patched") -> Sources:
    """Return what this KVM of the host's is built from; LabError when there is no such KVM."""
    if host.sources and host.patches(kvm):
        return host.sources
    others = " or ".join(other.name for other in HOSTS.values() if other.patches(kvm))
    raise LabError(f"there is no {kvm} KVM for host {host.name}: take its stock KVM, or host {others}")


def source_kind(host: Host) -> str:
    """Return the kind of artifact that the sources of the host's kernels are."""
    return f"source-{host.name}"


def source(cache: Cache, apt: debian.Apt, host: Host, packages: KernelSet) -> Path:
    """Return a folder with FILES of the kernel's source, fetched and unpacked when they are not in the cache."""
    name = check(host).package

    def unpack(folder: Path) -> None:
        cache.progress(f"patched KVM: {name} {packages.source[name]}")
        unpack_source(apt, folder, name, packages.source[name], FILES)

    inputs: list[Input] = [name, packages.source[name], FILES, Path(debian.__file__)]
    return cache.artifact(source_kind(host), inputs, unpack)


def unpack_source(apt: debian.Apt, folder: Path, name: str, version: str, files: str) -> None:
    """Unpack these files of a version of linux-source-… into an empty folder; they may be patterns."""
    package = folder / "package"
    apt.unpack(package, {name: version})
    members = [member if member.startswith("*") else f"{name}/{member}" for member in files.split()]
    archive = package / f"usr/src/{name}.tar.xz"
    output(["tar", "-xf", archive, "-C", folder, "--strip-components=1", "--wildcards", *members])
    shutil.rmtree(package)


def apply(patches: list[Path], tree: Path, what: str) -> None:
    """Apply patches to a tree of what is named; all of their context has to be there."""
    for patch in patches:
        cure = f"bring {patch.name} up to date with {what}"
        output(["patch", "-p1", "-s", "-F0", "-d", tree, "-i", patch], cure=cure)


def prepare(cache: Cache, kernel: Kernel, source: Path, kvm: Kvm) -> Path:
    """Return a folder with this KVM's MODULES, built from the kernel's source when they are not in the cache."""
    host = kernel.host
    sources = check(host, kvm)
    patches = host.patches(kvm)

    def build(folder: Path) -> None:
        cache.progress(f"{kvm} KVM: {len(patches)} patches")
        work = folder / "tree"
        shutil.copytree(source, work, symlinks=True)
        _adapt(work, kernel)
        apply(patches, work, f"{sources.package} {kernel.packages.source[sources.package]}")
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
                raise LabError(f"the {kvm} {name} has no BTF: is Debian's own pahole the first on PATH?")
        shutil.rmtree(work)

    inputs: list[Input] = [*kernel.packages.binaries, source.name, *patches, Path(__file__)]
    return cache.artifact(f"kvm-{host.name}-{kvm}", inputs, build)


def _adapt(tree: Path, kernel: Kernel) -> None:
    """Give a source tree what makes its modules fit the kernel."""
    headers = kernel.headers / f"usr/src/linux-headers-{kernel.release}"
    common = headers.with_name(headers.name.replace(f"-{FLAVOUR}", "-common"))
    for name in ("include", "arch/x86/include"):
        shutil.rmtree(tree / name, ignore_errors=True)
        shutil.copytree(common / name, tree / name, symlinks=True)
    for name in (".config", "Module.symvers"):
        shutil.copy(headers / name, tree)
    # The modules' BTF builds upon that of the running kernel.
    (tree / "vmlinux").write_bytes(decompressed(kernel.vmlinuz))


def _build_elsewhere(cache: Cache, host: Host, sources: Sources, folder: Path) -> None:
    """Build in the tree of the folder with the tools of the host's Debian release."""
    tools = sorted({sources.compiler, "libc6-dev", *TOOLS.values(), *HEADERS.values()})
    quoted = shlex.quote(str(folder))
    # objtool of 7.x reads /proc/self/maps; what is mounted in a namespace goes with it.
    build = 'mount --rbind /proc "$0/proc" && TMPDIR=/tmp exec chroot "$0" sh /tree/build.sh'
    hooks = [
        f"copy-in {quoted}/tree /",
        f"""unshare --mount sh -c '{build}' "$1\"""",
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
