# SPDX-License-Identifier: Apache-2.0
"""The emulated machine: one QEMU process without hardware acceleration, which may go on from a saved state."""

import os
import re
import shlex
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab import qmp
from tests.lab.boot import Boot
from tests.lab.command import require
from tests.lab.errors import LabError
from tests.lab.qemu import Program

KERNEL_ARGUMENTS = (
    *("console=ttyS0", "quiet", "loglevel=4", "net.ifnames=0", "mitigations=off"),
    # A panic ends QEMU, and a terminal on the console would wait for a device manager that is not there.
    *("panic=-1", "systemd.getty_auto=no", "systemd.show_status=no"),
    # On a machine that is busy the kernel takes a timer that is emulated late for one that does not work.
    "no_timer_check",
    # And its TSC for one that is unstable, with which some of KVM's own tests do not begin.
    "tsc=nowatchdog",
    # Else who is nice is that to his own session alone, and each VMM has one of its own.
    "noautogroup",
)
REASON = re.compile("panic|BUG:|Oops|Out of memory|qemu-system")
#: To read or write a state, which takes a second or two on an idle machine.
STATE_SECONDS = 120.0
MONITOR_SECONDS = 5.0
LOOK_SECONDS = 0.5
UNLIMITED = 1 << 40  # bytes a second: a migration to elsewhere would leave room for others


@dataclass(frozen=True)
class Hardware:
    """What of the machine a test may choose."""

    memory: str = "3G"
    processors: int = 1
    icount: bool = False


class Emulator:
    """A running QEMU; nothing of it is left after close(), or when this process dies."""

    def __init__(
        self,
        program: Program,
        run: Path,
        hardware: Hardware,
        boot: Boot,
        disk: Path,
        shares: dict[str, Path],
        state: Path | None = None,
    ) -> None:
        """Start the machine, or go on from a state that save() wrote of one with the same hardware, boot and disk."""
        require("setpriv", "zstd")
        self._console = run / "console.log"
        self._errors = run / "qemu.log"
        icount = ["-icount", "shift=0"] if hardware.icount else []
        # QEMU before 8.1 (deba78709ae8) may keep a translation of code that another of its threads is changing, as the
        # kernel does for each probe, and both hang then. One thread is all processors in turn: each may stand still
        # inside a critical section while the others run.
        accelerator = "tcg" if hardware.processors == 1 else "tcg,thread=single"
        command = [
            # The kernel ends QEMU with the thread that started it, however that comes to its end.
            *("setpriv", "--pdeathsig=KILL", *program.words, "-name", "shadowwatch-lab,process=qemu-lab"),
            *("-accel", accelerator, *icount),
            *("-cpu", "max,+svm", "-smp", str(hardware.processors), "-m", hardware.memory),
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", *qmp.ARGUMENTS),
            *("-serial", f"file:{self._console}"),
            *("-kernel", str(boot.vmlinux), "-initrd", str(boot.initramfs), "-append", " ".join(KERNEL_ARGUMENTS)),
            # What the machine writes stays in its memory (initramfs/init), so a state of that is all there is of it.
            *("-drive", f"file={disk},format=raw,if=virtio,readonly=on"),
            *("-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:0-:22"),
            *("-device", "virtio-net-pci,netdev=net,romfile="),
        ]
        for tag, path in shares.items():
            access = "" if tag == "out" else ",readonly=on"
            command += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap{access}"]
        if state:
            command += ["-incoming", f"exec:zstd -q -dc {shlex.quote(str(state))}"]
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
            if state:
                self._until("query-status", "paused", "inmigrate")
                self._qmp.command("cont")
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

    def doing(self) -> str:
        """Return what the machine does at this moment, for one who finds that it does not answer."""
        if not self.running():
            return "QEMU has ended"
        try:
            status = self._qmp.command("query-status", seconds=MONITOR_SECONDS)["status"]
            registers = self._qmp.monitor("info registers", MONITOR_SECONDS)
        except LabError:
            return "QEMU's monitor does not answer"
        begun = self.processor_seconds()
        time.sleep(LOOK_SECONDS)
        busy = (self.processor_seconds() - begun) / LOOK_SECONDS
        place = " ".join(re.findall(r"\b(?:RIP|CPL|HLT)=\w+", registers))
        return f"QEMU's status is {status}, it takes {busy:.0%} of a core, and its processor is at {place}"

    def processor_seconds(self) -> float:
        """Return the processor time that QEMU has had."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime

    def save(self, state: Path) -> None:
        """Write the state of the machine to a file; it stands still from then on. No share may be mounted in it."""
        self._qmp.command("stop")
        self._qmp.command("migrate-set-parameters", **{"max-bandwidth": UNLIMITED})
        self._qmp.command("migrate", uri=f"exec:zstd -1 -q -f -o {shlex.quote(str(state))}")
        self._until("query-migrate", "completed", "setup", "active", "device")

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

    def _until(self, question: str, wanted: str, *before: str) -> None:
        """Ask for a status until it is the wanted one, after those before."""
        deadline = time.monotonic() + STATE_SECONDS
        while (found := self._qmp.command(question)["status"]) != wanted:
            if found not in before or time.monotonic() > deadline:
                raise LabError(f"QEMU's {question} says {found} where {wanted} was awaited: {self.last_words()}")
            time.sleep(0.02)

    def _forwarded(self) -> int:
        """Return the port of this machine that QEMU chose for the lab's ssh."""
        shown = self._qmp.monitor("info usernet")
        found = re.search(r"HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)", shown)
        if not found:
            raise LabError(f"QEMU named no port for ssh: {shown}")
        return int(found[1])
