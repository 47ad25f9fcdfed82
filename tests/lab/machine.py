# SPDX-License-Identifier: Apache-2.0
"""A KVM host in a box: an emulated machine whose own guests are shadow-paged."""

import atexit
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from shadowwatch.control.protocol import SOCKET
from tests.lab import patched
from tests.lab.cache import Cache, Progress, default_root
from tests.lab.command import tail
from tests.lab.connection import Command, Connection, wait_for_server
from tests.lab.emulator import Emulator, Hardware
from tests.lab.errors import LabError
from tests.lab.hosts import DEFAULT, HOSTS, Kvm
from tests.lab.own import SLOWNESS, kernel_of_a_tree
from tests.lab.parts import Parts, prepare
from tests.lab.run_folder import RunFolder

#: The patched KVM's, as its enum mmu_reclaim_policy has them.
Policy = Literal["stock", "parents", "mapped", "leaf-first", "childless", "accessed", "newest"]
Mode = Literal["shadow", "tdp", "nested"]

#: Which pages are on KVM's list, and the parameters of its modules that make it so: those of a guest without nested
#: paging; all that map a guest's memory; those that stand for the page tables a guest gives to its own guest.
MODES: Mapping[Mode, Mapping[str, Mapping[str, str]]] = {
    "shadow": {"kvm": {}, "kvm_amd": {"npt": "0", "nested": "0"}},
    "tdp": {"kvm": {"tdp_mmu": "0"}, "kvm_amd": {"npt": "1", "nested": "0"}},
    "nested": {"kvm": {"tdp_mmu": "1"}, "kvm_amd": {"npt": "1", "nested": "1"}},
}

CHECKOUT = Path(__file__).resolve().parents[2]
#: Of the emulator's processor. By the clock it may take so many times as long: this machine has other things to do.
BOOT_SECONDS, PATIENCE = 60.0 * SLOWNESS, 4
SSH_LOST = 255  # ssh's own exit status when the connection is gone
UNIT = "shadowwatch.service"
SHARES = ("shadowwatch", "lab", "out")


def quiet(_: str) -> None:
    """Take progress and say nothing."""


def say(what: str) -> None:
    """Print progress where it is in nobody's way."""
    sys.stderr.write(f"{what}\n")


def build(host: str = DEFAULT, kvm: Kvm = "patched", progress: Progress = quiet) -> Parts:
    """Make whatever of this lab is not in the cache."""
    if host not in HOSTS:
        raise LabError(f"there is no host {host}: take {', '.join(HOSTS)}")
    if kvm != "stock":
        patched.check(HOSTS[host], kvm)
    cache = Cache(default_root(), progress)
    return kernel_of_a_tree(cache, prepare(cache, HOSTS[host], kvm))


