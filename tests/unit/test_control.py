# SPDX-License-Identifier: Apache-2.0
"""The daemon's socket, with a real socket, real files and a loop that feeds a story."""

from __future__ import annotations

import fcntl
import io
import json
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from shadowwatch.capture.format import Reader, reading
from shadowwatch.capture.recording import RecordingProgress
from shadowwatch.control import aside, server
from shadowwatch.control.client import Live, connect
from shadowwatch.control.protocol import CONNECTIONS, GREETING, VERSION
from shadowwatch.control.server import LONGEST, listen
from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import RECORD
from shadowwatch.watch import Watch
from tests.unit.daemon import STATUS, Daemon, looking


def within(seconds: float, holds: Callable[[], bool]) -> None:
    """Assert that this comes to hold."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_socket_is_for_root_or_a_group(tmp_path: Path) -> None:
    """From the moment that it is there; without a group nobody else may ask."""
    for name, group in (("alone", None), ("group", os.getegid())):
        listen(str(tmp_path / name), group).close()
    assert stat.S_IMODE((tmp_path / "alone").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "group").stat().st_mode) == 0o660
    assert (tmp_path / "group").stat().st_gid == os.getegid()


def test_a_second_daemon_is_refused_and_a_dead_ones_place_is_taken(tmp_path: Path) -> None:
    """Two would answer in turn; a socket that nobody answers at is left from one that was killed."""
    path = str(tmp_path / "control")
    first = listen(path, None)
    with pytest.raises(ShadowwatchError, match="another shadowwatch answers at"):
        listen(path, None)
    first.close()
    listen(path, None).close()


def test_a_path_that_no_socket_can_have_is_one_sentence(tmp_path: Path) -> None:
    """The kernel has 108 bytes for it."""
    with pytest.raises(ShadowwatchError, match=r"^cannot make the socket .*: AF_UNIX path too long; choose"):
        listen(str(tmp_path / ("a" * 108)), None)


NO_REQUESTS = [
    *(b"{}", b"null", b"[1]", b"what", b"\xff", b'{"ask": "no"}', b'{"ask": "detail"}', b'{"ask": ["status"]}'),
    *(b"[" * 60_000, b"9" * 60_000, b'{"ask": "record", "paths": ["a"], "most": null}'),
]


@pytest.mark.parametrize("request_", NO_REQUESTS)
def test_what_is_no_request_is_answered_with_an_error(daemon: Daemon, request_: bytes) -> None:
    """And the next request is heard all the same."""
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(daemon.path)
        lines = asker.makefile("r")
        asker.sendall(f"{GREETING}\n".encode())
        assert lines.readline() == f"{GREETING}\n"
        for line in (request_, request_):
            asker.sendall(line + b"\n")
            assert "error" in json.loads(lines.readline())
        asker.sendall(b'{"ask": "status"}\n')
        assert "kvm1" in lines.readline()


@pytest.mark.parametrize(
    ("first", "answer"),
    [
        (
            '{"ask": "status"}',
            f"the daemon speaks version {VERSION} of its protocol, this shadowwatch version 1; use the",
        ),
        (f'{{"shadowwatch": {VERSION + 1}}}', GREETING),
        ('{"shadowwatch": Infinity}', "this shadowwatch version 1; use the"),
        ("[" * 60_000, "this shadowwatch version 1; use the"),
    ],
)
def test_an_asker_of_another_version_is_told_so_and_left(daemon: Daemon, first: str, answer: str) -> None:
    """One from before there were greetings shows the sentence, any other makes its own; neither is read on."""
    with socket.socket(socket.AF_UNIX) as asker:
        asker.settimeout(10)
        asker.connect(daemon.path)
        asker.sendall(f'{first}\n{{"ask": "status"}}\n'.encode())
        (line,) = asker.makefile("r")
        assert answer in line


def test_an_endless_request_is_not_read(daemon: Daemon) -> None:
    """The connection ends, and the daemon's memory stays what it was."""
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(daemon.path)
        asker.settimeout(10)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            asker.sendall(b"x" * (1000 * LONGEST))


def test_too_many_askers_are_sent_away_and_make_room_when_they_go(daemon: Daemon) -> None:
    """The others go on being answered."""
    lives = [connect(daemon.path) for _ in range(CONNECTIONS)]
    assert all(live.status() == STATUS for live in lives)
    with pytest.raises(ShadowwatchError, match="control: 32 others are connected, which is as many as"):
        connect(daemon.path)
    # Also when it is heard only after the daemon has hung up.
    with socket.socket(socket.AF_UNIX) as late:
        late.connect(daemon.path)
        hung_up = select.poll()
        hung_up.register(late, select.POLLRDHUP)
        assert hung_up.poll(10_000)
        with pytest.raises(ShadowwatchError, match="32 others are connected"):
            Live(late, daemon.path).greet()
    assert lives[0].status() == STATUS
    for live in lives:
        live.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # that they went may not have been noticed yet
        with suppress(ShadowwatchError), closing(connect(daemon.path)) as another:
            assert another.status() == STATUS
            return
    pytest.fail("nobody was let in again")


