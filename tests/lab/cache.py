# SPDX-License-Identifier: Apache-2.0
"""Where the lab keeps what takes long to make.

An artifact is a folder named after its kind and a hash of what it was made from. It is made under another name and
renamed when it is whole, so what an interrupted build left behind is never taken for a good one.

What a whole lab consists of is written down beside the artifacts. It stays until there is a newer whole one, and is
what a lab is made of when an archive fails.
"""

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import ArchiveError

Progress = Callable[[str], None]
Input = str | Path
KEY_LENGTH = 12


@dataclass(frozen=True)
class Whole:
    """The artifacts that something whole was last made of, by their kinds."""

    built: float  # seconds since the epoch
    artifacts: Mapping[str, Path]


class Cache:
    """A folder of artifacts, shared by everything of the user that runs a lab."""

    def __init__(self, root: Path, progress: Progress, last: Whole | None = None) -> None:
        self.root = root
        self.progress = progress
        self.last = last  # what takes the place of artifacts that an archive keeps from being made
        self._used: dict[str, Path] = {}
        root.mkdir(parents=True, exist_ok=True)

    def artifact(self, kind: str, inputs: Sequence[Input], make: Callable[[Path], None]) -> Path:
        """Return the artifact of these inputs; `make` fills an empty folder when there is none yet."""
        whole = self.root / f"{kind}-{key(inputs)}"
        self._used[kind] = whole
        if whole.exists():
            return whole
        with self.locked(kind):
            if not whole.exists():  # else another build made it while this one waited
                making = whole.with_name(f"{whole.name}.making")
                shutil.rmtree(making, ignore_errors=True)
                making.mkdir()
                try:
                    make(making)
                except ArchiveError as error:
                    if self.last is None or kind not in self.last.artifacts:
                        raise
                    self.progress(f"{kind}: as it was, since {error.what}")
                    return self.last.artifacts[kind]
                making.rename(whole)
                self._remove_others(kind)
        return whole

    def remember(self, name: str, instead_of: str = "") -> None:
        """Write down that all artifacts asked for here make something whole, and remove those that nothing needs.

        It takes the place of what was remembered by the same name, and of what was by the other one.
        """
        before = self.whole(name)
        if before is None or before.artifacts != self._used:
            content = {"built": time.time(), "artifacts": {kind: path.name for kind, path in self._used.items()}}
            writing = self.root / f"{name}.writing"
            writing.write_text(json.dumps(content, indent=2))
            writing.rename(self.root / f"{name}.json")
        if instead_of:
            (self.root / f"{instead_of}.json").unlink(missing_ok=True)
        for kind in self._used:
            with self.locked(kind):
                self._remove_others(kind)

    def whole(self, *names: str) -> Whole | None:
        """Return what was remembered by the first of these names that is still there."""
        for name in names:
            try:
                content = json.loads((self.root / f"{name}.json").read_text())
            except (FileNotFoundError, ValueError):  # never written, or cut off by a power failure
                continue
            artifacts = {kind: self.root / folder for kind, folder in content["artifacts"].items()}
            if all(folder.exists() for folder in artifacts.values()):
                return Whole(content["built"], artifacts)
        return None

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

    def _remove_others(self, kind: str) -> None:
        needed = {self._used[kind]}
        for record in self.root.glob("*.json"):
            needed |= set(whole.artifacts.values()) if (whole := self.whole(record.stem)) else set()
        for stale in self.root.glob(f"{kind}-{'[0-9a-f]' * KEY_LENGTH}*"):
            if stale not in needed:
                shutil.rmtree(stale)


def default_root() -> Path:
    """Return the lab's folder below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "shadowwatch", "lab")


def key(inputs: Sequence[Input]) -> str:
    """Return a short name for what these are, which is another when any of them is."""
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
