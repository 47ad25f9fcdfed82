# SPDX-License-Identifier: Apache-2.0
"""Snapshots cross a socket as text and are the same behind it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shadowwatch.capture.recording import Progress
from shadowwatch.control.wire import dumps, loads
from shadowwatch.snapshot import Snapshot, VmDetail
from shadowwatch.source import Status
from shadowwatch.watch import Watch
from tests.unit.story import FACTS
from tests.unit.test_captures import replayed
from tests.unit.test_text import a_bit_of_everything

WATCHES: dict[str, Callable[[], Watch]] = {
    "story": a_bit_of_everything,
    "capture": lambda: replayed("parents"),
    "empty": lambda: Watch(FACTS, str),
}


@pytest.mark.parametrize("name", WATCHES)
def test_a_snapshot_is_the_same_behind_the_wire(name: str) -> None:
    """All fields of all VMs, maps keyed by numbers and by pairs among them."""
    now = WATCHES[name]().snapshot()
    text = dumps(now)
    assert "\n" not in text
    assert loads(Snapshot, text) == now


def test_a_vm_is_the_same_behind_the_wire() -> None:
    """Every page with its parents and children, and the last zaps."""
    watch = a_bit_of_everything()
    for name in ("web1", "gone", "lossy"):
        detail = watch.detail(name)
        assert detail is not None
        assert loads(VmDetail, dumps(detail)) == detail
    web1 = watch.detail("web1")
    assert web1
    assert web1.pages
    assert web1.last_zaps


def test_the_rest_is_the_same_behind_the_wire() -> None:
    """The status with its facts, with what may be None as something and as None."""
    for status in (Status(FACTS, "parents", 12, 34), Status(FACTS, "", None, None)):
        assert loads(Status, dumps(status)) == status
    progress = Progress(1.5, 2, 3, "a.capture")
    assert loads(Progress, dumps(progress)) == progress
    assert loads(Progress | None, "null") is None  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "null", "7", '{"error": "no"}', '"text"'])
def test_what_is_no_snapshot_is_noticed(text: str) -> None:
    """A daemon of another version is told from one that answers."""
    with pytest.raises((ValueError, TypeError, KeyError)):
        loads(Snapshot, text)
