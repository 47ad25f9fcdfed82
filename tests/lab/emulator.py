# SPDX-License-Identifier: Apache-2.0
"""The emulated machine: one QEMU process without hardware acceleration."""

import os
import re
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab import qmp
from tests.lab.boot import Boot
from tests.lab.command import require
from tests.lab.errors import LabError

KERNEL_ARGUMENTS = (
    *("console=ttyS0", "quiet", "loglevel=4", "net.ifnames=0", "mitigations=off"),
    # A panic ends QEMU, and a terminal on the console would wait for a device manager that is not there.
    *("panic=-1", "systemd.getty_auto=no", "systemd.show_status=no"),
)
REASON = re.compile("panic|BUG:|Oops|Out of memory|qemu-system")


@dataclass(frozen=True)
class Hardware:
    """What of the machine a test may choose."""

    memory: str = "3G"
    icount: bool = False


class Emulator:
    """A running QEMU; nothing of it is left after close(), or when this process dies."""

    def __init__(self, run: Path, hardware: Hardware, boot: Boot, disk: Path, shares: dict[str, Path]) -> None:
        require("qemu-system-x86_64", "setpriv")
        self._console = run / "console.log"
        self._errors = run / "qemu.log"
        icount = ["-icount", "shift=0"] if hardware.icount else []
        command = [
            # The kernel ends QEMU with the thread that started it, however that comes to its end.
            *("setpriv", "--pdeathsig=KILL", "qemu-system-x86_64", "-name", "shadowwatch-lab"),
            *("-accel", "tcg", *icount),
            # One processor: QEMU before 8.1 (deba78709ae8) may keep a translation of code that another processor is
            # changing, as the kernel does for each probe, and both hang then. Under 10.0 a guest's firmware hangs.
            *("-cpu", "max,+svm", "-smp", "1", "-m", hardware.memory),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", *qmp.ARGUMENTS),
            *("-serial", f"file:{self._console}"),
            *("-kernel", str(boot.vmlinux), "-initrd", str(boot.initramfs), "-append", " ".join(KERNEL_ARGUMENTS)),
            # Writes go to a file that has no name any more, so every boot begins with the image as it was made.
            *("-drive", f"file={disk},format=raw,if=virtio,snapshot=on,cache=unsafe"),
            *("-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
        ]
        for tag, path in shares.items():
            access = "" if tag == "out" else ",readonly=on"
            command += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{access}"]
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "TMPDIR": str(run)},
                start_new_session=True,  # an interrupt from the keyboard is for the tests, which then close the lab
            )
        try:
            self._qmp = qmp.Qmp(self._process)
            self.ssh_port = self._forwarded()
        except BaseException as error:
            self.close()
            if isinstance(error, LabError):
                raise LabError(f"QEMU did not start: {self.last_words()}") from None
            raise

    def running(self) -> bool:
        """Return whether the machine still runs."""
        return self._process.poll() is None

    def ended_within(self, seconds: float) -> bool:
        """Return whether the machine ends in this time."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_words(self) -> str:
        """Return what QEMU and the machine's console said last, and first of all what looks like the reason."""
        said = [path.read_text(errors="replace") for path in (self._errors, self._console) if path.exists()]
        lines = [line.strip() for line in "\n".join(said).splitlines() if line.strip()]
        reasons = [line for line in lines if REASON.search(line)]
        return " | ".join((reasons or lines)[-6:]) or "its console is empty"

    def close(self) -> None:
        """End the machine; its state goes with it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(OSError):  # what was still to be written finds nobody
                    pipe.close()

    def _forwarded(self) -> int:
        """Return the port of this machine that QEMU chose for the lab's ssh."""
        shown = self._qmp.monitor("info usernet")
        found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", shown)
        if not found:
            raise LabError(f"QEMU named no port for ssh: {shown}")
        return int(found[1])
