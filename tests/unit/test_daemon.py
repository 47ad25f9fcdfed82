# SPDX-License-Identifier: Apache-2.0
"""The long-running half's loop; the rest of it is proven in the lab."""

from __future__ import annotations

import mmap
import os
import signal
import socket
import ssl
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import pytest

from shadowwatch.capture.format import FlightRecorder, pack
from shadowwatch.daemon.loop import PERIOD_SECONDS, Audits, Collection
from shadowwatch.daemon.notices import Notices
from shadowwatch.daemon.walker import Walker
from shadowwatch.event.abi import RECORD, Batch
from shadowwatch.event.ring import Ring
from shadowwatch.start.handover import Handover
from shadowwatch.watch import Watch
from tests.bench import scrape_cost
from tests.unit.certificates import Authority
from tests.unit.heard import KVM, grown, spt
from tests.unit.kernel import Kernel, facts
from tests.unit.kernelless import Kernelless
from tests.unit.story import FACTS, Story

SIZE = 2 << 20


def test_a_storm_does_not_hold_the_loop() -> None:
    """A ring that is full again after each look is left after one ring-full, so SIGTERM gets its turn."""
    ring_fd, counters_fd = os.memfd_create("ring"), os.memfd_create("counters")
    os.truncate(ring_fd, 2 * mmap.PAGESIZE + SIZE)
    os.truncate(counters_fd, mmap.PAGESIZE)
    looks = 0

    with mmap.mmap(ring_fd, 2 * mmap.PAGESIZE) as memory:

        def refill() -> int:
            """The clock, which is asked in each look: by then there is more."""
            nonlocal looks
            looks += 1
            assert looks < 10, "the step does not end"
            (consumed,) = struct.unpack_from("<Q", memory)
            struct.pack_into("<Q", memory, mmap.PAGESIZE, consumed + SIZE)
            return looks

        ring = Ring(ring_fd, counters_fd, SIZE, refill)
        struct.pack_into("<Q", memory, mmap.PAGESIZE, SIZE)
        watch = Watch(FACTS, str)
        Collection(ring, watch, None).step()
        received = watch.snapshot().received
        assert SIZE // RECORD.size <= received < 2 * SIZE // RECORD.size
    os.close(ring_fd)
    os.close(counters_fd)


def test_a_reload_keeps_the_model_and_says_what_it_does(tmp_path: Path) -> None:
    """SIGHUP to the real process: what is right holds from then on, what is not changes nothing, the counts go on."""
    authority = Authority(tmp_path / "tls")
    authority.issue("server", "IP:127.0.0.1")
    web, config = tmp_path / "tls" / "web.yml", tmp_path / "a.toml"
    web.write_text("tls_server_config: {cert_file: server.pem, key_file: server.key}\n")
    config.write_text("")
    with Kernelless(config) as daemon:
        host, port = daemon.address.split(":")

        def metrics() -> str:
            context = ssl.create_default_context(cafile=str(authority.certificate))
            with urlopen(f"https://{daemon.address}/metrics", context=context, timeout=10) as answer:
                text: str = answer.read().decode()
            return text

        def certificate() -> str:
            return ssl.get_server_certificate((host, int(port)), ca_certs=str(authority.certificate))

        story = Story()
        story.ns = time.monotonic_ns()
        story.alloc(1)
        daemon.put(story.records())
        config.write_text(f'[run]\nweb-config-file = "{web}"\nrecent-seconds = 5\nring-mib = 8\n')
        said = f"read {config} again: web-config-file is {web}, recent-seconds is 5; for ring-mib restart shadowwatch"
        assert daemon.reload() == f"shadowwatch: {said}"
        assert 'shadowwatch_allocations_total{vm="4711",level="1"} 1\n' in metrics()
        first = certificate()
        config.write_text("[run]\nrecent-second = 6\n")
        said = f"shadowwatch: {config}: there is no [run] recent-second; did you mean recent-seconds"
        assert daemon.reload() == f"{said}; all settings stay as they are"
        config.write_text(f'[run]\nweb-config-file = "{web}"\naudit-interval = 1\n')
        web.write_text("tls_server_config: {cert_file: server.pem}\n")
        said = f"shadowwatch: {web}: tls_server_config.key_file is missing; it is the path of a file"
        assert daemon.reload() == f"{said}; all settings stay as they are"
        assert certificate() == first
        web.write_text("tls_server_config: {cert_file: server.pem, key_file: server.key}\n")
        authority.issue("server", "IP:127.0.0.1")
        assert "audit-interval is 1" in daemon.reload()
        assert certificate() != first
        assert 'shadowwatch_allocations_total{vm="4711",level="1"} 1\n' in metrics()
        daemon.end()


def test_settings_that_were_handed_over_hold_from_the_start(tmp_path: Path) -> None:
    """TLS with files that are gone by then, as they are for one who may not read them."""
    authority = Authority(tmp_path)
    authority.issue("server", "IP:127.0.0.1")
    web = tmp_path / "web.yml"
    web.write_text("tls_server_config: {cert_file: server.pem, key_file: server.key}\n")
    with Kernelless(web_config_file=str(web)) as daemon:
        (tmp_path / "server.key").unlink()
        context = ssl.create_default_context(cafile=str(authority.certificate))
        with urlopen(f"https://{daemon.address}/-/ready", context=context, timeout=10) as answer:
            assert answer.read() == b"ready\n"
        assert daemon.reload().startswith(f"shadowwatch: cannot read {tmp_path / 'server.key'}: No such file")
        with urlopen(f"https://{daemon.address}/-/ready", context=context, timeout=10) as answer:
            assert answer.read() == b"ready\n"
        daemon.end()


