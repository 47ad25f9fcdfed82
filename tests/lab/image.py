# SPDX-License-Identifier: Apache-2.0
"""The lab's root file system: Debian 12 from the machine's own package sources, as an ext4 image.

mmdebstrap needs no mount and no loop device, and works for a user other than root where the system lets it. A hook
makes the image while the tree exists, so that its owners are the right ones in either case.
"""

import os
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.lab.boot import Boot, dependencies
from tests.lab.cache import Cache
from tests.lab.command import PATH, output, require, tail
from tests.lab.errors import LabError
from tests.lab.kernel import Kernel

SUITE = "bookworm"
SIZE = "8G"  # the image is sparse: what nobody writes takes no room
FILES = Path(__file__).parent / "rootfs"
PACKAGES = (
    *("systemd-sysv", "kmod", "procps", "iproute2", "openssh-server"),
    *("python3-bpfcc", "python3-prometheus-client", "python3-psutil", "python3-rich"),
    "qemu-system-x86",
)
MODULES = ("autofs4", "kvm_amd", "overlay")
# Nobody reads them here.
EXCLUDED = ("doc", "info", "locale", "man", "icons", "iso-codes", "bash-completion", "zsh")
# No terminal, no second boot and no clock-driven work: each would only make the boot longer.
MASKED = (
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer"),
    *("systemd-tmpfiles-clean.timer", "getty-static.service", "getty@tty1.service", "remote-fs.target"),
    *("systemd-journal-flush.service", "systemd-logind.service", "systemd-machine-id-commit.service"),
    *("systemd-pstore.service", "systemd-random-seed.service", "systemd-remount-fs.service"),
    *("systemd-firstboot.service", "systemd-repart.service", "systemd-sysusers.service"),
    *("systemd-update-utmp.service", "systemd-update-utmp-runlevel.service", "systemd-binfmt.service"),
    *("systemd-ask-password-wall.path", "systemd-ask-password-console.path", "systemd-user-sessions.service"),
)


@dataclass(frozen=True)
class Image:
    """A root file system and the keys that belong to it."""

    disk: Path
    key: Path
    known_hosts: Path


def prepare(cache: Cache, kernel: Kernel, boot: Boot) -> Image:
    """Return the root file system for this kernel, made when it is not in the cache."""

    def make(folder: Path) -> None:
        require("apt-get", "mke2fs", "mmdebstrap", "modprobe", "ssh-keygen")
        _keys(folder)
        additions = folder / "additions.tar"
        _pack(folder, additions, kernel, boot)
        _bootstrap(cache, folder, additions)
        additions.unlink()

    inputs = [kernel.vmlinuz, FILES, Path(__file__)]
    folder = cache.artifact("image", inputs, make)
    return Image(disk=folder / "root.ext4", key=folder / "client", known_hosts=folder / "known_hosts")


def _keys(folder: Path) -> None:
    """Make the keys of the ssh server and of its only client."""
    for name in ("client", "server"):
        output(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"shadowwatch-lab-{name}", "-f", folder / name])
    (folder / "known_hosts").write_text(f"shadowwatch-lab {(folder / 'server.pub').read_text()}")


def _pack(folder: Path, target: Path, kernel: Kernel, boot: Boot) -> None:
    """Write what the image has besides Debian's packages: all of it below folders that no link of Debian's replaces."""
    modules = folder / "modules"
    library = Path("lib/modules", kernel.release)
    for module in dependencies(kernel, MODULES):
        copy = modules / library / module.relative_to(kernel.modules)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(module, copy)
    for listing in kernel.modules.glob("modules.*"):
        shutil.copy(listing, modules / library)
    output(["depmod", "-b", modules, kernel.release])

    with tarfile.open(target, "w") as tar:
        for source, name in (
            (FILES, ""),
            (kernel.headers / "usr", "usr"),
            (kernel.headers / "lib", "usr/lib"),
            (modules / "lib", "usr/lib"),
        ):
            for path in sorted(source.iterdir()):
                tar.add(path, str(Path(name, path.name)), filter=_owned_by_root)
        for source, name in (
            (boot.vmlinux, "boot/vmlinux"),
            (folder / "server", "etc/ssh/ssh_host_ed25519_key"),
            (folder / "server.pub", "etc/ssh/ssh_host_ed25519_key.pub"),
            (folder / "client.pub", "root/.ssh/authorized_keys"),
        ):
            tar.add(source, name, filter=_owned_by_root)
        for unit in MASKED:
            _link(tar, f"etc/systemd/system/{unit}", "/dev/null")
        _link(tar, "usr/lib/python3/dist-packages/shadowwatch", "/srv/shadowwatch/shadowwatch")
        for share in ("shadowwatch", "lab", "out"):
            entry = tarfile.TarInfo(f"srv/{share}")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    shutil.rmtree(modules)


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode &= 0o755  # a checkout's mode depends on its owner's umask
    return entry


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = tarfile.SYMTYPE, target
    tar.addfile(entry)


