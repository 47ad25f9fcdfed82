# SPDX-License-Identifier: Apache-2.0
"""Snapshots cross a socket as text and are the same behind it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest

from shadowwatch.capture.recording import RecordingProgress
from shadowwatch.control.protocol import VERSION
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
    progress = RecordingProgress(1.5, 2, 3, "a.capture")
    assert loads(RecordingProgress, dumps(progress)) == progress
    assert loads(RecordingProgress | None, "null") is None  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["", "{", "[]", "[1]", "null", "7", '{"error": "no"}', '"text"'])
def test_what_is_no_snapshot_is_noticed(text: str) -> None:
    """A daemon of another version is told from one that answers."""
    with pytest.raises((ValueError, TypeError, KeyError)):
        loads(Snapshot, text)


def test_figures_are_known_by_their_names_and_not_by_their_places() -> None:
    """In another order they are the same; one that is missing, more or called otherwise is no snapshot."""
    status = Status(FACTS, "parents", 12, 34)
    sent = json.loads(dumps(status))
    assert loads(Status, json.dumps(dict(reversed(sent.items())))) == status
    others: list[dict[str, Any]] = [{**sent, "more": 1}, {name: sent[name] for name in sent if name != "policy"}]
    others.append({("rss" if name == "resident" else name): value for name, value in sent.items()})
    for other in others:
        with pytest.raises((ValueError, KeyError)):
            loads(Status, json.dumps(other))


def test_what_crosses_is_what_the_version_says() -> None:
    """Who changes this changes VERSION, too, and then this digest, so that no two that differ meet unaware."""
    detail = a_bit_of_everything().detail("web1")
    progress = RecordingProgress(1.5, 2, 3, "a.capture")
    shapes = [shape(json.loads(dumps(value))) for value in (Status(FACTS, "", 1, 2), Snapshot(0, (), 0, 0, 0, 0, 0, 0))]
    shapes += [shape(json.loads(dumps(value))) for value in (detail, progress)]
    digest = hashlib.sha256(json.dumps(shapes).encode()).hexdigest()[:16]
    assert (VERSION, digest) == (5, "21d21719d2c32155")


def shape(value: Any) -> Any:
    """The names in it, however many there are of what is alike."""
    if isinstance(value, dict):
        return {name: shape(value[name]) for name in sorted(value)}
    return [shape(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict) else None
