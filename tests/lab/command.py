# SPDX-License-Identifier: Apache-2.0
"""Running this machine's own tools."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.lab.errors import LabError

# Debian's package for each tool the lab runs on this machine.
PACKAGES = {
    "apt-get": "apt",
    "busybox": "busybox-static",
    "cpio": "cpio",
    "gcc": "gcc",
    "make": "make",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "modprobe": "kmod",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "zstd": "zstd",
}
T = TypeVar("T")
_running: set[subprocess.Popen[str]] = set()
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
    pipe = subprocess.PIPE
    environment = {**os.environ, "LC_ALL": "C", "PATH": PATH, **(env or {})}
    with child(
        command, cwd=cwd, stdin=subprocess.DEVNULL if stdin is None else pipe, stdout=pipe, stderr=pipe, env=environment
    ) as run:
        out, err = run.communicate(stdin)
    if run.returncode:
        said = tail(err or out)
        raise LabError(f"{command[0]} exited {run.returncode}: {said}{cure and f'; {cure}'}")
    return out


@contextmanager
def child(command: Sequence[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """Start a tool that is waited for at the end, or ended with all that it has started when this is interrupted."""
    with subprocess.Popen(command, text=True, start_new_session=True, **options) as run:
        _running.add(run)
        try:
            yield run
        except BaseException:
            _kill(run)
            raise
        finally:
            _running.discard(run)


@contextmanager
def beside(work: Callable[[], T]) -> Iterator[Future[T]]:
    """Do this work in a thread while the block runs; an error in the block ends the work's tools, and so the work."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        try:
            yield future
        except BaseException:
            while not future.done():  # it may be about to start the next one
                for run in list(_running):
                    _kill(run)
                wait([future], timeout=0.1)
            raise


def _kill(run: subprocess.Popen[str]) -> None:
    """End a tool and all that it has started, if it has not ended by itself."""
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)


def tail(text: str, lines: int = 5) -> str:
    """Return the last lines that are not blank, on one line."""
    return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-lines:]) or "no output"
