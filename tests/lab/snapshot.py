# SPDX-License-Identifier: Apache-2.0
"""Labs that are ready at once: booted, KVM loaded and the daemon attached one time, and from then on gone on with.

To boot takes an emulated machine 10 seconds, and the daemon another 20, most of it for compiling BPF.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from tests.lab import emulator, image, machine
from tests.lab.cache import Cache, Input, Progress, default_root
from tests.lab.emulator import Hardware
from tests.lab.hosts import DEFAULT, Kvm
from tests.lab.machine import CHECKOUT, Lab, build, quiet
from tests.lab.parts import Parts

HARDWARE = Hardware()
#: What becomes part of the daemon that runs in the lab, or of how it is started.
DAEMON = (("shadowwatch", "*.py"), ("bpf", "*"), ("systemd", "*"), ("docs", "runbook.md"))


def ready(
    name: str,
    *,
    host: str = DEFAULT,
    kvm: Kvm = "patched",
    daemon: str | None = None,
    hardware: Hardware = HARDWARE,
    progress: Progress = quiet,
) -> Lab:
    """Return a lab with this KVM loaded, and the daemon running in it unless its arguments are None.

    It goes on from a state that is kept by this name, and is made when there is none of these parts.
    """
    parts, state = _prepared(name, host, kvm, daemon, hardware, progress)
    return Lab(parts, hardware, progress, state)


@cache
def _prepared(
    name: str, host: str, kvm: Kvm, daemon: str | None, hardware: Hardware, progress: Progress
) -> tuple[Parts, Path]:
    """Return what the lab is made of, and the state that it goes on from: the same for all labs of a process."""
    parts = build(host, kvm, progress)

    def make(folder: Path) -> None:
        progress(f"state: a lab for {name}, once")
        lab = Lab(parts, hardware, progress)
        try:
            lab.load_kvm(kvm)
            if daemon is not None:
                lab.start_daemon(daemon)
            lab.save(folder / "state.zst")
        finally:
            lab.close()

    made_from = inputs(parts, kvm, daemon, hardware)
    folder = Cache(default_root(), progress).artifact(f"state-{host}-{name}", made_from, make)
    return parts, folder / "state.zst"


def inputs(parts: Parts, kvm: Kvm, daemon: str | None, hardware: Hardware = HARDWARE) -> list[Input]:
    """Return all that a state is made from: QEMU goes on from one only as the very machine that it was saved of."""
    modules = (emulator, machine, image)
    found: list[Input] = [kvm, repr(hardware), *_parts(parts), parts.emulator.version]
    found += [Path(str(each.__file__)) for each in modules]
    return found if daemon is None else [*found, daemon, *daemon_files()]


def _parts(parts: Parts) -> list[str]:
    """Return the names of all that the machine is made of: each tells what it was made from."""
    folders = [parts.boot.vmlinux.parent, parts.image.disk.parent]
    return [folder.name for folder in [*folders, *([parts.patched] if parts.patched else [])]]


def daemon_files() -> list[Input]:
    """Return the daemon's files, each after its name."""
    found = (path for folder, pattern in DAEMON for path in sorted((CHECKOUT / folder).rglob(pattern)))
    return [given for path in found if path.is_file() for given in (str(path.relative_to(CHECKOUT)), path)]