class Lab:
    """A running lab; boot() makes one, and a `with` statement ends it."""

    def __init__(self, parts: Parts, hardware: Hardware, progress: Progress = quiet, state: Path | None = None) -> None:
        """Boot these parts, or go on from a state that save() wrote of them."""
        self.host = parts.kernel.host
        self.release = parts.kernel.release
        self._begun = time.monotonic()
        self._progress = progress
        self._emulator: Emulator | None = None
        self._connection: Connection | None = None
        self._folder = RunFolder()
        run = self._folder.path
        self.out = run / "out"
        atexit.register(self.close)
        try:
            self.out.mkdir()
            # Copies, so that a build during this run changes nothing in it.
            shutil.copytree(parts.guests, run / "lab")
            if parts.patched:
                shutil.copytree(parts.patched, run / "lab" / "kvm")
            shares = dict(zip(SHARES, (CHECKOUT, run / "lab", self.out), strict=True))
            self._emulator = Emulator(parts.emulator, run, hardware, parts.boot, parts.image.disk, shares, state)
            if not wait_for_server(self._emulator.ssh_port, self._booting, PATIENCE * BOOT_SECONDS):
                passed = time.monotonic() - self._begun
                raise LabError(f"the lab did not come up in {passed:.0f} s: {self._trouble()}")
            self._connection = Connection(run, self._emulator.ssh_port, parts.image)
            # Who goes on from a state finds the time of when it was saved.
            mount = " && ".join(f"mount /srv/{share}" for share in SHARES)
            self.run(f"date -s @{time.time():.3f} && {mount}")
        except BaseException:
            self.close()
            raise
        self._say("back" if state else "up")

    @classmethod
    def boot(
        cls,
        *,
        host: str = DEFAULT,
        kvm: Kvm = "patched",
        mode: Mode = "shadow",
        load: bool = True,
        memory: str = "3G",
        processors: int = 1,
        icount: bool = False,
        progress: Progress = quiet,
    ) -> Self:
        """Boot a fresh lab and load KVM in it, if so wished; `icount` makes its clock count instructions."""
        hardware = Hardware(memory=memory, processors=processors, icount=icount)
        lab = cls(build(host, kvm, progress), hardware, progress)
        try:
            if load:
                lab.load_kvm(kvm, mode)
        except BaseException:
            lab.close()
            raise
        return lab

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(
        self, command: Command, *, stdin: str | None = None, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the lab: a line for its shell, or a list of words; one that takes too long ends the lab."""
        shown = command if isinstance(command, str) else " ".join(command)
        try:
            done = self._connected().run(command, stdin, timeout)
        except subprocess.TimeoutExpired:
            what = f"`{shown}` had not ended after {timeout:.0f} s in the lab, which is ended for that"
            what = f"{what}: {self._trouble()}"
            self.close()  # whoever asks it next need not wait as long
            raise LabError(what) from None
        # A command may exit with this itself; when its connection is gone, so is the master in a moment.
        if done.returncode == SSH_LOST and (trouble := self.trouble(within=5)):
            raise LabError(f"`{shown}` had not ended when {trouble}")
        if check and done.returncode:
            raise LabError(f"`{shown}` exited {done.returncode} in the lab: {tail(done.stderr + done.stdout, 20)}")
        return done

    def popen(self, command: Command, *, stderr: int | None = None) -> subprocess.Popen[str]:
        """Start a command in the lab with pipes to its standard input and output; close() ends it at the latest."""
        return self._connected().popen(command, stderr)

    def interact(self, command: Command | None = None) -> int:
        """Connect our own input and output to a command in the lab, or to a shell; return its exit status."""
        return self._connected().interact(command)

    def forward(self, port: int, local: int = 0) -> int:
        """Publish a loopback port of the lab on this machine's loopback, and return the port it has here."""
        return self._connected().forward(port, local)

    def control(self) -> str:
        """Publish the daemon's socket on this machine, and return its path here."""
        path = self._folder.path / "control"
        self._connected().forward_socket(SOCKET, path)
        return str(path)

    def load_kvm(self, kvm: Kvm, mode: Mode = "shadow") -> None:
        """Load this KVM, in this mode, in place of the one that is loaded."""
        self.unload_kvm()
        if kvm != "stock":
            self.run("modprobe -a irqbypass ccp")
        for module, wanted in MODES[mode].items():
            command = f"modprobe {module}" if kvm == "stock" else f"insmod /srv/lab/kvm/{module.replace('_', '-')}.ko"
            self.run(" ".join([command, *(f"{name}={value}" for name, value in wanted.items())]))
        for module, wanted in MODES[mode].items():
            for name, value in wanted.items():
                found = self.run(f"cat /sys/module/{module}/parameters/{name}").stdout.strip()
                if found.translate(str.maketrans("NY", "01")) != value:
                    raise LabError(
                        f"{module} came up with {name}={found} where {mode} needs {value}; dmesg may say why"
                    )
        self._say(f"{kvm} KVM loaded, mode {mode}")

    def unload_kvm(self) -> None:
        """Take KVM out of the kernel, if it is there and nobody uses it."""
        self.run("! [ -d /sys/module/kvm_amd ] || rmmod kvm_amd kvm")

    def policy(self, policy: Policy) -> None:
        """Choose the reclaim policy of the patched KVM."""
        if self.run("test -e /sys/module/kvm/parameters/reclaim_policy", check=False).returncode:
            raise LabError("the KVM in this lab has only the stock policy: load the patched one")
        self.run(["tee", "/sys/module/kvm/parameters/reclaim_policy"], stdin=policy)

    def make_user(self) -> None:
        """Make the user that the daemon runs as."""
        self.run("systemd-sysusers /srv/shadowwatch/systemd/shadowwatch.sysusers")

    def start_daemon(self, args: str = "") -> None:
        """Install the checkout's unit, with these arguments added to its command, and wait until it is ready."""
        unit = CHECKOUT / "systemd" / UNIT
        lines = unit.read_text().splitlines()
        command = next(line for line in lines if line.startswith("ExecStart="))
        # A test may start it as often as it likes, and the machine may be given little of a processor.
        override = (
            f"[Unit]\nStartLimitIntervalSec=0\n[Service]\nTimeoutStartSec=infinity\nExecStart=\n{command} {args}\n"
        )
        folder = f"/etc/systemd/system/{UNIT}.d"
        self.make_user()
        self.run(f"cp /srv/shadowwatch/systemd/{UNIT} /etc/systemd/system && mkdir -p {folder}")
        self.run(f"cat >{folder}/arguments.conf", stdin=override)
        self.run("systemctl daemon-reload")
        if self.run(f"systemctl restart {UNIT}", check=False).returncode:
            journal = self.run(f"journalctl -o cat -n 8 -u {UNIT}", check=False).stdout
            raise LabError(f"the daemon did not start: {tail(journal, 8)}")
        self._say("daemon ready")

    def save(self, state: Path) -> None:
        """Write the machine's state to a file, which ends the lab: another with the same parts can go on from there."""
        self.run(["umount", *(f"/srv/{share}" for share in SHARES)])
        if self._connection:
            self._connection.close()
        if self._emulator:
            self._emulator.save(state)
        self.close()

    def processor_seconds(self) -> float:
        """Return the processor time that the emulator has had; nothing once it has ended."""
        return self._emulator.processor_seconds() if self._emulator and self._emulator.running() else 0.0

    def trouble(self, within: float = 0) -> str:
        """Return what became of a lab that has ended or does not answer any more; nothing of one that is well.

        One that seems to be well has so many seconds to show that it is not.
        """
        if not self._emulator or not self._connection:
            return "the lab was closed"
        if self._emulator.running() and not self._connection.ended_within(within):
            return ""
        ended = self._emulator.ended_within(5)  # as it does soon after a panic
        what = f"the lab {'ended' if ended else 'stopped answering'}: {self._trouble()}"
        self.close()
        return what

    def close(self) -> None:
        """End the lab; only what the caller took out of `out` is left."""
        atexit.unregister(self.close)
        if self._connection:
            self._connection.close()
        if self._emulator:
            self._emulator.close()
        self._connection = self._emulator = None
        self._folder.remove()

    def _connected(self) -> Connection:
        if self._connection is None:
            raise LabError("this lab is closed: boot another")
        return self._connection

    def _booting(self) -> bool:
        """Return whether the machine may still come up."""
        return self._emulator is not None and self._emulator.running() and self.processor_seconds() < BOOT_SECONDS

    def _trouble(self) -> str:
        """Return what the machine does, and what it said last."""
        return f"{self._emulator.doing()}; {self._emulator.last_words()}" if self._emulator else "it was closed"

    def _say(self, what: str) -> None:
        self._progress(f"lab: {what}, {time.monotonic() - self._begun:.1f} s after its start")
