# SPDX-License-Identifier: Apache-2.0
"""Debian's package on a KVM host, as docs/install.md has it: installed, upgraded, in trouble, and purged."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowwatch import __version__
from tests.lab.command import PATH
from tests.lab.document import Step, sections
from tests.lab.machine import CHECKOUT, UNIT, Lab, say
from tests.lab.scrape import PORT, Metrics, scrape_until
from tests.lab.workload import Vmm, Workload

pytestmark = pytest.mark.soak

OLD = "0.0.1"
DOCUMENT = sections(CHECKOUT / "docs/install.md")
#: Made on this machine, since the lab has no compiler.
MAKE = "make deb"
#: What only looks is done again until it shows what it should.
LOOKS = ("curl", "journalctl", "shadowwatch top", "shadowwatch tree")
LOOK_SECONDS = 60

SOON = "[Service]\nWatchdogSec=4\nRestartSec=100ms\n"
#: The lab's image has the kernel's headers, but not as a package.
HEADERS = "Package: linux-headers-{}\nVersion: 1\nArchitecture: all\nMaintainer: lab\nDescription: none\n"
#: For a start, compiling and attaching included, on a busy machine.
ATTACH_SECONDS = 180


def older(package: Path, folder: Path) -> Path:
    """Make a package of an older version from this one."""
    tree, old = folder / "old", folder / f"shadowwatch_{OLD}_amd64.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True)
    for path in (tree / "DEBIAN/control", tree / "usr/lib/python3/dist-packages/shadowwatch/__init__.py"):
        path.write_text(path.read_text().replace(__version__, OLD))
    (tree / "DEBIAN/md5sums").unlink()
    build: list[str | Path] = ["dpkg-deb", "--root-owner-group", "--build", tree, old]
    subprocess.run(build, check=True, capture_output=True, env={"PATH": PATH})
    shutil.rmtree(tree)
    return old


class Host:
    """A lab in which somebody follows the document."""

    def __init__(self, lab: Lab, made: str) -> None:
        """`made` is what MAKE said."""
        self.lab = lab
        self.port = lab.forward(PORT)
        self.followed: list[str] = []
        self._made = made
        package = CHECKOUT / "dist" / f"shadowwatch_{__version__}_amd64.deb"
        self._packages = [older(package, lab.out), package]
        self._checkout = lab.out / "checkout"
        self._checkout.mkdir()
        for name in ("LICENSE", "README.md", "pyproject.toml"):
            shutil.copy(CHECKOUT / name, self._checkout)
        for name in ("bpf", "docs", "shadowwatch", "systemd"):
            shutil.copytree(CHECKOUT / name, self._checkout / name, ignore=shutil.ignore_patterns("__pycache__"))

    def follow(self, section: str) -> None:
        """Do what the document says there, and see what it says that one sees."""
        for step in DOCUMENT[section]:
            deadline = time.monotonic() + LOOK_SECONDS
            while True:
                code, output = self._make() if step.command == MAKE else self._do(step)
                if code == 0 and step.said(output):
                    break
                again = step.command.startswith(LOOKS) and time.monotonic() < deadline
                assert again, f"{step.command!r} exited {code} and said\n{output}"
        self.followed.append(section)

    def _do(self, step: Step) -> tuple[int, str]:
        """A step in the lab, by one who says yes when asked."""
        line = f"exec 2>&1; cd /srv/out/checkout; {step.command}"
        if not step.root:
            # A new login has the groups that its user has now.
            line = shlex.join(["runuser", "-l", "you", "-c", f"exec 2>&1; {step.command}"])
        done = self.lab.run(line, stdin="y\n", check=False)
        return done.returncode, done.stdout

    def _make(self) -> tuple[int, str]:
        """What MAKE said, and its package: the first time an older checkout's."""
        dist = self._checkout / "dist"
        shutil.rmtree(dist, ignore_errors=True)
        dist.mkdir()
        shutil.copy(self._packages.pop(0), dist)
        return 0, self._made

    def show(self, name: str) -> str:
        """One property of the service."""
        return self.lab.run(["systemctl", "show", "-p", name, "--value", UNIT]).stdout.strip()

    def replaced(self, old: str, state: str = "active") -> str:
        """Wait until another process than this is in that state; returns its pid."""
        deadline = time.monotonic() + ATTACH_SECONDS
        while time.monotonic() < deadline:
            pid = self.show("MainPID")
            if pid not in ("0", old) and self.show("ActiveState") == state:
                return pid
        raise AssertionError(self.journal())

    def journal(self) -> str:
        """What the service has said."""
        return self.lab.run(["journalctl", "-o", "cat", "-u", UNIT]).stdout

    def served(self, vm: str) -> Metrics:
        """The metrics, once this VM is in them and its model is the kernel's list."""
        return scrape_until(self.port, lambda metrics: metrics.sum("vm_exact", vm=vm) == 1)


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host without shadowwatch, and with a user; its packages are made meanwhile."""
    # As one makes them by hand: a make below another one, as this may be, says more.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    with (
        subprocess.Popen(MAKE.split(), cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True) as making,
        Lab.boot(kvm="stock", progress=say) as lab,
    ):
        made, _ = making.communicate()
        assert making.returncode == 0, made
        lab.run("rm /usr/bin/shadowwatch /usr/lib/python3/dist-packages/shadowwatch")
        # What made the image left these: no package starts a service, or brings what nobody reads in a lab.
        lab.run("rm /usr/sbin/policy-rc.d /etc/dpkg/dpkg.cfg.d/*")
        make = "mkdir -p /tmp/headers/DEBIAN && cat >/tmp/headers/DEBIAN/control && dpkg-deb -b /tmp/headers /tmp"
        lab.run(f"{make} && dpkg -i /tmp/linux-headers-*.deb", stdin=HEADERS.format(lab.release))
        lab.run("useradd --create-home you")
        # So that nobody waits long here.
        lab.run(f"mkdir -p /run/systemd/system/{UNIT}.d && cat >/run/systemd/system/{UNIT}.d/soon.conf", stdin=SOON)
        yield Host(lab, made)


def test_it_installs_and_starts(host: Host) -> None:
    """By the unit as it is in the checkout, at each boot."""
    host.follow("The package")
    assert host.show("UnitFileState") == "enabled"
    host.lab.run(f"cmp {host.show('FragmentPath')} /srv/shadowwatch/systemd/{UNIT}")


def test_it_shows_a_vm_reads_its_settings_and_survives_an_upgrade(host: Host) -> None:
    """With the same VM, whose pages it knows after the upgrade, and no restart but that."""
    with Vmm(host.lab, Workload("web1", accesses=2_000)) as vmm:
        counters = vmm.finished().counters
        host.follow("A first look")
        before = host.served("web1")
        assert before.sum("build_info", version=OLD) == 1
        host.follow("Settings")
        pid = host.show("MainPID")
        host.follow("Upgrade")
        assert host.show("MainPID") != pid
        after = host.served("web1")
        pages = counters["mmu_cache_miss"] - counters["mmu_shadow_zapped"]
        assert before.sum("pages", vm="web1") == after.sum("pages", vm="web1") == pages
    assert host.show("NRestarts") == "0"


def test_a_process_that_hangs_or_dies_is_replaced(host: Host) -> None:
    """Stopped, it is missed by the watchdog, and its stack is in the journal; killed in either half, by systemd."""
    stopped = host.show("MainPID")
    host.lab.run(f"kill -STOP {stopped}")
    first_half = host.replaced(stopped, "activating")
    said = host.journal()
    assert "Watchdog timeout (limit 4s)!" in said
    assert "Fatal Python error: Aborted" in said
    assert re.search(r'/loop\.py", line \d+ in run\b', said)
    host.lab.run(f"kill -KILL {first_half}")
    killed = host.replaced(first_half)
    scrape_until(host.port, lambda metrics: metrics.sum("events_lost_total") == 0)
    host.lab.run(f"kill -KILL {killed}")
    host.replaced(killed, "activating")
    assert host.show("NRestarts") == "3"


def test_it_waits_for_the_module_as_long_as_it_takes(host: Host) -> None:
    """Longer than the watchdog does, which hears of it all the while; a reload changes nothing."""
    host.lab.run(["systemctl", "stop", UNIT])
    host.lab.unload_kvm()
    host.lab.run(["systemctl", "start", UNIT])
    assert host.show("StatusText") == "waiting for the kvm module to be loaded"
    waiting = host.show("MainPID")
    host.lab.run(["systemctl", "reload", UNIT])
    begun = int(host.show("WatchdogTimestampMonotonic"))
    while int(host.show("WatchdogTimestampMonotonic")) < begun + 6_000_000:
        assert host.show("ActiveState") == "active"
    assert host.show("MainPID") == waiting


def test_it_goes_without_a_trace(host: Host) -> None:
    """But for the user, whose number nobody else may get."""
    host.lab.run("touch /var/lib/shadowwatch/difference.capture")
    host.follow("Removal")
    assert host.show("MainPID") == "0"
    left = "find / -xdev -path /srv -prune -o -name '*shadowwatch*' -print; ls -d /run/shadowwatch"
    assert host.lab.run(left, check=False).stdout == ""
    assert host.lab.run("getent passwd shadowwatch").stdout.startswith("shadowwatch:x:")


def test_it_runs_without_a_package(host: Host) -> None:
    """From the checkout, with Debian's packages and no network, begun by who asks at the port that systemd keeps.

    Then the whole document was followed.
    """
    host.lab.load_kvm("stock")
    with Vmm(host.lab, Workload("web1", accesses=2_000)) as vmm:
        vmm.finished()
        host.follow("Without a package")
        assert host.served("web1").sum("build_info", version=__version__) == 1
    assert host.followed == list(DOCUMENT)
