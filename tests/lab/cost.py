# SPDX-License-Identifier: Apache-2.0
"""`shadowwatch cost` in the lab, from the moment that it measures to when it is told to stop."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

from tests.lab.errors import LabError
from tests.lab.lines import line_within
from tests.lab.machine import Lab

#: To compile and attach.
START_SECONDS = 120.0


def measured(lab: Lab, meanwhile: Callable[[], object], *words: str) -> dict[str, Any]:
    """What it says of the time in which this was done."""
    process = lab.popen(f"exec shadowwatch cost --json --seconds 600 {' '.join(words)}", stderr=subprocess.PIPE)
    said = line_within(START_SECONDS, process, process.stderr)
    if "measuring for 600 s" not in said:
        raise LabError(f"shadowwatch cost did not begin: {said}{process.communicate(timeout=START_SECONDS)[1]}")
    meanwhile()
    lab.run("pkill -INT -f 'shadowwatch cost'")
    out, errors = process.communicate(timeout=START_SECONDS)
    if process.returncode or errors:
        raise LabError(f"shadowwatch cost exited {process.returncode}: {errors}")
    found: dict[str, Any] = json.loads(out)
    if found["missed"]:
        raise LabError(f"shadowwatch cost could not time {found['missed']} page faults")
    return found
