# SPDX-License-Identifier: Apache-2.0
"""The daemon's local socket: behind a greeting (protocol.py) a line of JSON asks, a line of JSON answers.

{"ask": "status"}, {"ask": "snapshot"} and {"ask": "detail", "vm": NAME} are answered with what Source says, as
wire.py writes it; {"ask": "record", "paths": […], "most": BYTES or null} comes with the open files, and is answered
with a RecordingProgress each second until it ends, which it does at the latest when the asker goes. {"error": TEXT}
answers what cannot be done.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from socketserver import BaseRequestHandler, ThreadingMixIn, UnixStreamServer
from threading import BoundedSemaphore, Thread
from typing import Any

from shadowwatch.capture.recording import Recording
from shadowwatch.control.aside import Aside
from shadowwatch.control.protocol import (
    CONNECTIONS,
    FULL,
    GREETING,
    MOST_FILES,
    PATIENCE_SECONDS,
    VERSION,
    differ,
    version_in,
)
from shadowwatch.control.wire import dumps
from shadowwatch.errors import ShadowwatchError, clipped
from shadowwatch.source import Status
from shadowwatch.watch import Watch

#: A request is no longer than this.
LONGEST = 1 << 16

#: Bytes of a socket's path: sun_path has one more, for the NUL behind it (unix(7)).
LONGEST_PATH = 107

PROGRESS_SECONDS = 1.0

#: Nothing is to be seen but who connects, and for that nobody has to wake up.
POLL_SECONDS = 86_400.0


def listen(path: str, group: int | None) -> socket.socket:
    """Bind the socket, for root and the members of a group; ShadowwatchError when another daemon has it."""
    check_path(path)
    folder = os.path.dirname(path)
    if answers(path):
        raise ShadowwatchError(
            f"another shadowwatch answers at {path}; end that one, or give this one another place with --socket"
        )
    listener = socket.socket(socket.AF_UNIX)
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
        before = os.umask(0o117), os.getegid()
        # The file gets the mode and the group of whoever makes it: nobody has it before they are right.
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
            if group is None:
                os.umask(0o177)
            else:
                os.setegid(group)
            listener.bind(path)
        finally:
            os.umask(before[0])
            os.setegid(before[1])
        listener.listen(CONNECTIONS)
    except OSError as error:
        listener.close()
        raise _refused(path, error.strerror or str(error)) from None
    return listener


def check_path(path: str) -> None:
    """ShadowwatchError when no socket can have this path, whatever is there."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise _refused(path, "AF_UNIX path too long")


def _refused(path: str, why: str) -> ShadowwatchError:
    return ShadowwatchError(f"cannot make the socket {clipped(path)}: {why}; choose another place with --socket")


def answers(path: str) -> bool:
    """Whether a daemon listens there, and lets this user ask."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


def _receive(connection: socket.socket) -> tuple[str, list[int]]:
    """Read a request, and the descriptors that came with it; "" when the asker has gone, or does not stop."""
    text, received = b"", []
    while not text.endswith(b"\n"):
        data, descriptors, _, _ = socket.recv_fds(connection, LONGEST, MOST_FILES)
        received += descriptors
        text += data
        if not data or len(text) > LONGEST or len(received) > MOST_FILES:
            return "", received
    return text.decode(errors="replace"), received


class Control:
    """Answers on the socket, each asker in a thread of its own."""

    def __init__(self, watch: Watch, status: Callable[[], Status], record: Callable[[Recording], None]) -> None:
        """`record` has the loop feed a recording."""
        self._watch = watch
        self._status = status
        self._record = record

    def serve(self, listener: socket.socket) -> UnixStreamServer:
        """Begin to answer what comes to this socket; returns what can end that."""
        server = _Server(listener, self)
        Thread(target=server.serve_forever, args=(POLL_SECONDS,), daemon=True, name="control").start()
        return server

    def answer(self, request: dict[str, Any]) -> str:
        """The line that answers; KeyError for a request that is none."""
        ask = request["ask"]
        if ask == "status":
            return dumps(self._status())
        if ask == "snapshot":
            return dumps(self._watch.snapshot())
        if ask == "detail":
            detail = self._watch.detail(str(request["vm"]))
            return dumps(detail) if detail else "null"
        raise KeyError(ask)

    def record(self, connection: socket.socket, request: dict[str, Any], files: list[int]) -> None:
        """Record into these files until the asker sends a word or goes, or the recording ends by itself."""
        paths = [str(path) for path in request["paths"]]
        if len(paths) != len(files) or not files:
            raise KeyError("paths")
        most = request["most"]
        facts = replace(self._watch.facts, midway=True)
        pairs = list(zip(files, paths, strict=True))
        try:
            recording = Aside(pairs, facts, None if most is None else int(most), self._watch.names)
        except OSError as error:
            raise ValueError("files") from error
        self._record(recording)
        connection.settimeout(PROGRESS_SECONDS)
        try:
            try:
                while not recording.ended.is_set():
                    with suppress(TimeoutError):
                        connection.recv(1)
                        break
                    connection.sendall(f"{dumps(recording.progress())}\n".encode())
            finally:
                recording.stop()
                # The rest may take its time in a pipe: the asker hears of that, too, unless it has gone.
                with suppress(OSError):
                    while not recording.ended.wait(PROGRESS_SECONDS):
                        connection.sendall(f"{dumps(recording.progress())}\n".encode())
                recording.ended.wait()
            connection.sendall(f"{dumps(recording.progress())}\nnull\n".encode())
        finally:
            # Who has a file that takes nothing has less connections for as long as it takes nothing.
            recording.join()


class _Server(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, control: Control) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.control = control
        self.room = BoundedSemaphore(CONNECTIONS)

    def shutdown(self) -> None:
        """End at once: its thread waits for who connects, and hears of the end only when it need not wait any more."""
        self.socket.shutdown(socket.SHUT_RDWR)
        super().shutdown()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, while there are not too many."""
        if self.room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            with suppress(OSError):
                request.setblocking(False)
                request.sendall(f"{FULL}\n".encode())
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Make room when the answers are given."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """An asker that went away is no news."""


class _Handler(BaseRequestHandler):
    def handle(self) -> None:
        """Answer line by line until the asker goes."""
        assert isinstance(self.server, _Server)
        control, connection = self.server.control, self.request
        # Who says nothing at all would keep its place from others for ever.
        connection.settimeout(PATIENCE_SECONDS)
        text, files = _receive(connection)
        for descriptor in files:
            os.close(descriptor)
        asker = version_in(text.partition("\n")[0])
        # One that knows of no greeting shows the error as it is.
        greeting = GREETING if asker > 1 else json.dumps({"error": differ(VERSION, asker)})
        connection.sendall(f"{greeting}\n".encode())
        while asker == VERSION:
            connection.settimeout(None)
            text, files = _receive(connection)
            connection.settimeout(PATIENCE_SECONDS)
            try:
                if not text:
                    return
                if not text.strip():
                    continue  # the end was asked of a recording that had come to it by itself meanwhile
                request = json.loads(text)
                if request["ask"] == "record":
                    control.record(connection, request, files)
                    continue
                answer = control.answer(request)
            except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
                answer = json.dumps({"error": "that is not a request that this version of shadowwatch knows"})
            finally:
                for descriptor in files:
                    os.close(descriptor)
            connection.sendall(f"{answer}\n".encode())
