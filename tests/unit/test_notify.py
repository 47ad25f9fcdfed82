# SPDX-License-Identifier: Apache-2.0
"""What a service manager hears, at a real socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowwatch.service import notify as module
from shadowwatch.service.notify import Watchdog, notify, passed_sockets


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """One that asked to be told, with a watchdog of a second."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.01)
    module._service_manager.cache_clear()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        yield listener
    if told := module._service_manager():
        told.close()
    module._service_manager.cache_clear()


def test_the_watchdog_is_told_twice_in_its_time(manager: socket.socket) -> None:
    """As sd_watchdog_enabled(3) advises; between these nothing is said."""
    watchdog = Watchdog()
    for now_ms in (0, 400, 499, 500, 900, 1000):
        watchdog.turn(10**9 + now_ms * 10**6)
    assert [manager.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    with pytest.raises(BlockingIOError):
        manager.recv(100)


def test_a_manager_that_is_stuck_or_gone_does_not_hold_the_loop(manager: socket.socket) -> None:
    """What finds no room in its queue is left out after a short wait, what comes when there is room again is heard."""
    most = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 1
    for number in range(most + 3):
        begun = time.monotonic()
        notify(f"STATUS={number}")
        if number >= most:
            assert 0.01 <= time.monotonic() - begun < 5
    assert [manager.recv(100) for _ in range(most)] == [f"STATUS={number}".encode() for number in range(most)]
    notify("READY=1")
    assert manager.recv(100) == b"READY=1"
    manager.close()
    notify("STOPPING=1")
    Watchdog().turn(10**18)


def test_nobody_asked(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by hand, nothing is told to anybody, though a service manager listens for others; and no socket is made."""
    monkeypatch.delenv("NOTIFY_SOCKET")
    before = os.listdir("/proc/self/fd")
    Watchdog().turn(10**18)
    notify("READY=1")
    assert os.listdir("/proc/self/fd") == before
    with pytest.raises(BlockingIOError):
        manager.recv(100)


def test_a_socket_is_for_the_process_that_it_was_passed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for those that inherit the environment."""
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert passed_sockets() == ()
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    assert passed_sockets() == ()
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert passed_sockets() == (3,)


@pytest.mark.parametrize(
    ("number", "descriptors", "said"),
    [
        ("2", (3, 4), ""),
        ("0", (), ""),
        (None, (), ""),
        ("-1", (), "LISTEN_FDS=-1 is not a number, so it is ignored; unset it"),
        ("²", (), "LISTEN_FDS=² is not a number"),
        ("x" * 10_000, (), "LISTEN_FDS=xxx"),
    ],
)
def test_as_many_sockets_as_were_passed(
    number: str | None,
    descriptors: tuple[int, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The number is in the environment; what is none is said."""
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    if number is not None:
        monkeypatch.setenv("LISTEN_FDS", number)
    assert passed_sockets() == descriptors
    out = capsys.readouterr().out
    assert said in out
    assert bool(out) == bool(said)


@pytest.mark.parametrize("junk", ["x", "-1", "1e6", " 1000000", "9" * 5000, "²"])
def test_a_watchdog_without_a_time_is_said(
    junk: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody is told anything then, and the daemon begins all the same."""
    monkeypatch.setenv("WATCHDOG_USEC", junk)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    Watchdog().turn(10**18)
    assert capsys.readouterr().out.startswith(f"shadowwatch: WATCHDOG_USEC={junk[:10]}")


def test_a_watchdog_for_another_process_is_not_ours(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a service that started this one (sd_watchdog_enabled(3))."""
    monkeypatch.setenv("WATCHDOG_PID", str(os.getppid()))
    Watchdog().turn(10**18)
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    Watchdog().turn(2 * 10**18)
    assert manager.recv(100) == b"WATCHDOG=1"
    with pytest.raises(BlockingIOError):
        manager.recv(100)


@pytest.mark.parametrize("name", ["@shadowwatch-{}", "{}/a@b", "{}/@b"])
def test_only_a_leading_at_sign_is_abstract(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All others are part of a path."""
    address = name.format(os.getpid() if name.startswith("@") else tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    module._service_manager.cache_clear()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + address[1:] if name.startswith("@") else address)
        listener.settimeout(10)
        notify("READY=1")
        assert listener.recv(100) == b"READY=1"
    if told := module._service_manager():
        told.close()
    module._service_manager.cache_clear()
