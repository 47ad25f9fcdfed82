# SPDX-License-Identifier: Apache-2.0
"""The QEMU Machine Protocol over a process's standard input and output."""

import json
import subprocess
from typing import Any

from tests.lab.errors import LabError
from tests.lab.lines import line_within

# A character device of our own, since QEMU's -qmp stdio would take the terminal's signals away.
ARGUMENTS = ("-chardev", "stdio,id=qmp,signal=on", "-mon", "chardev=qmp,mode=control")
ANSWER_SECONDS = 120.0


class Qmp:
    """The control channel of one QEMU that was started with ARGUMENTS and both pipes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._receive("QMP")
        self.command("qmp_capabilities")

    def command(self, name: str, *, seconds: float = ANSWER_SECONDS, **arguments: object) -> Any:
        """Run one command and return its answer; QEMU is ended when it gives none in this time."""
        message = json.dumps({"execute": name, "arguments": arguments})
        try:
            print(message, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise LabError(f"QEMU had ended before {name!r}; its console's last lines say why") from None
        return self._receive("return", seconds)

    def monitor(self, line: str, seconds: float = ANSWER_SECONDS) -> str:
        """Return what the human monitor prints for a line."""
        return str(self.command("human-monitor-command", seconds=seconds, **{"command-line": line}))

    def _receive(self, key: str, seconds: float = ANSWER_SECONDS) -> Any:
        """Return the next message of this kind: events come in between."""
        while line := line_within(seconds, self._process, self._process.stdout):
            message = json.loads(line)
            if "error" in message:
                raise LabError(f"QEMU refused: {message['error']['desc']}")
            if key in message:
                return message[key]
        raise LabError("QEMU ended without an answer, or gave none in time; its console's last lines say why")
