# SPDX-License-Identifier: Apache-2.0
"""Captures: whole ones lead to the same figures, others to one clear sentence."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path

import pytest

from shadowwatch.capture.format import MAGIC, Reader, Writer, pack
from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import RECORD, Batch
from shadowwatch.metrics.text import exposition
from shadowwatch.watch import Watch
from tests.unit.story import FACTS, Story


class Kept(io.BytesIO):
    """A file that can still be read after it was closed."""

    content = b""

    def close(self) -> None:
        """Keep what was written."""
        self.content = self.getvalue()
        super().close()


def recorded() -> tuple[bytes, bytes]:
    """A capture of two VMs of one name in three batches, and the metrics of the run that wrote it."""
    file = Kept()
    writer = Writer(file, "x.capture", FACTS)
    watch = Watch(FACTS, lambda pid: "web")
    first, second = Story(kvm=0x1000, pid=10), Story(kvm=0x2000, pid=20)
    for story in (first, second):
        story.alloc(1, level=2)
        story.alloc(2)
        story.link(1, 0, 2)
        story.zap(1, level=2)
    for batch in (
        Batch(2 * 10**9, 0, 0, first.records()),
        Batch(3 * 10**9, 5, 1, second.records()),
        Batch(4 * 10**9, 5, 1, b""),
    ):
        writer.write(pack(batch), watch.take(batch))
    writer.close()
    return file.content, exposition(watch)


def replayed(content: bytes) -> Watch:
    """The watch after a replay."""
    reader = Reader(io.BytesIO(content), "x.capture")
    watch = Watch(reader.facts, reader.name_of)
    for batch in reader.batches():
        watch.take(batch)
    return watch


def refusal(content: bytes) -> str:
    """What is said of a file that is not right."""
    with pytest.raises(ShadowwatchError) as caught:
        replayed(content)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_replay_leads_to_the_same_metrics_byte_for_byte() -> None:
    """Names, counters, histograms, losses and the time behind: all come from the file."""
    content, live = recorded()
    assert exposition(replayed(content)) == live
    assert b'vm="web"' in live
    assert b'vm="web-20"' in live


def test_a_file_cut_at_any_byte_is_called_cut() -> None:
    """Nowhere in a capture can it end without being noticed, and what is whole is read."""
    content, _ = recorded()
    for length in range(len(content)):
        said = refusal(content[:length])
        assert re.search("is empty|is not a shadowwatch capture|is cut off after [0-9]+ events", said), said


def test_a_cut_file_still_gives_its_first_batches() -> None:
    """Bad input loses nothing: figures cover all whole batches."""
    content, _ = recorded()
    batches = Reader(io.BytesIO(content[:-1]), "x.capture").batches()
    assert [len(next(batches).records) // RECORD.size for _ in range(3)] == [4, 4, 0]
    with pytest.raises(ShadowwatchError, match="cut off after 8 events"):
        next(batches)


def test_the_fault_can_be_kept_until_what_is_whole_was_taken() -> None:
    """It is forgotten when reading goes back to before it; a whole capture has none."""
    content, _ = recorded()
    for kept, fault in ((content, ""), (content[:-1], "x.capture is cut off after 8 events")):
        reader = Reader(io.BytesIO(kept), "x.capture")
        beginning = reader.place()
        assert len(list(reader.whole_batches())) == 3
        assert str(reader.fault or "").startswith(fault)
        assert bool(reader.fault) == bool(fault)
        reader.go_to(beginning)
        assert reader.fault is None


def test_a_changed_byte_anywhere_is_noticed() -> None:
    """Checksums cover headers and payloads; the version has its own sentence."""
    content, _ = recorded()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        refusal(bytes(damaged))


def test_a_foreign_file_is_refused() -> None:
    """Something else altogether is called that."""
    assert refusal(b"PK\3\4 certainly not what you want") == (
        "x.capture is not a shadowwatch capture; `shadowwatch record` writes them"
    )


def test_a_newer_version_is_refused() -> None:
    """A format of the future is not guessed at."""
    assert refusal(MAGIC + struct.pack("<I", 9)) == (
        "x.capture is a capture of version 9, this shadowwatch reads 2; update shadowwatch"
    )


def test_an_older_version_is_refused() -> None:
    """Version 1 had other records: it is not misread as this one."""
    assert refusal(MAGIC + struct.pack("<I", 1) + bytes(100)) == (
        "x.capture is a capture of version 1, this shadowwatch reads 2; replay it with the shadowwatch that wrote it"
    )


def test_extra_bytes_after_the_end_are_not_read() -> None:
    """The last frame ends a capture."""
    content, live = recorded()
    assert exposition(replayed(content + b"more")) == live


def test_a_full_disk_is_one_sentence() -> None:
    """/dev/full refuses every byte, at the latest when what was buffered is flushed."""
    writer = Writer(open("/dev/full", "wb"), "/dev/full", FACTS)  # noqa: SIM115
    with pytest.raises(ShadowwatchError, match="cannot go on writing /dev/full: No space left on device; make room"):
        writer.close()


def test_capture_files_are_real_files(tmp_path: Path) -> None:
    """What is written to a path can be read from it."""
    path = tmp_path / "a.capture"
    writer = Writer(path.open("wb"), str(path), FACTS)
    writer.close()
    with path.open("rb") as file:
        assert Reader(file, str(path)).facts == FACTS