def recorded(live: Live, daemon: Daemon, path: str) -> RecordingProgress:
    """Record for one progress line, and return the last one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    loop = looking(daemon)
    lines = live.record([(descriptor, path)], None)
    last = next(lines)
    live.stop_recording()
    for last in lines:
        assert last.path == path
    loop.join(10)
    os.close(descriptor)
    return last


def test_a_recording_through_the_daemon_can_be_replayed(daemon: Daemon, live: Live, tmp_path: Path) -> None:
    """It begins in the middle of a run: the VM has its name, nothing is missing, and the end is whole."""
    path = str(tmp_path / "a.capture")
    last = recorded(live, daemon, path)
    assert (last.records, last.error) == (3, "")
    with reading(path) as reader:
        assert reader.facts.midway
        watch = Watch(reader.facts, reader.name_of)
        for batch in reader.batches():
            watch.take(batch)
    (vm,) = watch.snapshot().vms
    assert (vm.name, vm.lost, vm.exact, vm.allocations) == ("web1", 0, False, {1: 3})
    assert live.status() == STATUS


def test_an_asker_that_goes_ends_its_recording(daemon: Daemon, live: Live, tmp_path: Path) -> None:
    """Killed or not, the file is whole."""
    path = tmp_path / "a.capture"
    loop = looking(daemon)
    with path.open("wb") as file:
        lines = live.record([(file.fileno(), str(path))], None)
        assert next(lines).path == str(path)
    live.close()
    loop.join(10)
    assert daemon.recordings[0].ended.is_set()
    with reading(str(path)) as reader:
        assert sum(len(batch.records) for batch in reader.batches()) == 3 * RECORD.size


def test_an_asker_that_does_not_listen_any_more_ends_its_recording(daemon: Daemon, tmp_path: Path) -> None:
    """Before its files are closed, so that nothing is written to what gets their numbers next."""
    path = tmp_path / "a.capture"
    loop = looking(daemon)
    with socket.socket(socket.AF_UNIX) as asker, path.open("wb") as file:
        asker.connect(daemon.path)
        request = json.dumps({"ask": "record", "paths": [str(path)], "most": None})
        asker.sendall(f"{GREETING}\n".encode())
        assert asker.recv(100) == f"{GREETING}\n".encode()
        socket.send_fds(asker, [f"{request}\n".encode()], [file.fileno()])
        asker.shutdown(socket.SHUT_RD)
        loop.join(20)
    assert daemon.recordings[0].ended.is_set()
    assert daemon.recordings[0].error == ""
    with reading(str(path)) as reader:
        assert sum(len(batch.records) for batch in reader.batches()) == 3 * RECORD.size


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_takes_little_at_a_time_gets_all_when_it_is_read(kind: str, daemon: Daemon, live: Live) -> None:
    """However slowly, and though the recording is longer than what it holds by itself."""
    if kind == "pipe":
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    else:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        reader, writer = theirs.detach(), ours.detach()
    content = bytearray()

    def read() -> None:
        while some := os.read(reader, 1000):
            content.extend(some)

    thread = threading.Thread(target=read)
    thread.start()
    lines = live.record([(writer, kind)], None)
    next(lines)
    for _ in range(20):
        daemon.look(2000)
    live.stop_recording()
    while not daemon.recordings[0].ended.wait(0.01):
        daemon.look(0)
    assert list(lines)[-1].error == ""
    os.close(writer)
    thread.join(10)
    os.close(reader)
    assert len(content) > 1 << 17
    recorded = Reader(io.BytesIO(content), kind)
    assert sum(len(batch.records) for batch in recorded.batches()) == 40_000 * RECORD.size


def test_a_pipe_that_nobody_reads_ends_the_recording_and_not_the_daemon(
    daemon: Daemon, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop does not wait for room in it."""
    monkeypatch.setattr("shadowwatch.capture.recording.ROOM_SECONDS", 0.3)
    reader, writer = os.pipe()
    try:
        # The smallest pipe there is, and it is full.
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.write(writer, b"x" * 4096)
        loop = looking(daemon)
        lines = live.record([(writer, "pipe")], None)
        next(lines)
        live.stop_recording()
        last = list(lines)[-1]
        loop.join(10)
        assert not loop.is_alive()
        assert last.error.startswith("cannot go on writing pipe: nothing was read from it for 0.3 s; ")
        assert live.status() == STATUS
    finally:
        os.close(reader)
        os.close(writer)


def test_a_full_disk_ends_the_recording_and_not_the_daemon(daemon: Daemon, live: Live) -> None:
    """The asker is told; the daemon answers as before."""
    assert "cannot go on writing /dev/full: No space left on device" in recorded(live, daemon, "/dev/full").error
    assert live.status() == STATUS


