# SPDX-License-Identifier: Apache-2.0
"""A real Linux as the lab's guest: QEMU in the lab, with the lab's own kernel."""

import json
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from threading import Thread

from tests.lab.command import tail
from tests.lab.ending import Ending
from tests.lab.errors import LabError
from tests.lab.machine import Lab
from tests.lab.own import SLOWNESS
from tests.lab.qmp import ARGUMENTS, Qmp
from tests.lab.workload import Reading

#: Of the emulator's processor: a guest that shares it with two that thrash is at its init in half of it.
BOOT_SECONDS = 120.0 * SLOWNESS
#: Likewise, for a guest to say something: one that builds sources in a guest of its own is silent for a fifth of it.
LINE_SECONDS = 200.0 * SLOWNESS
#: By the clock it may take so many times as long: this machine has other things to do, or the emulator nothing.
PATIENCE = 4
#: What the guests' inits say first.
STARTED = "guest: init runs"
CURE = 'give the lab more of this machine, or look for the reason beside one: make lab ARGS="--workload real-linux"'
MARKER = "processes done"
ENDED = "guest: its guest has ended"
PAGE_SIZE = 4096


class _Since:
    """A moment, and what has passed since then."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._begun, self._used = time.monotonic(), lab.processor_seconds()

    @property
    def passed(self) -> float:
        """Seconds by the clock."""
        return time.monotonic() - self._begun

    def too_long(self, seconds: float) -> bool:
        """Whether the emulator has worked for longer than that, or far more has passed by the clock."""
        return self._lab.processor_seconds() - self._used > seconds or self.passed > PATIENCE * seconds


class Guest(Ending):
    """A QEMU in the lab, with the lab's own kernel; quit() or the end of a `with` statement ends it."""

    def __init__(self, lab: Lab, name: str, pages: int, memory: int, initrd: str, append: str, more: str = "") -> None:
        self.name = name
        self._lab = lab
        self._since = _Since(lab)
        self._lines: SimpleQueue[str] = SimpleQueue()
        self._said: deque[str] = deque(maxlen=6)
        self._booted = False
        # What KVM says of XSAVE is more than the emulated processor does: Linux 5.10 and 7.x fail with it as guests.
        # The console comes out of standard error, since the other two belong to QEMU's control channel.
        command = (
            f"echo $$ >&2; exec qemu-system-x86_64 -name {name},debug-threads=on -accel kvm -m {memory}"
            f" -cpu host,-xsave,-avx,-avx2 -M pc,kvm-shadow-mem={pages * PAGE_SIZE}"
            f" -nodefaults -no-user-config -no-reboot -display none {more}"
            f" -serial file:/dev/stderr {' '.join(ARGUMENTS)}"
            f" -kernel /boot/vmlinux -initrd /srv/lab/{initrd} -append 'console=ttyS0 quiet panic=-1 {append}'"
        )
        self._process = lab.popen(command, stderr=subprocess.PIPE)
        Thread(target=self._read, daemon=True).start()
        self.pid = int(self._line())
        self._said.clear()
        self._qmp = Qmp(self._process)

    def booted(self, seconds: float = BOOT_SECONDS) -> None:
        """Wait until the guest's init runs; LabError when the emulator has worked for so long without that."""
        while self.booting(seconds, pause=1.0):
            pass

    def booting(self, seconds: float = BOOT_SECONDS, pause: float = 0.0) -> bool:
        """Return whether the guest's init has yet to run, after this pause at most; LabError when it is too late."""
        while not self._booted:
            try:
                self._booted = self._took(self._lines.get(timeout=pause)).strip() == STARTED
            except Empty:
                if self._since.too_long(seconds):
                    raise self._trouble(f"is not at its init after {self._since.passed:.0f} s") from None
                return True
        return False

    def stop(self) -> None:
        """Halt the guest, so that its counters rest."""
        self._qmp.command("stop")

    def counters(self) -> dict[str, int]:
        """Return the kernel's counters of this guest's VM."""
        return kernel_counters(self._lab, self.pid)

    def vcpu_ns(self) -> int:
        """Return the processor time of the guest's vCPUs, KVM's work for them in it and QEMU's own start left out."""
        threads = self._lab.run(f"cd /proc/{self.pid}/task && grep -l '^CPU .*/KVM$' */comm").stdout.split()
        return sum(
            int(self._lab.run(f"cat /proc/{self.pid}/task/{thread.partition('/')[0]}/schedstat").stdout.split()[0])
            for thread in threads
        )

    def quit(self) -> None:
        """End the guest."""
        if self._process.poll() is None:
            try:
                self._qmp.command("quit")
            except LabError:  # one that was killed in the lab has ended before that is known here
                self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        """Take what the guest says as it comes, so that nobody has to wait for it longer than he likes."""
        for line in self._process.stderr or ():
            self._lines.put(line)
        self._lines.put("")

    def _line(self) -> str:
        """Return the next line of the guest's console; LabError when the emulator has worked for so long without it."""
        since = _Since(self._lab)
        while True:
            try:
                return self._took(self._lines.get(timeout=1.0))
            except Empty:
                if since.too_long(LINE_SECONDS):
                    raise self._trouble(f"has said nothing for {since.passed:.0f} s") from None

    def _took(self, line: str) -> str:
        if not line:
            raise self._trouble("ended in the lab before it was done")
        self._said.append(line)
        return line

    def _trouble(self, what: str) -> LabError:
        console = f"its console says last: {tail(''.join(self._said))}" if self._said else "its console is silent"
        return LabError(f"guest {self.name} {what}: {console}; {CURE}")


class RealGuest(Guest):
    """A Linux that builds sources and runs processes: a crowd that lives on, each woken in its turn, then others.

    Beside them are those that sleep. `nested`: in a Linux that is a guest itself, whose own guest's page tables are
    shadowed in mode "nested"; that guest ends when it has done so.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        name: str = "real-linux",
        pages: int = 64,
        processes: int = 40,
        sleepers: int = 0,
        crowd: int = 0,
        turns: int = 0,
        sources: int = 0,
        endless: bool = False,
        memory: int = 96,
        nested: bool = False,
    ) -> None:
        append = f"sleepers={sleepers} crowd={crowd} turns={turns} sources={sources} forks={processes}"
        append += f" endless={'yes' if endless else 'no'}"
        self._last = ENDED if nested else MARKER
        if nested:
            # Its guest's memory in small pages, so that as many page tables map it.
            append += " linux=yes transparent_hugepage=never cryptomgr.notests"
        else:
            append += " ends=no"
        super().__init__(lab, name, pages, memory, "nested-linux.cpio" if nested else "guest.cpio", append)

    def wait(self) -> None:
        """Wait until the guest has run its processes, or its guest has and has ended."""
        self.booted()
        while self._last not in self._line():
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
