# SPDX-License-Identifier: Apache-2.0
"""The folder of one run, which goes with it: at its end, or when another run finds that its owner is dead."""

import fcntl
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

PREFIX = "shadowwatch-lab-"


class RunFolder:
    """A temporary folder that is this process's for as long as it holds the lock in it."""

    def __init__(self) -> None:
        _remove_abandoned()
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = self.path / "lock"
        self._owner = lock.open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        lock.rename(self.path / "owner")  # nobody finds it before it is locked

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._owner.close()


def _remove_abandoned() -> None:
    """Remove what runs that were killed have left."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/owner"):
        with suppress(OSError), lock.open() as owner:  # it is in use, or another user's, or gone meanwhile
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent)
