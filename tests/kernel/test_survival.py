# SPDX-License-Identifier: Apache-2.0
"""What a service on a real host survives: a full disk, crowds of VMs, scrapers of every kind, and restarts."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest

from shadowwatch.capture.format import reading
from shadowwatch.mmu.model import KEEP_MOST
from shadowwatch.watch import Watch
from shadowwatch.web.server import HEAD
from tests.kernel.watched import AUDITS, Watched, audited
from tests.lab.ending import Ending
from tests.lab.machine import Lab
from tests.lab.scrape import PORT, scrape_until
from tests.lab.workload import Vmm, Workload, reading_of

pytestmark = pytest.mark.soak

T = TypeVar("T")

#: It makes events all the while, so it is the VM to be exact afterwards.
RESIDENT = "resident"

NOTHING: Counter[str] = Counter()

#: Alive at a time, and how often.
CROWD, CROWDS = 250, 4

#: What memory may grow by when it has been as busy before.
GROWTH_KIB = 8_000

#: Scrapers that nobody wants, of each kind.
MANY = 100

DISK = "/run/small"
FULL = f"{DISK}/full.capture"
NO_ROOM = f"shadowwatch: cannot go on writing {FULL}: No space left on device; make room, or record to another place\n"


@pytest.fixture(scope="module", autouse=True)
def resident(stock: Watched) -> Iterator[None]:
    """It runs from the first test to the last."""
    with Vmm(stock.lab, Workload(RESIDENT, accesses=2_000), rounds=0, pause_ms=500):
        scrape_until(stock.port, lambda metrics: metrics.sum("zaps_total", vm=RESIDENT) > 0)
        yield


def unharmed(stock: Watched) -> None:
    """Nothing was lost, and the model is the kernel's list."""
    metrics = audited(stock, RESIDENT)
    assert metrics.sum("events_lost_total") == 0
    assert metrics.sum("events_undecodable_total") == 0


def settled(ask: Callable[[], T], wanted: T, seconds: float = 60) -> None:
    """Wait until the answer is this: kernel and server give back what they have a little later."""
    deadline = time.monotonic() + seconds
    while (found := ask()) != wanted:
        assert time.monotonic() < deadline, f"{found} instead of {wanted}"


def process(lab: Lab, command: str) -> int:
    """The number that a command says of the service's process."""
    return int(lab.run(f"cd /proc/$(systemctl show -p MainPID --value shadowwatch) && {command}").stdout)


def descriptors(stock: Watched) -> int:
    """How many the service has open."""
    return process(stock.lab, "ls fd | wc -l")


def resident_kib(stock: Watched) -> int:
    """What of the service is in memory."""
    return process(stock.lab, "awk '/^VmRSS/ { print $2 }' status")


def bpf_objects(stock: Watched) -> Counter[str]:
    """What the kernel has of BPF, and which VMs that knows."""
    said = stock.lab.run(["python3", "/srv/shadowwatch/tests/lab/bpf_objects.py"]).stdout
    return Counter(said.splitlines())


class Crowd(Ending):
    """Small VMs that are alive at the same time."""

    def __init__(self, lab: Lab, name: str, count: int) -> None:
        vmm = " ".join(Workload(f"{name}-$i", directories=1, tables=4, accesses=64).argv())
        # They end with the standard input that they share.
        line = f"exec 3<&0; for i in $(seq {count}); do {vmm} <&3 3<&- & done; wait"
        self._process = lab.popen(line, stderr=subprocess.STDOUT)
        #: How many shadow pages the kernel has allocated for each.
        self.allocations: dict[str, int] = {}
        for _ in range(count):
            said = reading_of(self._process, name)
            self.allocations[said.name] = said.counters["mmu_cache_miss"]

    def quit(self) -> None:
        """End them all."""
        self._process.communicate()


class Nuisance(Ending):
    """Clients of one kind of nuisance.py, which hold on until the end."""

    def __init__(self, lab: Lab, kind: str, count: int) -> None:
        self._process = lab.popen(["python3", "/srv/shadowwatch/tests/lab/nuisance.py", kind, str(PORT), str(count)])
        assert self._process.stdout
        assert self._process.stdout.readline() == f"{count}\n"

    def quit(self) -> None:
        """Hang up."""
        self._process.communicate()


