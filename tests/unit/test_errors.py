# SPDX-License-Identifier: Apache-2.0
"""How messages say what was counted."""

from __future__ import annotations

import io
import os

from shadowwatch.capture.format import Reader
from shadowwatch.capture.recording import RecordingProgress
from shadowwatch.errors import counted, meant
from shadowwatch.event.abi import RECORD
from shadowwatch.mmu.counts import Counts, Miscount
from tests.unit.forged import capture, data


def test_one_is_singular_and_thousands_stand_apart() -> None:
    """Also where a sign belongs to the number."""
    assert [counted(number, "event") for number in (0, 1, 5344)] == ["0 events", "1 event", "5,344 events"]
    assert [counted(number, "zap", "+,") for number in (-1, 1, 1000)] == ["-1 zap", "+1 zap", "+1,000 zaps"]


def test_messages_count_so() -> None:
    """How far a capture was read, how far a recording is, what KVM counted beside events."""
    for events, said in ((1, "cut off after 1 event;"), (1234, "cut off after 1,234 events;")):
        reader = Reader(io.BytesIO(capture([data(os.urandom(events * RECORD.size), 1)])), "a")
        assert len(list(reader.whole_batches())) == 1
        assert said in str(reader.fault)
    assert str(RecordingProgress(1, 1, 0, "a")) == "1 s, 1 event, 0.0 MiB in a"
    assert "+1 allocation and -1 zap beside" in str(Miscount("a", Counts(1, -1, 0)))


def test_who_is_wrong_is_told_what_was_meant() -> None:
    """In one wording, without a question mark, since a reload says more behind it: all else stays as it is."""
    assert meant("nme", ["name", "pages"]) == "did you mean name"
    assert meant("colums", ["name"], {"columns": "[top] columns"}) == "did you mean [top] columns"
    assert meant("x", ["name", "pages"]) == "choose from name, pages"
