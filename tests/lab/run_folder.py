# SPDX-License-Identifier: Apache-2.0
"""The folder of one run, which goes when the run ends, by whatever it ends: kill -9 of it, too."""

import subprocess
import tempfile
from pathlib import Path

PREFIX = "shadowwatch-lab-"
#: It reads until the pipe's other end is closed, which the kernel does for a process that was killed. What that process
#: had started ends as well, and may write until then.
REMOVE = 'read -r _; until rm -rf -- "$0"; do sleep 0.1; done'


class RunFolder:
    """A temporary folder for as long as this process lives, or until remove()."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._remover = subprocess.Popen(
            ["sh", "-c", REMOVE, str(self.path)],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the keyboard is not for it
        )

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        self._remover.communicate()
