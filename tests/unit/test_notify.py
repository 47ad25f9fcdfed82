# SPDX-License-Identifier: Apache-2.0
"""What a service manager hears, at a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowwatch.service import notify as module
from shadowwatch.service.notify import Watchdog, notify, passed_socket


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
    """Its queue is full, then it is closed: no error, and no wait for ever."""
    for _ in range(int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) + 2):
        notify("STATUS=busy")
    manager.close()
    notify("STOPPING=1")


def test_nobody_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run by hand, nothing is told to anybody."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    module._service_manager.cache_clear()
    Watchdog().turn(10**18)
    notify("READY=1")
    assert module._service_manager() is None
    module._service_manager.cache_clear()


def test_a_socket_is_for_the_process_that_it_was_passed_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for those that inherit the environment."""
    monkeypatch.delenv("LISTEN_PID", raising=False)
    assert passed_socket() == -1
    monkeypatch.setenv("LISTEN_PID", str(os.getppid()))
    assert passed_socket() == -1
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    assert passed_socket() == 3
