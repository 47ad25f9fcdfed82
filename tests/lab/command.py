# SPDX-License-Identifier: Apache-2.0
"""Running this machine's own tools."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.lab.errors import LabError

# Debian's package for each tool the lab runs on this machine.
PACKAGES = {
    "apt-get": "apt",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "gcc": "gcc",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "modprobe": "kmod",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "zstd": "zstd",
}
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def require(*tools: str) -> None:
    """Raise LabError naming the packages of those tools that this machine lacks."""
    missing = sorted({PACKAGES[tool] for tool in tools if shutil.which(tool, path=PATH) is None})
    if missing:
        raise LabError(f"this machine lacks tools of the lab: apt-get install {' '.join(missing)}")


def output(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    cure: str = "",
) -> str:
    """Return what a tool printed; its failure becomes one line with the tool's last words."""
    done = subprocess.run(
        command,
        cwd=cwd,
        input=stdin,
        env={**os.environ, "LC_ALL": "C", "PATH": PATH, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = tail(done.stderr or done.stdout)
        raise LabError(f"{command[0]} exited {done.returncode}: {said}{cure and f'; {cure}'}")
    return done.stdout


def tail(text: str, lines: int = 5) -> str:
    """Return the last lines that are not blank, on one line."""
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:]) or "no output"
