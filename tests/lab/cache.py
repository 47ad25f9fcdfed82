# SPDX-License-Identifier: Apache-2.0
"""Where the lab keeps what takes long to make.

An artifact is a folder named after its kind and a hash of what it was made from. It is made under another name and
renamed when it is whole, so what an interrupted build left behind is never taken for a good one.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

Progress = Callable[[str], None]
Input = str | Path
KEY_LENGTH = 12


class Cache:
    """A folder of artifacts, shared by everything of the user that runs a lab."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.progress = progress
        root.mkdir(parents=True, exist_ok=True)

    def artifact(self, kind: str, inputs: Sequence[Input], make: Callable[[Path], None]) -> Path:
        """Return the artifact of these inputs; `make` fills an empty folder when there is none yet."""
        whole = self.root / f"{kind}-{_key(inputs)}"
        if whole.exists():
            return whole
        with self.locked(kind):
            if not whole.exists():  # else another build made it while this one waited
                making = whole.with_name(f"{whole.name}.making")
                shutil.rmtree(making, ignore_errors=True)
                making.mkdir()
                make(making)
                making.rename(whole)
                self._remove_others(kind, whole)
        return whole

    @contextmanager
    def locked(self, kind: str) -> Iterator[None]:
        """Keep other builds of this kind out."""
        with (self.root / f"{kind}.lock").open("w") as lock:
            self._take(lock.fileno(), kind)
            yield

    def _take(self, lock: int, kind: str) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.progress(f"{kind}: waiting for another build of it")
            fcntl.flock(lock, fcntl.LOCK_EX)

    def _remove_others(self, kind: str, whole: Path) -> None:
        for stale in self.root.glob(f"{kind}-{'[0-9a-f]' * KEY_LENGTH}*"):
            if stale != whole:
                shutil.rmtree(stale)


def default_root() -> Path:
    """Return the lab's folder below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "shadowwatch", "lab")


def _key(inputs: Sequence[Input]) -> str:
    digest = hashlib.sha256()
    for given in inputs:
        for part in _parts(given):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:KEY_LENGTH]


def _parts(given: Input) -> Iterator[bytes]:
    """Yield a string as it is, and of a file or a folder of files what a copy of it would keep."""
    if isinstance(given, str):
        yield given.encode()
        return
    for path in sorted([given, *given.rglob("*")]):
        if path.is_file():
            yield str(path.relative_to(given)).encode()
            yield b"x" if os.access(path, os.X_OK) else b"-"
            yield path.read_bytes()
