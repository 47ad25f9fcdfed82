# SPDX-License-Identifier: Apache-2.0
"""A KVM host on that machine: Debian's kernel and modules, and a script to do."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.lab import boot
from tests.lab.bochs import disk, program
from tests.lab.bochs.machine import KERNEL_ARGUMENTS, Hardware, Machine
from tests.lab.bochs.modes import MODES
from tests.lab.cache import Cache, Progress, default_root
from tests.lab.ending import Ending
from tests.lab.hosts import DEFAULT
from tests.lab.machine import Mode, build, quiet
from tests.lab.run_folder import RunFolder

INIT = Path(__file__).parent / "init"
DONE = "lab: done"
PLAIN = Hardware()
SIGNED = b"~Module signature appended~\n"


def loading(mode: Mode) -> str:
    """Return the lines of a script that load KVM in this mode, in place of the one that is loaded."""
    lines = ["[ -d /sys/module/irqbypass ] || load irqbypass", "[ ! -d /sys/module/kvm ] || rmmod kvm_intel kvm"]
    for module, wanted in MODES[mode].items():
        lines.append(shlex.join(["load", module, *(f"{name}={value}" for name, value in wanted.items())]))
    return "".join(f"{line}\n" for line in lines)


class Host(Ending):
    """A running host; quit() or the end of a `with` statement ends it."""

    def __init__(
        self,
        script: str,
        *,
        host: str = DEFAULT,
        modules: tuple[str, ...] = (),
        files: Mapping[str, Path | bytes] | None = None,
        with_root: bool = False,
        hardware: Hardware = PLAIN,
        progress: Progress = quiet,
    ) -> None:
        """Boot it to do this script, with these further modules and files, and the lab's root file system on a disk."""
        parts = build(host, "stock", progress)
        emulator = program.prepare(Cache(default_root(), progress))
        self._run = RunFolder()
        run = self.folder = self._run.path
        try:
            initramfs, start = run / "initramfs.cpio", run / "disk"
            loaded = boot.modules(parts.kernel, ("kvm_intel", *modules))
            content: dict[str, Path | bytes] = {
                "init": INIT,
                "script": script.encode(),
                **{f"srv/lab/{name}": parts.guests / name for name in ("vmm", "guest.cpio")},
                # To check a module's signature is most of what loading it costs.
                **{name: unsigned(module) for name, module in loaded.items()},
                **(files or {}),
            }
            boot.archive(initramfs, content, ("root", "tmp"))
            arguments = " ".join(KERNEL_ARGUMENTS)
            disk.write(start, parts.boot.vmlinux.read_bytes(), initramfs.read_bytes(), arguments)
            self.machine = Machine(emulator, run, hardware, start, parts.image.disk if with_root else None)
        except BaseException:
            self._run.remove()
            raise

    def lines(self) -> Iterator[str]:
        """Yield what the host says until its script is done; LabError when it comes to another end, or hangs."""
        for line in self.machine.lines():
            if line == DONE:
                return
            yield line

    def quit(self) -> None:
        """End it; nothing of it is left."""
        self.machine.quit()
        self._run.remove()


def unsigned(module: bytes) -> bytes:
    """Return a module without its signature: the kernel takes it, and says that it is tainted."""
    if not module.endswith(SIGNED):
        return module
    # Before the words there is a structure of 12 bytes, whose last four are the signature's length.
    end = len(module) - len(SIGNED)
    return module[: end - 12 - int.from_bytes(module[end - 4 : end], "big")]
