# SPDX-License-Identifier: Apache-2.0
"""The unit tier on the other Debian release: a root of 13 on 12, of 12 on 13, with nothing set up."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from ast import literal_eval
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.lab.command import output
from tests.lab.debian import _options, sources

CHECKOUT = Path(__file__).parents[2]
#: This machine's release -> the other one.
OTHERS = {"bookworm": "trixie", "trixie": "bookworm"}
#: What one has before the first `make`, which installs the rest.
PACKAGES = "ca-certificates,make,python3"
LAST_LINES = 60
HOUR = 3600.0


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The other release as debootstrap would install it, and this checkout in its /src; removed at the end."""
    if os.geteuid() != 0:
        pytest.skip("root is missing, to make a root of another release")
    release = OTHERS[platform.freedesktop_os_release()["VERSION_CODENAME"]]
    root, listing, options = (tmp_path / name for name in ("root", "sources.list", "apt.conf"))
    listing.write_text(sources([release, f"{release}-updates", f"{release}-security"]))
    options.write_text(_options())
    try:
        what = ["--variant=minbase", f"--include={PACKAGES}", f"--aptopt={options}"]
        output(["mmdebstrap", "--quiet", *what, release, root, listing])
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        for name in output(["git", "ls-files", "-co", "--exclude-standard"], cwd=CHECKOUT).splitlines():
            (root / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(CHECKOUT / name, root / "src" / name)
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def pip_settings() -> Mapping[str, str]:
    """How this machine's pip reaches its registry, as variables of the environment."""
    listed = output([sys.executable, "-m", "pip", "config", "list"])
    pairs = [line.partition("=")[::2] for line in listed.splitlines()]
    return {f"PIP_{name.rpartition('.')[2].replace('-', '_').upper()}": literal_eval(value) for name, value in pairs}


def make(root: Path, target: str) -> tuple[int, str]:
    """Make it in the root's /src, with processes and mounts of its own; its exit status and what it said."""
    settings = pip_settings()
    mounts = ["mount --rbind /dev dev"]
    # Certificates, constraints, folders with packages, and indexes, which refer to files beside them.
    for word in " ".join(settings.values()).split():
        path = Path(word.removeprefix("file://"))
        if not path.is_absolute():
            continue
        path = path.parent if word.startswith("file://") else path
        inside = root / path.relative_to("/")
        if path.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
            mounts.append(f"mount --bind {path} {inside}")
        elif path.is_file():
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, inside)
    script = " && ".join([*mounts, f"exec chroot . make -C /src {target}"])
    given = {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    done = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={root}/proc", "sh", "-c", script],
        cwd=root,
        env={"PATH": os.defpath + ":/usr/sbin:/sbin", "HOME": "/root", "LANG": "C.UTF-8", **given, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HOUR,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.soak
def test_the_unit_tier_passes_on_the_other_release(root: Path) -> None:
    """From a first `make`, which installs what it needs."""
    status, said = make(root, "unit")
    assert status == 0, "\n".join(["the unit tier failed:", *said.splitlines()[-LAST_LINES:]])
