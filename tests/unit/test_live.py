# SPDX-License-Identifier: Apache-2.0
"""The running daemon as a source, through a real socket."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import threading
from contextlib import closing
from pathlib import Path

import pytest

from shadowwatch.control.client import Live, connect
from shadowwatch.control.protocol import GREETING, VERSION
from shadowwatch.control.server import listen
from shadowwatch.errors import ShadowwatchError
from tests.unit.daemon import STATUS, Daemon

NOBODY = 65534


def test_a_source_behind_the_socket_says_what_the_watch_says(daemon: Daemon, live: Live) -> None:
    """Status, snapshot and detail, again and again over one connection."""
    for _ in range(2):
        assert live.status() == STATUS
        assert live.snapshot() == daemon.watch.snapshot()
        assert live.detail("web1") == daemon.watch.detail("web1")
        assert live.detail("nobody") is None
        daemon.look()
    assert sum(live.snapshot().vms[0].pages.values()) == 9


def test_no_daemon_is_one_sentence(tmp_path: Path) -> None:
    """What happened, and the cure."""
    with pytest.raises(ShadowwatchError, match=r"no daemon answers at .*; start it with `systemctl start shadowwatch`"):
        connect(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (os.getegid(), "is for root and members of the group root; use sudo, or have root run `adduser "),
        # A daemon that runs as nobody, and the group of a container's user.
        (None, "is for root alone; use sudo"),
        (54321, "is for root alone; use sudo"),
    ],
)
def test_no_permission_is_one_sentence(group: int | None, said: str) -> None:
    """To join a group helps only where there is one, and it may connect."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = f"{folder}/control"
        listener = listen(path, group)
        heard, tell = os.pipe()
        if not os.fork():
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            try:
                connect(path)
            except ShadowwatchError as error:
                os.write(tell, str(error).encode())
            os._exit(0)
        os.close(tell)
        os.wait()
        words = os.read(heard, 1000).decode()
        os.close(heard)
        listener.close()
        assert words.startswith(f"{path} {said}")


def refused(path: str, answer: bytes | None) -> str:
    """What who connects and asks for the status is told, when it gets this and then an end; None is silence."""
    with listen(path, None) as listener:

        def answering() -> None:
            with listener.accept()[0] as daemon:
                if answer is not None:
                    daemon.sendall(answer)
                    daemon.shutdown(socket.SHUT_WR)
                while daemon.recv(1 << 16):
                    pass

        thread = threading.Thread(target=answering)
        thread.start()
        with pytest.raises(ShadowwatchError) as error, closing(connect(path, 0.2 if answer is None else 60)) as live:
            live.status()
        thread.join()
    return str(error.value)


HELLO = f"{GREETING}\n".encode()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            HELLO + b'["another", "shape"]\n',
            r"^the daemon at .* gives another answer than this shadowwatch reads; ",
        ),
        (HELLO + b"not even JSON\n", r"^the daemon at .* gives another answer than this shadowwatch reads; restart it"),
        (HELLO + b'{"error": "what?"}\n', r"control: what\?; use the shadowwatch that it came with$"),
        (HELLO, r"^the daemon at .* has ended; look at `journalctl -u shadowwatch`$"),
        (b"", r"^the daemon at .* has ended; look at `journalctl -u shadowwatch`$"),
        (None, r"^the daemon at .* does not answer; look at `systemctl status shadowwatch`$"),
    ],
)
def test_what_is_no_answer_is_one_sentence(tmp_path: Path, answer: bytes | None, said: str) -> None:
    """Another shape, a refusal, an end, and silence."""
    assert re.search(said, refused(str(tmp_path / "control"), answer))


@pytest.mark.parametrize(
    ("answer", "version", "cure"),
    [
        (
            b'{"error": "that is not a request that this version of shadowwatch knows"}\n',
            1,
            "restart it with `systemctl restart",
        ),
        (b'{"shadowwatch": 1}\n', 1, "restart it with `systemctl restart shadowwatch`"),
        (f'{{"shadowwatch": {VERSION + 1}}}\n'.encode(), VERSION + 1, "use the one that it came with"),
    ],
)
def test_a_daemon_of_another_version_is_one_sentence(tmp_path: Path, answer: bytes, version: int, cure: str) -> None:
    """Which versions meet, and what to do: it depends on which is the older one."""
    said = refused(str(tmp_path / "control"), answer)
    assert f"the daemon speaks version {version} of its protocol, this shadowwatch version {VERSION}; {cure}" in said


def test_what_is_live_is_no_replay(live: Live) -> None:
    """There is no other time to go to."""
    assert live.replay is None
