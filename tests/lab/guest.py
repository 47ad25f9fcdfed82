# SPDX-License-Identifier: Apache-2.0
"""A real Linux as the lab's guest: QEMU in the lab, with the lab's own kernel."""

import json
import subprocess
import time
from collections import deque
from collections.abc import Sequence

from tests.lab.command import tail
from tests.lab.ending import Ending
from tests.lab.errors import LabError
from tests.lab.lines import line_within
from tests.lab.machine import Lab
from tests.lab.qmp import ARGUMENTS, Qmp
from tests.lab.workload import Reading

#: A guest is at its init in a tenth of it, if this machine has nothing else to do.
BOOT_SECONDS = 120.0
LINE_SECONDS = 300.0
#: What the guests' inits say first.
STARTED = "guest: init runs"
CURE = 'give the lab more of this machine, or look for the reason beside one: make lab ARGS="--workload real-linux"'
MARKER = "processes done"
PAGE_SIZE = 4096


class Guest(Ending):
    """A QEMU in the lab, with the lab's own kernel; quit() or the end of a `with` statement ends it."""

    def __init__(self, lab: Lab, name: str, pages: int, memory: int, initrd: str, append: str) -> None:
        self.name = name
        self._lab = lab
        self._begun = time.monotonic()
        self._said: deque[str] = deque(maxlen=6)
        self._booted = False
        # What KVM says of XSAVE is more than the emulated processor does: Linux 5.10 and 7.x fail with it as guests.
        # The console comes out of standard error, since the other two belong to QEMU's control channel.
        command = (
            f"echo $$ >&2; exec qemu-system-x86_64 -name {name},debug-threads=on -accel kvm -m {memory}"
            f" -cpu host,-xsave,-avx,-avx2 -M pc,kvm-shadow-mem={pages * PAGE_SIZE}"
            " -nodefaults -no-user-config -no-reboot -display none"
            f" -serial file:/dev/stderr {' '.join(ARGUMENTS)}"
            f" -kernel /boot/vmlinux -initrd /srv/lab/{initrd} -append 'console=ttyS0 quiet panic=-1 {append}'"
        )
        self._process = lab.popen(command, stderr=subprocess.PIPE)
        self.pid = int(self._line())
        self._said.clear()
        self._qmp = Qmp(self._process)

    def booted(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until the guest's init runs; LabError when it does not so long after the guest's start."""
        trouble = f"is not at its init after {seconds:.0f} s"
        while not self._booted:
            line = self._line(self._begun + seconds - time.monotonic(), trouble)
            self._booted = line.strip() == STARTED

    def stop(self) -> None:
        """Halt the guest, so that its counters rest."""
        self._qmp.command("stop")

    def counters(self) -> dict[str, int]:
        """Return the kernel's counters of this guest's VM."""
        return kernel_counters(self._lab, self.pid)

    def quit(self) -> None:
        """End the guest."""
        if self._process.poll() is None:
            self._qmp.command("quit")
            self._process.communicate()

    def _line(self, seconds: float = LINE_SECONDS, trouble: str = "hangs") -> str:
        """Return the next line of the guest's console; LabError with the last ones when there is none in this time."""
        line = line_within(max(seconds, 1.0), self._process, self._process.stderr)
        if line:
            self._said.append(line)
            return line
        console = f"its console says last: {tail(''.join(self._said))}" if self._said else "its console is silent"
        if self._process.wait() >= 0:
            raise LabError(f"guest {self.name} ended in the lab before it was done: {console}; {CURE}")
        self._lab.run(["kill", "-KILL", str(self.pid)], check=False)
        raise LabError(f"guest {self.name} {trouble}: {console}; {CURE}")


class RealGuest(Guest):
    """A Linux that runs one process after another."""

    def __init__(
        self, lab: Lab, *, name: str = "real-linux", pages: int = 64, processes: int = 40, endless: bool = False
    ) -> None:
        append = f"forks={processes} endless={'yes' if endless else 'no'}"
        super().__init__(lab, name, pages, 96, "guest.cpio", append)

    def wait(self) -> None:
        """Wait until the guest has run its processes."""
        self.booted()
        while MARKER not in self._line():
            pass


class NestedGuest(Guest):
    """A Linux that runs the small VMM with these arguments: in mode "nested", its guest's page tables are shadowed."""

    def __init__(self, lab: Lab, arguments: Sequence[str], *, name: str = "nested-linux", pages: int = 64) -> None:
        super().__init__(lab, name, pages, 256, "nested.cpio", f"-- {' '.join(arguments)}")

    def wait(self) -> Reading:
        """Wait until the VMM has done its rounds, and return what it says of its own guest."""
        self.booted()
        while not (line := self._line()).startswith("{"):
            pass
        return Reading(**json.loads(line))


def kernel_counters(lab: Lab, pid: int) -> dict[str, int]:
    """Return what the lab's kernel counts for the VM of this process."""
    shown = lab.run(f"cd /sys/kernel/debug/kvm/{pid}-* && grep -d skip '' *").stdout
    pairs = (line.partition(":")[::2] for line in shown.splitlines())
    return {name: int(value) for name, value in pairs if value.lstrip("-").isdigit()}
