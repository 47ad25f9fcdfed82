# SPDX-License-Identifier: Apache-2.0
"""Reading what a process says, without waiting for ever."""

import subprocess
import threading
from typing import IO


def line_within(seconds: float, process: subprocess.Popen[str], stream: IO[str] | None) -> str:
    """Return the next line of a process's output; it is empty when the process ends, or is ended for being late."""
    late = threading.Timer(seconds, process.kill)
    late.start()
    try:
        return stream.readline() if stream else ""
    finally:
        late.cancel()
