# SPDX-License-Identifier: Apache-2.0
"""The running daemon as a source, through its socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from shadowwatch.capture.recording import RecordingProgress
from shadowwatch.control.protocol import (
    CONNECTIONS,
    FULL,
    GREETING,
    PATIENCE_SECONDS,
    SOCKET,
    VERSION,
    differ,
    version_in,
)
from shadowwatch.control.wire import loads
from shadowwatch.errors import ShadowwatchError
from shadowwatch.snapshot import Snapshot, VmDetail
from shadowwatch.source import Status

T = TypeVar("T")

#: Compiling and attaching the probes takes some seconds, on an emulated machine half a minute.
START_SECONDS = 120.0


class NoDaemonError(ShadowwatchError):
    """Nobody answers, as opposed to somebody who refuses."""


class Live:
    """A connection to a daemon; every call raises ShadowwatchError when it has gone."""

    def __init__(self, connection: socket.socket, path: str) -> None:
        self._connection = connection
        self._path = path
        self._lines = connection.makefile("r", encoding="utf-8")

    def greet(self) -> None:
        """Say which version this one speaks; ShadowwatchError when the daemon speaks another."""
        with self._spoken():
            # A daemon that has no room has said so already, and hung up.
            with suppress(BrokenPipeError):
                self._connection.sendall(f"{GREETING}\n".encode())
            line = self._lines.readline()
        if not line:
            raise self._gone()
        if line.strip() == FULL:
            raise ShadowwatchError(
                f"{self._path}: {CONNECTIONS} others are connected, which is as many as the daemon answers;"
                " end one of them, such as a `shadowwatch top`"
            )
        if (daemon := version_in(line)) != VERSION:
            raise ShadowwatchError(f"{self._path}: {differ(daemon, VERSION)}")

    def _ask(self, kind: type[T], request: dict[str, Any]) -> T:
        self._send(request)
        return self._answer(kind)

    def _send(self, request: dict[str, Any], files: Sequence[int] = ()) -> None:
        with self._spoken():
            socket.send_fds(self._connection, [f"{json.dumps(request)}\n".encode()], list(files))

    def _answer(self, kind: type[T]) -> T:
        with self._spoken():
            line = self._lines.readline()
        if not line:
            raise self._gone()
        if line.startswith('{"error"'):
            raise ShadowwatchError(f"{self._path}: {json.loads(line)['error']}; use the shadowwatch that it came with")
        try:
            return loads(kind, line)
        except (ValueError, TypeError, KeyError):
            raise ShadowwatchError(
                f"the daemon at {self._path} gives another answer than this shadowwatch reads;"
                " restart it with `systemctl restart shadowwatch`"
            ) from None

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise ShadowwatchError(
                f"the daemon at {self._path} does not answer; look at `systemctl status shadowwatch`"
            ) from None
        except OSError:
            raise self._gone() from None

    def _gone(self) -> ShadowwatchError:
        return ShadowwatchError(f"the daemon at {self._path} has ended; look at `journalctl -u shadowwatch`")

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._connection.close()

    @property
    def replay(self) -> None:
        """It is live."""

    def status(self) -> Status:
        """The host and the daemon."""
        return self._ask(Status, {"ask": "status"})

    def snapshot(self) -> Snapshot:
        """All VMs."""
        return self._ask(Snapshot, {"ask": "snapshot"})

    def detail(self, name: str) -> VmDetail | None:
        """One VM page by page; None when there is none of this name."""
        return self._ask(VmDetail | None, {"ask": "detail", "vm": name})  # type: ignore[arg-type]

    def record(self, files: Sequence[tuple[int, str]], most: int | None) -> Iterator[RecordingProgress]:
        """Have the daemon record into open files, and yield how far it is, a second apart, until it ends."""
        request = {"ask": "record", "paths": [path for _, path in files], "most": most}
        self._send(request, [descriptor for descriptor, _ in files])
        while progress := self._answer(RecordingProgress | None):  # type: ignore[arg-type]
            yield progress

    def stop_recording(self) -> None:
        """Ask for the end of the recording; the progress that comes is the last."""
        with self._spoken():
            self._connection.sendall(b"\n")


def connect(
    path: str | None = None, patience: float = PATIENCE_SECONDS, instead: str = "--standalone or --replay"
) -> Live:
    """Connect to the daemon of this host; ShadowwatchError without one, or when it does not let or understand this one.

    `patience` is how many seconds an answer may take, `instead` the flags that do without a daemon.
    """
    path = path or SOCKET
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(patience)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise _not_let_in(path, error, instead) from None
    live = Live(connection, path)
    try:
        live.greet()
    except ShadowwatchError:
        live.close()
        raise
    return live


def _not_let_in(path: str, error: OSError, instead: str) -> ShadowwatchError:
    if isinstance(error, PermissionError):
        group = _group(path)
        if not group:
            return ShadowwatchError(f"{path} is for root alone; use sudo")
        return ShadowwatchError(
            f"{path} is for root and members of the group {group}; use sudo, or have root run"
            f" `adduser {os.environ.get('USER', 'NAME')} {group}`"
        )
    return NoDaemonError(f"no daemon answers at {path}; start it with `systemctl start shadowwatch`, or use {instead}")


def _group(path: str) -> str:
    """The group that may connect there, "" without one."""
    try:
        return Path(path).group() if os.stat(path).st_mode & stat.S_IWGRP else ""
    except KeyError:  # it has no name here, as that of a container's user
        return ""
    except OSError:  # who may not look into the folder may not, either
        return "shadowwatch"


@contextmanager
def standalone() -> Iterator[Live]:
    """A daemon of one's own, which ends with the `with` statement; ShadowwatchError with its words when it fails."""
    with tempfile.TemporaryDirectory(prefix="shadowwatch-") as folder:
        path = f"{folder}/control"
        command = [sys.executable, "-m", "shadowwatch", "run", "--config", os.devnull]
        command += ["--listen", "", "--socket", path]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as daemon:
            assert daemon.stderr
            try:
                while daemon.poll() is None and not os.path.exists(path):
                    with suppress(subprocess.TimeoutExpired):
                        daemon.wait(0.05)
                # It answers when its probes are attached.
                try:
                    live = connect(path, START_SECONDS)
                except ShadowwatchError:
                    with suppress(subprocess.TimeoutExpired):
                        daemon.wait(1)
                    if daemon.poll() is None:
                        raise
                    raise ShadowwatchError(daemon.stderr.read().strip().removeprefix("shadowwatch: ")) from None
                yield live
            finally:
                daemon.send_signal(signal.SIGTERM)
