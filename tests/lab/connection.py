# SPDX-License-Identifier: Apache-2.0
"""One ssh connection to the lab, shared by every command and forwarded port."""

import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.lab.command import require, tail
from tests.lab.errors import LabError
from tests.lab.image import Image

CONFIG = """\
Host lab
  HostName 127.0.0.1
  Port {port}
  User root
  IdentityFile "{key}"
  IdentitiesOnly yes
  HostKeyAlias shadowwatch-lab
  UserKnownHostsFile "{known_hosts}"
  StrictHostKeyChecking yes
  ControlPath "{socket}"
  ServerAliveInterval {alive_seconds}
  ServerAliveCountMax {alive_most}
  LogLevel ERROR
  ProxyCommand false
"""

#: Nobody else connects to the lab: a command whose master is gone would wait for a greeting that may never come.
MASTER = ["-o", "ProxyCommand=none", "-M", "-N", "-n"]

#: A machine that does not answer so many times in a row hangs.
ALIVE_SECONDS, ALIVE_MOST = 5, 8

Command = str | Sequence[str]


class Connection:
    """The master connection; close() ends it and all that goes over it."""

    def __init__(self, run: Path, port: int, image: Image) -> None:
        require("ssh")
        config = run / "ssh_config"
        socket_path = run / "ssh"
        config.write_text(
            CONFIG.format(
                port=port,
                key=image.key,
                known_hosts=image.known_hosts,
                socket=socket_path,
                alive_seconds=ALIVE_SECONDS,
                alive_most=ALIVE_MOST,
            )
        )
        log = run / "ssh.log"
        self.arguments = ["ssh", "-F", str(config)]
        self._started: list[subprocess.Popen[str]] = []
        # ssh runs the local command once it is through, which is what the line below waits for.
        announce = ["-o", "PermitLocalCommand=yes", "-o", "LocalCommand=echo connected"]
        self._master = subprocess.Popen(
            ["setpriv", "--pdeathsig=TERM", *self.arguments, "-E", str(log), *MASTER, *announce, "lab"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        if not (self._master.stdout and self._master.stdout.readline()):
            self.close()
            raise LabError(f"ssh did not get into the lab: {log.read_text().strip()}")

    def ended_within(self, seconds: float) -> bool:
        """Return whether the machine does not answer any more, or stops to in this time."""
        try:
            self._master.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def run(self, command: Command, stdin: str | None, timeout: float) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            [*self.arguments, "lab", _line(command)],
            stdin=subprocess.DEVNULL if stdin is None else None,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def popen(self, command: Command, stderr: int | None) -> subprocess.Popen[str]:
        """Start a command with pipes to its standard input and output."""
        process = subprocess.Popen(
            [*self.arguments, "lab", _line(command)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            bufsize=1,
            errors="replace",
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def interact(self, command: Command | None) -> int:
        """Connect our own input and output to a command in the lab, or to a shell; return its exit status."""
        return subprocess.call([*self.arguments, "lab", *([_line(command)] if command else [])])

    def forward(self, remote: int, local: int) -> int:
        """Make the lab's loopback port reachable here; local port 0 chooses a free one."""
        wanted = local or free_port()
        self._forward(f"127.0.0.1:{wanted}", f"127.0.0.1:{remote}")
        return wanted

    def forward_socket(self, remote: str, local: Path) -> None:
        """Make a socket of the lab reachable as a file here."""
        self._forward(str(local), remote)

    def _forward(self, local: str, remote: str) -> None:
        asked = [*self.arguments, "-O", "forward", "-L", f"{local}:{remote}", "lab"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LabError(f"{local} cannot lead to the lab's {remote}: {tail(done.stderr)}; ask for another")

    def close(self) -> None:
        """End the connection and wait for what went over it."""
        for process in [self._master, *self._started]:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    with suppress(OSError):  # what was still to be written finds nobody
                        pipe.close()


def wait_for_server(port: int, alive: Callable[[], bool], seconds: float) -> bool:
    """Return whether an ssh server greeted on this port before the time was up, or its machine was given up."""
    deadline = time.monotonic() + seconds
    while alive() and time.monotonic() < deadline:
        # QEMU takes the connection at once and drops it while nobody listens in the lab.
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
            if probe.recv(4) == b"SSH-":
                return True
        time.sleep(0.1)
    return False


def free_port() -> int:
    """Return a port of this machine's loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _line(command: Command) -> str:
    return command if isinstance(command, str) else shlex.join(command)