def within(seconds: float, holds: Callable[[], bool]) -> None:
    """Assert that this comes to hold."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_who_is_stopped_goes_on_when_told_to(tmp_path: Path) -> None:
    """As by a debugger or a suspended host, whatever it was waiting for, and for longer than it would have waited."""
    config = tmp_path / "a.toml"
    config.write_text("")
    with Kernelless(config) as daemon:
        for _ in range(10):
            for told in (signal.SIGSTOP, signal.SIGCONT):
                daemon.process.send_signal(told)
                time.sleep(2 * PERIOD_SECONDS)
        assert "no setting changed" in daemon.reload()
        daemon.end()


@pytest.mark.parametrize("scrapes", [200, pytest.param(1000, marks=pytest.mark.soak)])
def test_scrapes_by_the_hundred_leave_nothing_behind(scrapes: int) -> None:
    """Descriptors and threads are as many as before, the loop went on, and the count is exact after it."""
    with Kernelless() as daemon:
        story = Story()
        story.ns = time.monotonic_ns()

        def scrape(_: int) -> bytes:
            with urlopen(f"http://{daemon.address}/metrics", timeout=60) as answer:
                body: bytes = answer.read()
            return body

        scrape(0)
        before, threads = daemon.descriptors(), daemon.threads()
        with ThreadPoolExecutor(100) as pool:
            bodies = pool.map(scrape, range(scrapes))
            for page in range(50):
                story.alloc(page)
                daemon.put(story.records())
                story.events.clear()
            assert all(body.endswith(b"\n") for body in bodies)
        within(60, lambda: daemon.descriptors() <= before and daemon.threads() <= threads)
        within(60, lambda: b'shadowwatch_allocations_total{vm="4711",level="1"} 50\n' in scrape(0))
        daemon.end()


@pytest.mark.soak
def test_a_scrape_of_a_thousand_vms_is_cheap_and_the_loop_goes_on() -> None:
    """Bounds for a loaded machine, the medians of five; `make bench` has the figures of a quiet one."""
    all_changed, a_tenth = scrape_cost.measured(vms=1000, turns=6, changed=(1000, 100), repetitions=5)
    for scrapes, milliseconds in ((all_changed, 250), (a_tenth, 75)):
        assert scrapes.lines > 50_000
        assert median(scrapes.spent_ms) < milliseconds
        assert median(scrapes.late_ms) < 25


@pytest.mark.soak
def test_at_rest_the_daemon_takes_next_to_nothing() -> None:
    """Twenty looks a second at an empty ring; half a percent of a core is asked, five are a fault."""
    with Kernelless() as daemon:
        assert median(scrape_cost.shares(daemon, seconds=1.0, repetitions=3)) < 5
        looks = daemon.end()
    assert len(looks) > 40


def test_a_port_that_systemd_keeps_outlives_the_daemon() -> None:
    """Who asks between two of them waits for the second, which serves there and not where the settings say."""
    with socket.create_server(("127.0.0.1", 0)) as kept:
        address = "{}:{}".format(*kept.getsockname())
        with Kernelless(listener=kept) as first:
            assert first.address == address
            first.end()
        with socket.create_connection(kept.getsockname()) as asker:
            asker.sendall(b"GET /-/ready HTTP/1.1\r\n\r\n")
            with Kernelless(listener=kept) as second, asker.makefile() as answer:
                assert second.address == address
                assert answer.read().endswith("\n\nready\n")


def test_a_full_disk_costs_what_led_to_a_difference_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    """An audit's difference cannot be written down: that is said once, and the daemon goes on."""
    kernel = Kernel()
    vm = kernel.add(KVM)
    watch = Watch(facts(), str)
    flight = FlightRecorder(os.open("/dev/full", os.O_WRONLY), "/dev/full", facts())

    def hear() -> None:
        batch = Batch(time.monotonic_ns(), 0, 0, kernel.ring.take())
        watch.take(batch)
        flight.write(pack(batch))

    grown(vm)
    hear()
    del vm.edges[spt(1)]
    kernel.walk(KVM, 1, True)
    hear()
    assert watch.difference
    handover = Handover(ring=-1, ring_size=0, counters=-1, requests=-1, facts="", listen="")
    audits = Audits(Walker(kernel, watch, 1000, hear), watch, handover, flight)
    assert audits.turn(1)
    assert audits.turn(2)
    why = "No space left on device; make room, or record to another place"
    assert "".join(capsys.readouterr()) == f"shadowwatch: cannot go on writing /dev/full: {why}\n"


def test_reclaim_of_the_newest_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """When it shows, and neither before nor at later looks, with events or without."""
    watch, story = Watch(FACTS, str), Story()
    notices = Notices(watch)
    said = []
    for number in range(4):
        if number < 3:
            for page in range(1, 200):
                story.alloc(page)
            story.reclaim()
            # The oldest first at first, then the newest.
            for page in range(1, 200) if number == 0 else range(199, 0, -1):
                story.zap(page)
            watch.take(Batch(story.ns, 0, 0, story.records()))
            story.events.clear()
        notices.look()
        said.append("".join(capsys.readouterr()))
    assert [bool(words) for words in said] == [False, True, False, False]
    assert "VM 4711: reclaim takes the newest pages instead of the oldest" in said[1]
