# SPDX-License-Identifier: Apache-2.0
"""Captures that are damaged or forged: every reader says so in one line, and takes no more than their size allows."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from shadowwatch.capture.format import reading
from shadowwatch.errors import ShadowwatchError
from shadowwatch.event import decoder
from shadowwatch.event.abi import RECORD, Batch, Event, Flags, Kind, encode
from shadowwatch.event.ring import LOOK
from shadowwatch.simulate.simulator import Simulator
from shadowwatch.watch import Watch
from tests.unit import lively
from tests.unit.forged import PLOT, READERS, capture, data, facts, frame, name, read, run
from tests.unit.story import FACTS, Story

DEEP = b"[" * 100_000 + b"]" * 100_000
HUGE = b"9" * 5000


def story() -> Story:
    """A VM with a directory and a table."""
    made = Story()
    made.alloc(1, level=2)
    made.alloc(2)
    made.link(1, 0, 2)
    return made


def batch(now_ns: int = 2 * 10**9) -> bytes:
    """What that VM does, as a frame."""
    return data(story().records(), now_ns)


FACTS_WRONG: dict[str, bytes] = {
    "no object": b"[]",
    "deep": DEEP,
    "deep in a field": facts(host=0).replace(b'"host": 0', b'"host": ' + b"[" * 5000 + b"]" * 5000),
    "a huge number": facts(functions=[["a", 1, 2]]).replace(b"1, 2", HUGE + b", 2"),
    "another huge number": b'{"host": ' + HUGE + b"}",
    "no level": facts(role={"invalid": [11, 1]}),
    "no invalid": facts(role={"level": [0, 4]}),
    "a bit behind all memory": facts(role=dict(FACTS.role) | {"smm": (1 << 40, 8)}),
    "a width of all memory": facts(role=dict(FACTS.role) | {"level": (0, 1 << 40)}),
    "a bit before the first": facts(role=dict(FACTS.role) | {"level": (-1, 4)}),
    "an infinite bit": facts(role=dict(FACTS.role) | {"level": (float("inf"), 4)}),
    "recent for ever": facts(recent_seconds=float("inf")),
    "recent for long": facts(recent_seconds=1e300),
    "recent never": facts(recent_seconds=float("nan")),
    "another paging": facts(paging="none"),
    "a list of probes": facts(probes=[1]),
    "functions of one": facts(functions=[["a"]]),
}

FRAMES_WRONG: dict[str, list[bytes]] = {
    "a deep name": [frame(b"NAME", DEEP)],
    "a name of lists": [frame(b"NAME", b"[1, " + b"[" * 900 + b"]" * 900 + b"]")],
    "a pid of thousands of digits": [frame(b"NAME", b"[" + HUGE + b', "a"]')],
    "an infinite pid": [frame(b"NAME", b'[1e400, "a"]')],
    "a name of bytes that are no text": [frame(b"NAME", b'[1, "\xff"]')],
    "an unknown frame": [frame(b"WHAT", b"")],
    "no zlib": [frame(b"DATA", b"not zlib", 2 * 10**9)],
    "records without their end": [frame(b"DATA", zlib.compress(story().records())[:-3], 2 * 10**9)],
    "more than a look": [data(bytes(RECORD.size * (LOOK + 1)), 2 * 10**9)],
    "far shorter than its records": [data(bytes(RECORD.size * LOOK), 2 * 10**9)],
    "a clock that goes back": [data(b"", 3 * 10**9), batch()],
    "another number of events": [batch(), frame(b"LAST", b"7")],
    "a number of events of thousands of digits": [batch(), frame(b"LAST", HUGE)],
}


@pytest.mark.parametrize("wrong", [*FACTS_WRONG, *FRAMES_WRONG])
def test_what_is_forged_is_damaged_to_every_reader(wrong: str, tmp_path: Path) -> None:
    """Whoever made the checksums right; what came before it is shown all the same."""
    path = tmp_path / "a"
    whole = [name(4711, "web1"), batch(10**9)]
    path.write_bytes(
        capture(whole, FACTS_WRONG[wrong]) if wrong in FACTS_WRONG else capture([*whole, *FRAMES_WRONG[wrong]])
    )
    for reader in ("info", "replay", "top", "tree", "simulate"):
        code, out, errors = read(reader, path)
        said = out if reader == "info" and wrong in FRAMES_WRONG else errors
        assert (code, " is damaged after " in said) == (1, True), (reader, out, errors)
        assert len(errors.splitlines()) <= 1, errors
        assert "web1" in out or wrong in FACTS_WRONG or reader == "simulate", (reader, out)


@pytest.mark.parametrize("bit", [0, 28, 33, 63])
def test_a_flipped_bit_of_any_clock_is_damage(bit: int, tmp_path: Path) -> None:
    """Of the first batch, of one in the middle and of the last one."""
    path = lively.capture(tmp_path / "a")
    whole = path.read_bytes()
    places = [place for place in range(len(whole)) if whole.startswith(b"DATA", place)]
    for place in (places[0], places[len(places) // 2], places[-1]):
        damaged = bytearray(whole)
        damaged[place + 8 + bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        for reader in ("top", "tree at" if place == places[0] else "tree"):
            code, _, errors = read(reader, path)
            assert code == 1
            assert " is damaged after " in errors, (reader, errors)


def test_a_disk_that_fails_is_one_line(tmp_path: Path) -> None:
    """At its beginning, as reading this file of the kernel's does, and in its middle."""
    said = "cannot read /proc/self/mem after 0 events: Input/output error"
    with pytest.raises(ShadowwatchError, match=said), reading("/proc/self/mem"):
        pass
    with reading(str(lively.capture(tmp_path / "a"))) as reader:
        file, batches = reader._file, reader.whole_batches()
        next(batches)
        with open("/proc/self/mem", "rb", buffering=0) as failing:
            reader._file = failing
            assert list(batches) == []
        reader._file = file
        assert "Input/output error; the figures cover no more, look at the disk" in str(reader.fault)