@contextmanager
def greeted(daemon: Daemon) -> Iterator[socket.socket]:
    """A connection to which requests can be written."""
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(daemon.path)
        asker.sendall(f"{GREETING}\n".encode())
        assert asker.recv(100) == f"{GREETING}\n".encode()
        yield asker


def test_the_end_of_a_recording_that_has_ended_is_no_request(daemon: Daemon) -> None:
    """It gets no answer, which would be taken for that of the next request."""
    with greeted(daemon) as asker:
        asker.sendall(b"\n")
        asker.settimeout(0.2)
        with pytest.raises(TimeoutError):
            asker.recv(1)
        asker.settimeout(10)
        asker.sendall(b'\n{"ask": "snapshot"}\n')
        assert "vms" in json.loads(asker.makefile("r").readline())


def test_who_does_not_even_greet_is_left(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is for others then."""
    monkeypatch.setattr(server, "PATIENCE_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(daemon.path)
        asker.settimeout(10)
        assert asker.recv(1) == b""


@pytest.mark.parametrize("most", ["NaN", "Infinity", "-Infinity", '"x"', "[]", "1e400"])
def test_a_recording_without_sense_is_answered_with_an_error(daemon: Daemon, tmp_path: Path, most: str) -> None:
    """JSON as Python reads it has more numbers than one can count to."""
    with greeted(daemon) as asker, (tmp_path / "a").open("wb") as file:
        request = f'{{"ask": "record", "paths": ["a"], "most": {most}}}\n'
        socket.send_fds(asker, [request.encode()], [file.fileno()])
        assert "error" in json.loads(asker.makefile("r").readline())


def test_a_file_that_cannot_be_written_at_all_is_answered_with_an_error(daemon: Daemon, tmp_path: Path) -> None:
    """One that names a place alone (O_PATH), behind one that is right."""
    before = len(os.listdir("/proc/self/fd"))
    place = os.open(tmp_path, os.O_PATH)
    with greeted(daemon) as asker, (tmp_path / "a").open("wb") as file:
        request = '{"ask": "record", "paths": ["a", "b"], "most": null}\n'
        socket.send_fds(asker, [request.encode()], [file.fileno(), place])
        assert "error" in json.loads(asker.makefile("r").readline())
    os.close(place)
    within(10, lambda: len(os.listdir("/proc/self/fd")) <= before)


def test_who_sends_files_without_end_is_sent_away(daemon: Daemon) -> None:
    """They would be all that the daemon may have open."""
    with greeted(daemon) as asker, open(os.devnull) as file:
        asker.settimeout(10)
        with suppress(BrokenPipeError, ConnectionResetError):
            while True:
                socket.send_fds(asker, [b"x"], [file.fileno()] * 60)
                assert len(os.listdir("/proc/self/fd")) < 400


def writing() -> bool:
    """Whether a thread writes a recording."""
    return "recording" in (thread.name for thread in threading.enumerate())


def test_a_pipe_that_blocks_again_holds_nobody_but_its_asker(
    daemon: Daemon, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop goes on, the asker is told, and what was buffered goes nowhere else when it reads at last."""
    monkeypatch.setattr(aside, "MOST", 20_000)
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.write(writer, b"x" * 4096)
    lines = live.record([(writer, "pipe")], None)
    next(lines)
    os.set_blocking(writer, True)
    os.close(writer)
    recording = daemon.recordings[0]
    for number in range(5000):
        begun = time.monotonic()
        daemon.look(200)
        assert time.monotonic() - begun < 5, number
        if recording.ended.is_set():
            break
    assert list(lines)[-1].error == "cannot go on writing pipe: it is too slow; record to another place"
    assert writing()
    os.close(reader)
    within(10, lambda: not writing())


def test_files_in_turn_through_the_daemon_can_each_be_replayed(daemon: Daemon, live: Live, tmp_path: Path) -> None:
    """By names that were there before the file was."""
    paths = [str(tmp_path / name) for name in "ab"]
    files = [(os.open(path, os.O_WRONLY | os.O_CREAT), path) for path in paths]
    lines = live.record(files, 4000)
    next(lines)
    recording = daemon.recordings[0]
    fed, last = 0, False

    def all_written() -> bool:
        return recording.progress().records == fed

    while not last:
        last = recording.progress().path == paths[1]
        daemon.look(50)
        fed += 50
        within(10, all_written)
    live.stop_recording()
    while not recording.ended.wait(0.01):
        daemon.look(0)
    assert list(lines)[-1].error == ""
    for descriptor, path in files:
        os.close(descriptor)
        with reading(path) as reader:
            watch = Watch(reader.facts, reader.name_of)
            for batch in reader.batches():
                watch.take(batch)
        assert [vm.name for vm in watch.snapshot().vms] == ["web1"]
