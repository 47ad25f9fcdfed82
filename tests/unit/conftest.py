# SPDX-License-Identifier: Apache-2.0
"""A daemon and a connection to it, for tests of what goes through its socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shadowwatch.control import server
from shadowwatch.control.client import Live, connect
from shadowwatch.service import log
from tests.unit.daemon import Daemon


@pytest.fixture(autouse=True)
def room_to_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many lines a process may say at once is not for the tests of one process together."""
    monkeypatch.setattr(log, "_limit", log.Limit())


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon that has seen three pages, and says twenty times a second how far a recording is."""
    monkeypatch.setattr(server, "PROGRESS_SECONDS", 0.05)
    daemon = Daemon(tmp_path / "run" / "control")
    yield daemon
    daemon.server.shutdown()
    daemon.server.server_close()


@pytest.fixture
def live(daemon: Daemon) -> Iterator[Live]:
    """A connection to it."""
    with closing(connect(daemon.path)) as live:
        yield live
