# SPDX-License-Identifier: Apache-2.0
"""Debian's package on a KVM host: installed, upgraded, in trouble, and purged."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowwatch import __version__
from tests.lab.command import PATH
from tests.lab.machine import CHECKOUT, UNIT, Lab, say
from tests.lab.scrape import PORT, Metrics, scrape_until
from tests.lab.workload import Vmm, Workload

OLD = "0.0.1"
PACKAGE = f"shadowwatch_{__version__}_all.deb"
#: The lab's image leaves out what nobody reads there.
INSTALL = "dpkg -i --path-include='/usr/share/*' /srv/out"

SOON = "[Service]\nWatchdogSec=4\nRestartSec=100ms\n"
#: For a start, compiling and attaching included, on a busy machine.
ATTACH_SECONDS = 180


def packages(folder: Path) -> None:
    """Build the checkout's package, and make one of an older version of it."""
    subprocess.run(["make", "--silent", "deb"], cwd=CHECKOUT, check=True)
    shutil.copy(CHECKOUT / "dist" / PACKAGE, folder)
    old = folder / "old"
    subprocess.run(["dpkg-deb", "--raw-extract", folder / PACKAGE, old], check=True)
    for path in (old / "DEBIAN/control", old / "usr/lib/python3/dist-packages/shadowwatch/__init__.py"):
        path.write_text(path.read_text().replace(__version__, OLD))
    (old / "DEBIAN/md5sums").unlink()
    environment = {"PATH": PATH}
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", old, folder], check=True, env=environment)
    shutil.rmtree(old)


class Host:
    """A lab with the package instead of the checkout."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.port = lab.forward(PORT)

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
    """It has the packages in /srv/out, and none of them installed."""
    with Lab.boot(kvm="stock", progress=say) as lab:
        packages(lab.out)
        lab.run("rm /usr/bin/shadowwatch /usr/lib/python3/dist-packages/shadowwatch")
        # What made the image left this, by which no package starts a service.
        lab.run("rm /usr/sbin/policy-rc.d")
        # So that nobody waits long here.
        lab.run(f"mkdir -p /run/systemd/system/{UNIT}.d && cat >/run/systemd/system/{UNIT}.d/soon.conf", stdin=SOON)
        yield Host(lab)


def test_it_installs_starts_and_survives_an_upgrade(host: Host) -> None:
    """The unit as it is in the checkout, metrics of a VM, and of the same VM after the upgrade."""
    host.lab.run(f"{INSTALL}/shadowwatch_{OLD}_all.deb")
    assert (host.show("ActiveState"), host.show("UnitFileState")) == ("active", "enabled")
    host.lab.run(f"cmp {host.show('FragmentPath')} /srv/shadowwatch/systemd/{UNIT}")
    pid = host.show("MainPID")
    with Vmm(host.lab, Workload("upgraded", accesses=2_000)) as vmm:
        counters = vmm.finished().counters
        before = host.served("upgraded")
        assert before.sum("build_info", version=OLD) == 1
        host.lab.run(f"{INSTALL}/{PACKAGE}")
        host.replaced(pid)
        after = host.served("upgraded")
        assert after.sum("build_info", version=__version__) == 1
        pages = counters["mmu_cache_miss"] - counters["mmu_shadow_zapped"]
        assert before.sum("pages", vm="upgraded") == after.sum("pages", vm="upgraded") == pages
    assert host.lab.run("shadowwatch --version").stdout == f"shadowwatch {__version__}\n"
    assert host.show("NRestarts") == "0"


def test_a_process_that_hangs_or_dies_is_replaced(host: Host) -> None:
    """Stopped, it is missed by the watchdog, and its stack is in the journal; killed in either half, by systemd."""
    stopped = host.show("MainPID")
    host.lab.run(f"kill -STOP {stopped}")
    killed = host.replaced(stopped)
    said = host.journal()
    assert "Watchdog timeout (limit 4s)!" in said
    assert "Fatal Python error: Aborted" in said
    assert "in watch_until_told" in said
    host.lab.run(f"kill -KILL {killed}")
    first_half = host.replaced(killed, "activating")
    host.lab.run(f"kill -KILL {first_half}")
    host.replaced(first_half)
    scrape_until(host.port, lambda metrics: metrics.sum("events_lost_total") == 0)
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
    host.lab.run("dpkg --purge shadowwatch")
    assert host.show("MainPID") == "0"
    left = "find / -xdev -path /srv -prune -o -name '*shadowwatch*' -print; ls -d /run/shadowwatch"
    assert host.lab.run(left, check=False).stdout == ""
    assert host.lab.run("getent passwd shadowwatch").stdout.startswith("shadowwatch:x:")
