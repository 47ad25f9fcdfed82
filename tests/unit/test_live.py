# SPDX-License-Identifier: Apache-2.0
"""The running daemon as a source, through a real socket."""

from __future__ import annotations

import os
import socket
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from shadowwatch.control.client import Live, connect
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


def test_no_daemon_and_no_permission_are_one_sentence_each(tmp_path: Path) -> None:
    """What happened, and the cure."""
    with pytest.raises(ShadowwatchError, match=r"no daemon answers at .*; start it with `systemctl start shadowwatch`"):
        connect(str(tmp_path / "nothing"))
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = f"{folder}/control"
        listener = listen(path, None)
        said, tell = os.pipe()
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
        words = os.read(said, 1000).decode()
        os.close(said)
        listener.close()
        assert words.startswith(f"{path} is for root and members of the group root; use sudo, or have root run")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'["another", "shape"]\n', r"^the daemon at .* is of another version of shadowwatch; restart it$"),
        (b"not even JSON\n", r"^the daemon at .* is of another version of shadowwatch; restart it$"),
        (b'{"error": "what?"}\n', r"control: what\?; use the daemon's own$"),
        (b"", r"^the daemon at .* has ended; look at `journalctl -u shadowwatch`$"),
        (None, r"^the daemon at .* does not answer; look at `systemctl status shadowwatch`$"),
    ],
)
def test_what_is_no_answer_is_one_sentence(tmp_path: Path, answer: bytes | None, said: str) -> None:
    """Another version, a refusal, an end, and silence."""
    path = str(tmp_path / "control")
    with (
        listen(path, None) as listener,
        closing(connect(path, 0.2 if answer is None else 60)) as live,
        listener.accept()[0] as daemon,
    ):
        if answer is not None:
            daemon.sendall(answer)
            daemon.shutdown(socket.SHUT_WR)
        with pytest.raises(ShadowwatchError, match=said):
            live.status()


def test_what_is_live_is_no_replay(live: Live) -> None:
    """There is no other time to go to."""
    assert live.replay is None
