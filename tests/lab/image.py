# SPDX-License-Identifier: Apache-2.0
"""The lab's root file system: the host's Debian release as an ext4 image, made without a mount or a loop device."""

import shlex
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.lab import debian
from tests.lab.boot import Boot
from tests.lab.cache import Cache, Input
from tests.lab.command import output, require
from tests.lab.hosts import Host
from tests.lab.kernel import Kernel, dependencies

SIZE = "8G"  # the image is sparse: what nobody writes takes no room
# No journal: nobody boots the image twice. No checksums: their module has another name in each Linux.
FEATURES = "^has_journal,^orphan_file,^metadata_csum,^metadata_csum_seed"
FILES = Path(__file__).parent / "rootfs"
PACKAGES = (
    *("systemd-sysv", "kmod", "procps", "iproute2", "openssh-server"),
    *("python3-bpfcc", "python3-prometheus-client", "python3-psutil", "python3-rich"),
    "qemu-system-x86",
    *("curl", "python3-hatchling", "python3-pip"),  # docs/install.md asks for them
)
MODULES = ("autofs4", "kvm_amd", "overlay")
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
        require("mke2fs", "modprobe", "ssh-keygen")
        _keys(folder)
        additions = folder / "additions.tar"
        _pack(folder, additions, kernel, boot)
        _bootstrap(cache, folder, additions, kernel.host)
        additions.unlink()

    inputs: list[Input] = [
        *kernel.packages.binaries,
        *kernel.host.userland,
        FILES,
        Path(__file__),
        Path(debian.__file__),
    ]
    folder = cache.artifact(f"image-{kernel.host.name}", inputs, make)
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


def _bootstrap(cache: Cache, folder: Path, additions: Path, host: Host) -> None:
    """Make the image, while the tree exists, so that its owners are the right ones."""
    disk = folder / "root.ext4"
    hooks = [
        f"tar-in {shlex.quote(str(additions))} /",
        'rm -rf "$1"/etc/apt "$1"/var/lib/apt "$1"/var/cache/* "$1"/var/log/*',
        f'mke2fs -q -t ext4 -O {FEATURES} -d "$1" {shlex.quote(str(disk))} {SIZE}',
    ]
    cache.progress(f"root file system: Debian {host.userland[0]} with {' '.join(PACKAGES)}")
    debian.bootstrap(cache, "root file system", host.userland, PACKAGES, hooks)
