# SPDX-License-Identifier: Apache-2.0
"""The patches fit the kernels of Debian's archives."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.lab.cache import Cache, default_root
from tests.lab.debian import Apt, sources
from tests.lab.hosts import HOSTS, patches_in
from tests.lab.machine import say
from tests.lab.patched import apply, check, unpack_source

#: What the patches change.
FILES = """
    Documentation/admin-guide/kernel-parameters.txt Documentation/virt/kvm arch/x86/kvm tools/testing/selftests/kvm
"""


@pytest.mark.soak
@pytest.mark.parametrize(
    ("folder", "host", "release"),
    [
        ("linux-6.1", "6.1", "6.1"),
        ("linux-6.12", "6.12", "6.12"),
        ("linux-6.12", "6.12", "6.1"),
        ("linux-7.x", "7.x", "7.x"),
        ("upstream", "7.x", "7.x"),
    ],
)
def test_patches_apply_to_every_source(folder: str, host: str, release: str, tmp_path: Path) -> None:
    """To each version of this host's kernel that the suites of this one have, by patch and by git am, without fuzz."""
    apt = Apt(Cache(default_root(), say), release, sources(HOSTS[release].kernel))
    name = check(HOSTS[host]).package
    patches = patches_in(folder)
    assert patches
    versions = list(apt.kernels()[name])
    assert versions
    for version in versions:
        say(f"{name} {version}")
        tree = tmp_path / version
        tree.mkdir()
        unpack_source(apt, tree, name, version, FILES)
        _git(tree, "init", "-q")
        _git(tree, "add", "-f", ".")
        _git(tree, "commit", "-q", "-m", version)
        apply(patches, tree, f"{name} {version}")
        _git(tree, "reset", "-q", "--hard")
        _git(tree, "clean", "-q", "-fdx")
        _git(tree, "am", "-q", *patches)
        shutil.rmtree(tree)


def _git(tree: Path, *words: str | Path) -> None:
    """Run git, as nobody in particular."""
    name = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    done = subprocess.run(["git", *name, *words], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