def crowd(kinds: tuple[Kind, ...], vms: int, pids: int = 1) -> list[bytes]:
    """So many VMs, each with events of these kinds, in batches that are no longer than a look."""
    events = [
        encode(
            Event(kvm=0x1000 * (number + 1), ns=number, pid=7 + number % pids, seq=place + 1, kind=kind, role=1, used=1)
        )
        for number in range(vms)
        for place, kind in enumerate(kinds)
    ]
    return [b"".join(events[start : start + LOOK]) for start in range(0, len(events), LOOK)]


def taken(records: list[bytes]) -> Watch:
    """A watch that was fed with these batches."""
    watch = Watch(FACTS, lambda pid: f"web{pid}")
    for piece in records:
        watch.take(Batch(10**9, 0, 0, piece))
    return watch


@pytest.mark.parametrize(("kinds", "kept"), [((Kind.ALLOC,), 500), ((Kind.ALLOC, Kind.DESTROY), 128)])
def test_no_more_vms_are_kept_than_a_host_has(
    kinds: tuple[Kind, ...], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are in a file: those that live at once, and the last that ended."""
    monkeypatch.setattr(decoder, "MOST_VMS", 500)
    records = crowd(kinds, 3000, 3000)
    watch, simulator = taken(records), Simulator(FACTS, "stock")
    assert len(watch.snapshot().vms) == kept
    for piece in records:
        simulator.feed(piece)
    assert len(simulator.living()) + len(simulator._ended) == kept


def test_a_list_of_more_vms_than_are_kept_comes_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are left out are counted as what could not be read, and those that are not on it end."""
    monkeypatch.setattr(decoder, "MOST_VMS", 5)
    watch = taken(crowd((Kind.ALLOC,), 5))
    listed = [Event(kvm=0x1000 * number, ns=9, pid=7, walk=1, kind=Kind.VM) for number in range(4, 10)]
    step = Event(kvm=0, ns=9, walk=1, kind=Kind.STEP, used=len(listed), flags=int(Flags.FIRST | Flags.LAST))
    watch.take(Batch(10**9, 0, 0, b"".join(map(encode, (step, *listed)))))
    assert [vm.ended for vm in watch.snapshot().vms] == [True] * 3 + [False] * 2
    assert watch.snapshot().undecodable == 4


@pytest.mark.soak
@pytest.mark.parametrize("kinds", [(Kind.ALLOC,), (Kind.ALLOC, Kind.DESTROY), (Kind.DESTROY,)])
def test_memory_and_time_are_what_the_size_of_a_file_allows(kinds: tuple[Kind, ...], tmp_path: Path) -> None:
    """A million VMs: each reader ends within two minutes of processor time, with 512 MiB at most."""
    path = tmp_path / "a"
    frames = [data(piece, 10**9 + number) for number, piece in enumerate(crowd(kinds, 1_000_000 // len(kinds)))]
    path.write_bytes(capture([name(7, "web1"), *frames]))
    limited = f"ulimit -v {512 << 10}; ulimit -t 120; exec {sys.executable} -m shadowwatch "
    for words in (*READERS.values(), PLOT):
        command = ["sh", "-c", limited + words.replace("{}", str(path)).replace("web1", "web1-7")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 1)
        assert len(done.stderr.splitlines()) <= 1, done.stderr


def test_names_of_one_process_are_unique_at_once() -> None:
    """Whatever numbers are taken, a free one is found without a look at each."""
    names = [vm.name for vm in taken(crowd((Kind.ALLOC,), 300)).snapshot().vms]
    assert names[:4] == ["web7", "web7-7", "web7-7-2", "web7-7-3"]
    assert len(set(names)) == 300


def test_pages_that_are_below_one_another_end_nothing(tmp_path: Path) -> None:
    """In circles, on the same level, or deeper than any recursion goes: no such edge is made."""
    made = Story(step_ns=1000)
    for page in range(1, 3000):
        made.alloc(page, level=2)
        made.link(page - 1 if page > 1 else 2999, 0, page)
        made.link(page, 1, max(1, page - 7))
    made.link(2999, 0, 1)
    made.write(0x1000)
    path = tmp_path / "a"
    records = made.records()
    pieces = [records[start : start + LOOK * RECORD.size] for start in range(0, len(records), LOOK * RECORD.size)]
    frames = [name(4711, "web1"), *(data(piece, made.ns) for piece in pieces)]
    path.write_bytes(capture([*frames, frame(b"LAST", json.dumps(len(made.events)).encode())]))
    for reader in READERS:
        code, _, errors = read(reader, path)
        assert (code, errors) == (0, ""), (reader, errors)


def test_a_hostile_text_reaches_no_terminal(tmp_path: Path) -> None:
    """Names of VMs, and all that the facts say, whoever shows them; they are neither markup nor emoji."""
    steering = "\x1b[31m\x07\u202e\ud800\n"
    told = facts(
        host=f"kvm{steering}",
        kernel=f"6.1{steering}",
        policy=f"stock{steering}",
        probes={f"alloc{steering}": steering},
        role=dict(FACTS.role) | {f"odd{steering}": (12, 1)},
    )
    called = f"web1{steering}[red]:smile:"
    path = tmp_path / "a"
    events = [event._replace(role=event.role | 1 << 12) for event in story().events]
    frames = [name(4711, called), data(b"".join(map(encode, events)), 2 * 10**9), frame(b"LAST", b"3")]
    path.write_bytes(capture(frames, told))
    clean = "web1?[31m????[red]:smile:"
    for reader in READERS:
        code, out, errors = read(reader, path)
        if reader.startswith("tree"):
            assert (code, clean in errors) == (1, True), (reader, errors)
        else:
            assert (code, errors) == (0, ""), (reader, errors)
            assert clean in out, (reader, out)
        assert all(letter.isprintable() or letter == "\n" for letter in out + errors), reader
    for words in ("tree 4711 --replay {}", "tree 4711 --format dot --replay {}"):
        code, out, errors = run(words, path)
        assert (code, errors) == (0, "")
        assert "odd?[31m????" in out
        assert all(letter.isprintable() or letter == "\n" for letter in out)
