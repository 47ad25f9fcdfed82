# SPDX-License-Identifier: Apache-2.0
"""Reading what a process says, without waiting for ever."""

import subprocess
import threading
from queue import Empty, SimpleQueue
from typing import IO


def line_within(seconds: float, process: subprocess.Popen[str], stream: IO[str] | None) -> str:
    """Return the next line of a process's output; it is empty when the process ends, or is ended for being late.

    Its end alone would not do: the master connection holds the pipes of what runs over it for as long as that runs.
    """
    if not stream:
        return ""
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=lambda: lines.put(stream.readline()), daemon=True).start()
    try:
        return lines.get(timeout=seconds)
    except Empty:
        process.kill()
        return ""
