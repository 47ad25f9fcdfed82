# SPDX-License-Identifier: Apache-2.0
"""One Bochs process: a PC with an Intel processor, whose console is all that it says."""

import os
import re
import subprocess
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.lab.bochs.program import Program
from tests.lab.command import require, tail
from tests.lab.ending import Ending
from tests.lab.errors import LabError

#: A machine that says nothing for so long hangs, if it has had so much of a processor, or whatever it has had.
SILENT_SECONDS, WORKED_SECONDS, LONGEST_SECONDS = 60.0, 40.0, 300.0
LAST_LINES = 8
KERNEL_ARGUMENTS = (
    # At a line's lower speeds the kernel waits for the serial line longer than it works.
    *("console=ttyS0,115200", "quiet", "loglevel=4", "mitigations=off", "tsc=reliable"),
    # Its self-tests are half of its start.
    "cryptomgr.notests",
)
SCREEN = re.compile('connected to screen "([^"]+)"')
FATAL = ("Kernel panic", "boot.S:")
CONFIGURATION = """\
cpu: model=corei7_haswell_4770, ips={speed}, reset_on_triple_fault=0, ignore_bad_msrs=1
megs: {memory}
romimage: file={bios}
vgaromimage: file={vga_bios}
display_library: term
plugin_ctrl: unmapped=1, biosdev=1, speaker=0, extfpuirq=1, parallel=0, serial=1
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
{disks}
boot: disk
com1: enabled=1, mode=file, dev={console}
sound: driver=dummy
clock: sync=none
log: {log}
panic: action=fatal
error: action=ignore
info: action=ignore
debug: action=ignore
"""


@dataclass(frozen=True)
class Hardware:
    """What of the machine may be chosen."""

    memory: int = 256  # MiB
    #: Instructions in a second of its own clock: with far fewer the clock's interrupts are most of what it does.
    speed: int = 1_000_000_000


class Machine(Ending):
    """A running Bochs; nothing of it is left after quit(), or when this process dies."""

    def __init__(self, program: Program, run: Path, hardware: Hardware, start: Path, root: Path | None) -> None:
        """Start a machine with a disk that it starts from, and perhaps one that it does not write to."""
        require("setpriv")
        self._console = run / "console.log"
        self._console.touch()
        self._log = run / "bochs.log"
        self._errors = run / "bochs.errors"
        disks = [f"ata0-master: type=disk, path={start}, mode=flat"]
        if root:
            # Bochs puts a lock beside a disk.
            other = run / "root"
            other.symlink_to(root)
            disks.append(f"ata0-slave: type=disk, path={other}, mode=volatile, journal={run}/changes")
        configuration = run / "bochsrc"
        configuration.write_text(
            CONFIGURATION.format(
                speed=hardware.speed,
                memory=hardware.memory,
                bios=program.bios,
                vga_bios=program.vga_bios,
                disks="\n".join(disks),
                console=self._console,
                log=self._log,
            )
        )
        # Debian's Bochs has its debugger built in, which waits for a command.
        commands = run / "debugger"
        commands.write_text("continue\n")
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                # The kernel ends Bochs with the thread that started it, however that comes to its end.
                [
                    *("setpriv", "--pdeathsig=KILL", *program.words, "-q"),
                    *("-f", str(configuration), "-rc", str(commands)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # its screen
                stderr=errors,
                env={**os.environ, "TERM": "linux"},
                start_new_session=True,  # an interrupt from the keyboard is for the tests, which then end it
            )
        threading.Thread(target=self._watch_screen, daemon=True).start()

    def _watch_screen(self) -> None:
        """Read what Bochs draws on a terminal that it makes: when that is full, it waits for a reader."""
        while not (found := SCREEN.search(self._errors.read_text(errors="replace"))):
            if self._process.poll() is not None:
                return
            time.sleep(0.1)
        with suppress(OSError), open(os.open(found[1], os.O_RDONLY | os.O_NOCTTY), "rb", buffering=0) as screen:
            # Else it would wait for whole lines.
            tty.setraw(screen.fileno())
            while screen.read(1 << 16):
                pass

    def lines(self) -> Iterator[str]:
        """Yield what the console says, line by line, as it comes; LabError when it ends, dies or falls silent."""
        heard, had = time.monotonic(), 0.0
        with self._console.open(errors="replace", newline="\n") as console:
            line = ""
            while True:
                if said := console.readline():
                    heard, had = time.monotonic(), self.processor_seconds()
                    line += said
                    if line.endswith("\n"):
                        yield line.strip()
                        if any(words in line for words in FATAL):
                            raise LabError(f"the machine died: {self.last_words()}")
                        line = ""
                elif self._process.poll() is not None:
                    raise LabError(f"Bochs ended: {self._own_words()}; {self.last_words()}")
                else:
                    silent, worked = time.monotonic() - heard, self.processor_seconds() - had
                    if silent > LONGEST_SECONDS or (silent > SILENT_SECONDS and worked > WORKED_SECONDS):
                        busy = f"in which Bochs had {worked:.0f} s of a processor"
                        raise LabError(f"the machine was silent for {silent:.0f} s, {busy}: {self.last_words()}")
                    time.sleep(0.1)

    def last_words(self) -> str:
        """Return what the machine's console said last, or else what Bochs did."""
        console = self._console.read_text(errors="replace")
        return tail(console, LAST_LINES) if console else self._own_words()

    def _own_words(self) -> str:
        said = [path.read_text(errors="replace") for path in (self._errors, self._log) if path.exists()]
        return tail("\n".join(said), LAST_LINES)

    def processor_seconds(self) -> float:
        """Return the processor time that Bochs has had."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime and stime

    def quit(self) -> None:
        """End the machine."""
        self._process.kill()
        self._process.wait()