def _bootstrap(cache: Cache, folder: Path, additions: Path) -> None:
    """Run mmdebstrap, which leaves nothing but the image."""
    sources = folder / "sources.list"
    sources.write_text(_sources())
    options = folder / "apt.conf"
    options.write_text(_apt_options())
    disk = folder / "root.ext4"
    # The tree goes into an image as it stands, so nothing may be mounted in it. Root can make the devices that
    # packages ask for; for others mmdebstrap mounts them where nobody else sees it.
    skipped = ["chroot/mount"] if os.geteuid() == 0 else ["chroot/mount/proc", "chroot/mount/sys"]
    command = [
        *("mmdebstrap", "--verbose", "--variant=apt", "--format=null", f"--include={','.join(PACKAGES)}"),
        *(f"--skip={part}" for part in [*skipped, "cleanup"]),
        *('--aptopt=APT::Install-Recommends "false"', f"--aptopt={options}"),
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in EXCLUDED),
        f"--customize-hook=tar-in {shlex.quote(str(additions))} /",
        '--customize-hook=rm -rf "$1"/etc/apt "$1"/var/lib/apt "$1"/var/cache/* "$1"/var/log/*',
        # No journal: nobody boots the image twice.
        f'--customize-hook=mke2fs -q -t ext4 -O ^has_journal -d "$1" {shlex.quote(str(disk))} {SIZE}',
        *(SUITE, "/dev/null", str(sources)),
    ]
    cache.progress(f"root file system: Debian {SUITE} with {' '.join(PACKAGES)}")
    with tempfile.TemporaryDirectory(prefix="shadowwatch-image-", ignore_cleanup_errors=True) as tree:
        Path(tree).chmod(0o755)  # in a user namespace of its own mmdebstrap is somebody else
        _watched(cache, command, {**os.environ, "LC_ALL": "C", "PATH": PATH, "TMPDIR": tree})
    sources.unlink()
    options.unlink()


def _watched(cache: Cache, command: list[str], environment: dict[str, str]) -> None:
    """Run mmdebstrap and pass on how far it is; nothing of it goes on when this is interrupted."""
    said = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True
    ) as run:
        try:
            for line in run.stdout or ():
                said.append(line)
                _report(cache, line)
        except BaseException:
            os.killpg(run.pid, signal.SIGKILL)
            raise
    if run.returncode:
        raise LabError(f"mmdebstrap exited {run.returncode}: {tail(''.join(said), 12)}")


def _report(cache: Cache, line: str) -> None:
    """Pass on what a person who waits would like to know."""
    if found := re.search(r"(\d+) newly installed", line):
        cache.progress(f"root file system: {found[1]} packages")
    elif found := re.search(r"Need to get ([^/]+?)(?:/\S+ \S+)? of archives", line):
        cache.progress(f"root file system: downloading {found[1]}")
    elif line.startswith(("I: installing", "I: extracting")):
        cache.progress(f"root file system: {line[3:].strip()}")
    elif "mke2fs" in line:
        cache.progress("root file system: making the image")


def _sources() -> str:
    """Return the lines of a sources.list for what this machine's apt knows of the suite."""
    template = "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"
    shown = output(["apt-get", "indextargets", "--format", template, "Created-By: Packages", "Origin: Debian"])
    lines = {line for line in shown.splitlines() if line.split()[2].startswith(SUITE)}
    if not lines:
        raise LabError(f"apt on this machine has no packages of Debian {SUITE}: add its sources, then apt-get update")
    return "".join(f"{line}\n" for line in sorted(lines))


def _apt_options() -> str:
    """Return how this machine's apt reaches its sources: proxies, certificates and what it checks."""
    shown = output(["apt-config", "dump", "--no-empty", "--format", '%f "%v";%n'])
    wanted = ("Acquire::http::", "Acquire::https::", "Acquire::Check-", "Acquire::Retries")
    return "".join(f"{line}\n" for line in shown.splitlines() if line.startswith(wanted))