def cut_off_but_exact(path: Path) -> None:
    """The end is missing and said to be; all before is there, and the audits in it found no difference."""
    with reading(str(path)) as reader:
        watch = Watch(reader.facts, reader.name_of)
        for batch in reader.whole_batches():
            watch.take(batch)
    cut = f"{path} is cut off after {watch.received:,} events; the figures cover no more"
    assert str(reader.fault).startswith(cut)
    (vm,) = (vm for vm in watch.snapshot().vms if vm.name == RESIDENT)
    assert (vm.exact, vm.lost, vm.unknown_pages, watch.difference) == (True, 0, {}, None)
    assert vm.audits > 0
    for command in ("info", "replay"):
        done = subprocess.run(
            [sys.executable, "-m", "shadowwatch", command, str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        # Folded, since the path is long.
        assert "".join(cut.split()) in "".join((done.stdout + done.stderr).split())


def filled(lab: Lab, command: str, folder: Path) -> str:
    """Record onto a small file system until it is full; what was written goes to a folder here, what was said back."""
    lab.run(f"mkdir -p {DISK} && mount -t tmpfs -o size=900k tmpfs {DISK}")
    with Vmm(lab, Workload("writer"), rounds=0):
        done = lab.run(f"{command} {FULL}", check=False)
    # A file system on which anything is open is not unmounted.
    lab.run(f"cp {FULL} /srv/out && umount {DISK}")
    shutil.copy(lab.out / Path(FULL).name, folder)
    cut_off_but_exact(folder / Path(FULL).name)
    assert done.returncode == 1
    return done.stderr


def test_a_full_disk_ends_a_recording_and_nothing_else(stock: Watched, tmp_path: Path) -> None:
    """One line says so; what was written is exact; the daemon has let go of the file, and goes on."""
    assert filled(stock.lab, "shadowwatch record", tmp_path) == NO_ROOM
    unharmed(stock)


MALFORMED = {
    b"\x16\x03\x01\x02\x00\x01\x00\xfc\x03\x03\r\n\r\n": 400,
    b"GET /metrics\r\n\r\n": 400,
    b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n": 400,
    b"DELETE /metrics HTTP/1.1\r\n\r\n": 405,
    b"GET /metrics HTTP/1.1\r\nA: " + b"a" * HEAD + b"\r\n\r\n": 431,
    b"GET /" + b"a" * HEAD + b" HTTP/1.1\r\n\r\n": 431,
}


def test_scrapers_of_every_kind_delay_nothing(stock: Watched) -> None:
    """Malformed, half said, never read, a thousand at once: others have figures of now, and nothing is left of it."""

    def answers_at_once() -> None:
        """With figures of now."""
        before = stock.metrics().sum("allocations_total", vm=RESIDENT)
        metrics = scrape_until(
            stock.port, lambda metrics: metrics.sum("allocations_total", vm=RESIDENT) > before, seconds=10
        )
        assert metrics.sum("events_behind_seconds") < 1
        assert metrics.sum("events_lost_total") == 0

    def thousand() -> None:
        """All at once; each has a whole answer in the end."""
        words = ["python3", "/srv/shadowwatch/tests/lab/nuisance.py", "scrapes", str(PORT), "1000"]
        assert stock.lab.run(words).stdout == "1000\n"
        answers_at_once()

    with Crowd(stock.lab, "watched", 40):  # for an answer that is more than the kernel buffers
        answers_at_once()
        open_before = descriptors(stock)
        thousand()
        settled(lambda: descriptors(stock), open_before)
        kib_before = resident_kib(stock)
        for request, status in MALFORMED.items():
            with socket.create_connection(("127.0.0.1", stock.port), timeout=30) as client:
                with suppress(ConnectionError):
                    client.sendall(request)
                assert client.recv(100).startswith(f"HTTP/1.1 {status} ".encode()), request
        with Nuisance(stock.lab, "deaf", MANY), Nuisance(stock.lab, "half", MANY):
            assert descriptors(stock) > open_before + MANY
            answers_at_once()
        thousand()
        settled(lambda: descriptors(stock), open_before)
        assert resident_kib(stock) - kib_before < GROWTH_KIB
    unharmed(stock)


def test_a_thousand_vms_come_and_go(stock: Watched) -> None:
    """Each is counted as the kernel does while it is there; of all that ended little is kept, and that is bounded."""
    scrape_until(stock.port, lambda metrics: metrics.sum("vms", state="running") == 1)
    settled(lambda: bpf_objects(stock)["key vms"], 1)
    objects, open_before, kib = bpf_objects(stock), descriptors(stock), []
    for number in range(CROWDS):
        with Crowd(stock.lab, f"crowd-{number}", CROWD) as crowd:
            metrics = scrape_until(
                stock.port,
                lambda metrics, wanted=crowd.allocations: (  # type: ignore[misc]
                    wanted.items() <= metrics.by("vm", "allocations_total").items()
                ),
            )
            assert metrics.sum("vms", state="running") == CROWD + 1
        metrics = scrape_until(stock.port, lambda metrics: metrics.sum("vms", state="running") == 1)
        assert metrics.sum("vms", state="ended") == KEEP_MOST
        kib.append(resident_kib(stock))
    assert kib[-1] - kib[0] < GROWTH_KIB
    settled(lambda: bpf_objects(stock), objects)
    settled(lambda: descriptors(stock), open_before)
    unharmed(stock)


def test_nothing_of_it_is_left_in_the_kernel(stock: Watched, tmp_path: Path) -> None:
    """Stopped, killed, or ended by a full disk: no program, map, link or kprobe is left; a restart has as many."""
    lab = stock.lab
    objects = bpf_objects(stock)
    assert {line.split()[0] for line in objects} == {"program", "map", "link", "key", "kprobe"}
    lab.run("systemctl stop shadowwatch")
    settled(lambda: bpf_objects(stock), NOTHING)
    assert filled(lab, "shadowwatch record --standalone --audit-interval 0.3", tmp_path) == NO_ROOM
    settled(lambda: bpf_objects(stock), NOTHING)
    lab.start_daemon(AUDITS)
    unharmed(stock)
    settled(lambda: bpf_objects(stock), objects)
    lab.run("systemctl kill -s KILL shadowwatch; systemctl stop shadowwatch")
    settled(lambda: bpf_objects(stock), NOTHING)
    lab.start_daemon(AUDITS)
    unharmed(stock)
    settled(lambda: bpf_objects(stock), objects)
