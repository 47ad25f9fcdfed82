# SPDX-License-Identifier: Apache-2.0
"""KVM's own tests, from the kernel's source: built as they are, and static, so that they run in any lab."""

import shutil
from os import sched_getaffinity
from pathlib import Path

from tests.lab import debian, patched
from tests.lab.cache import Cache, Input
from tests.lab.command import output, require
from tests.lab.hosts import Kvm
from tests.lab.kernel import Kernel

FOLDER = "tools/testing/selftests/kvm"
# What the tests and the headers that they include are made of.
FILES = f"""
    Kbuild Makefile arch/x86 include scripts tools/arch tools/build tools/include tools/lib tools/scripts
    tools/testing/selftests/kselftest*.h tools/testing/selftests/*.mk tools/testing/selftests/rseq {FOLDER}
"""
# Two of the tests in 6.1 lack one each: dirty_log_test the name that an assertion has here, steal_time a header.
FLAGS = "-DTEST_ASSERT_EQ=ASSERT_EQ -include linux/stddef.h"
# All tests in 7.3 are linked with what two of them use, of other folders.
VARIABLES = ("LDFLAGS=-static -pthread -no-pie", f"EXTRA_CFLAGS={FLAGS}", "LIBCGROUP_O=", "LIBVFIO_O=", "LDLIBS=-ldl")


def prepare(cache: Cache, kernel: Kernel, kvm: Kvm = "stock", only: str = "") -> Path:
    """Return a folder with one program for each of the tests of this kernel's version, made when it is not there.

    Those that the patches of this KVM add are among them; `only` is the one test to build.
    """
    name = patched.check(kernel.host).package
    version = kernel.packages.source[name]
    patches = kernel.host.patches(kvm)

    def build(folder: Path) -> None:
        require("gcc", "make")
        tree = folder / "tree"
        tree.mkdir()
        cache.progress(f"KVM's selftests: {name} {version}")
        apt = debian.Apt(cache, kernel.host.name, debian.sources(kernel.host.kernel))
        patched.unpack_source(apt, tree, name, version, FILES)
        patched.apply(patches, tree, f"{name} {version}")
        cache.progress("KVM's selftests: building")
        make = ["make", "-s", f"-j{len(sched_getaffinity(0))}", "ARCH=x86_64"]
        output([*make, "-C", tree, "headers"])
        output([*make, "-C", tree / FOLDER, *VARIABLES, *([tree / FOLDER / only] if only else [])])
        for program in _programs(tree / FOLDER):
            output(["strip", "-o", folder / program.name, program])
        shutil.rmtree(tree)

    inputs: list[Input] = [name, version, FILES, *VARIABLES, *patches, only, Path(__file__)]
    return cache.artifact(f"selftests-{kernel.host.name}-{kvm}", inputs, build)


def _programs(folder: Path) -> list[Path]:
    found = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_mode & 0o100]
    return sorted(path for path in found if not path.suffix)
