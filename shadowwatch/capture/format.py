# SPDX-License-Identifier: Apache-2.0
"""Captures: batches of raw records in a file.

A format of its own, for no common one can be written to a descriptor that only takes more, be cut anywhere by a full
disk or a kill, and still be read and proven to the cut: a zip file's table comes last, a database must seek and lock.

A file is the magic, the version, then frames. A frame is a header (kind, payload length,
clock, kernel counters, CRC-32 of all that and the payload) and a payload: the host's facts
(FACT, first), a VM's name (NAME, before the batch that first speaks of it), how often probes
were passed over (MISS, before the batch with which that grew), a batch of ring records (DATA,
zlib), and how many records there were (LAST, which tells a whole file from a cut one).
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from io import SEEK_CUR, SEEK_END
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import BinaryIO, NamedTuple

from shadowwatch.errors import ShadowwatchError, counted
from shadowwatch.event.abi import RECORD, Batch
from shadowwatch.event.facts import Facts, Name, printable
from shadowwatch.event.ring import LOOK

MAGIC = b"\x89shadowwatch\r\n\x1a"
VERSION = 2

_PREAMBLE = struct.Struct(f"<{len(MAGIC)}sI")
_FRAME = struct.Struct("<4sIQQQI")
_FACT, _NAME, _MISS, _DATA, _LAST = b"FACT", b"NAME", b"MISS", b"DATA", b"LAST"

#: Where a reader is: the offset in the file, the records and misses before, and the names so far.
Place = tuple[int, int, int, dict[int, str]]

_NO_BATCH = Batch(0, 0, 0, b"")

#: No honest frame is longer; a damaged length must not make a reader ask for all memory.
_LONGEST = 1 << 28

#: Bytes of records in a batch: what a look takes, and no more than so many for each byte of its frame. Where all that
#: happens is that one guest writes to one place, zlib makes it 25 times shorter.
_MOST, _SHORTER = LOOK * RECORD.size, 48

#: What is wrong with what a frame holds.
_WRONG = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, zlib.error)


class Packed(NamedTuple):
    """A batch as captures have it: its records compressed, and how many they are."""

    batch: Batch
    payload: bytes
    records: int


def pack(batch: Batch) -> Packed:
    """Compress a batch."""
    count = len(batch.records) // RECORD.size
    return Packed(batch._replace(records=b""), zlib.compress(batch.records, 1), count)


class Writer:
    """Writes one capture to an open binary file; ShadowwatchError when that does not go on."""

    def __init__(self, file: BinaryIO, path: str, facts: Facts) -> None:
        self._file = file
        self._path = path
        self.records = 0
        self._missed = 0
        #: Bytes, those that are still buffered among them.
        self.size = 0
        self._put(_PREAMBLE.pack(MAGIC, VERSION))
        self._frame(_FACT, facts.to_json().encode())

    def _frame(self, kind: bytes, payload: bytes, batch: Batch = _NO_BATCH) -> None:
        head = _FRAME.pack(kind, len(payload), batch.now_ns, batch.lost, batch.untracked, 0)[:-4]
        crc = zlib.crc32(payload, zlib.crc32(head))
        self._put(head + struct.pack("<I", crc) + payload)

    def _put(self, data: bytes) -> None:
        self.size += len(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise self._stopped(error) from None

    def _stopped(self, error: OSError) -> ShadowwatchError:
        with suppress(OSError):  # what is buffered has no room either
            self._file.close()
        return ShadowwatchError(
            f"cannot go on writing {self._path}: {error.strerror}; make room, or record to another place"
        )

    def write(self, packed: Packed, names: Iterable[Name] = ()) -> None:
        """Keep a batch, and before it the names of the VMs that are new in it."""
        for name in names:
            self._frame(_NAME, json.dumps(name).encode())
        if packed.batch.missed != self._missed:
            self._missed = packed.batch.missed
            self._frame(_MISS, json.dumps(self._missed).encode())
        self.records += packed.records
        self._frame(_DATA, packed.payload, packed.batch)

    def flush(self) -> None:
        """Have what is buffered in the file."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._stopped(error) from None

    def close(self) -> None:
        """Write the last frame and close the file."""
        self._frame(_LAST, json.dumps(self.records).encode())
        try:
            self._file.close()
        except OSError as error:
            raise self._stopped(error) from None


class FlightRecorder:
    """The batches since the last audit but one, in memory; `keep` writes them as a capture.

    Replayed, the walks of the first audit build the model, the events that followed lead it
    astray, and the walks of the last audit show where.
    """

    #: Compressed bytes; what is older than this allows is dropped, and then the next audit is the first.
    MOST = 4 << 20

    def __init__(self, descriptor: int, path: str, facts: Facts) -> None:
        self._descriptor = descriptor
        self._path = path
        self._facts = facts
        self._batches: deque[Packed] = deque()
        self._size = 0
        self._marks: deque[int] = deque()

    def write(self, packed: Packed) -> None:
        """Remember a batch."""
        self._batches.append(packed)
        self._size += len(packed.payload)
        while self._size > self.MOST:
            self._drop()

    def _drop(self) -> None:
        self._size -= len(self._batches.popleft().payload)
        self._marks = deque(mark - 1 for mark in self._marks if mark)

    def mark(self) -> None:
        """An audit begins: what came before the last one is of no use any more."""
        if self._marks:
            for _ in range(self._marks.popleft()):
                self._drop()
            self._marks.clear()
        self._marks.append(len(self._batches))

    def keep(self, names: Iterable[Name]) -> None:
        """Write what is remembered, and the VMs' names, as a capture; ShadowwatchError when that fails."""
        with open(self._descriptor, "wb", buffering=1 << 20) as file:
            # Until now it had what a daemon before this one found. A pipe has nothing.
            with suppress(OSError):
                os.ftruncate(self._descriptor, 0)
            writer = Writer(file, self._path, replace(self._facts, midway=True))
            base = Batch(0, 0, 0, b"", self._batches[0].batch.missed if self._batches else 0)
            for packed in self._batches:
                writer.write(packed._replace(batch=packed.batch.since(base)), names)
                names = ()
            writer.close()


class Reader:
    """Reads one capture from an open binary file; `facts` are there at once.

    Raises ShadowwatchError, here and from `batches`, when the file is not one, is newer
    than this program, is cut or is damaged. What came before the fault has been yielded.
    """

    #: Why `whole_batches` broke off.
    fault: ShadowwatchError | None = None

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file = file
        self.path = path
        self._names: dict[int, str] = {}
        self._records = 0
        self._missed = 0
        self._last_ns = 0
        preamble = self._read(_PREAMBLE.size)
        if not preamble:
            raise ShadowwatchError(f"{path} is empty; record it again")
        if len(preamble) < _PREAMBLE.size or not preamble.startswith(MAGIC):
            raise ShadowwatchError(f"{path} is not a shadowwatch capture; `shadowwatch record` writes them")
        version = _PREAMBLE.unpack(preamble)[1]
        if version > VERSION:
            raise ShadowwatchError(
                f"{path} is a capture of version {version}, this shadowwatch reads {VERSION}; update shadowwatch"
            )
        if version < VERSION:
            raise ShadowwatchError(
                f"{path} is a capture of version {version}, this shadowwatch reads {VERSION};"
                " replay it with the shadowwatch that wrote it"
            )
        kind, payload, _ = self._frame()
        try:
            if kind != _FACT:
                raise ValueError(kind)
            self.facts = Facts.from_json(payload.decode())
        except _WRONG:
            raise self._damaged() from None

    def _read(self, size: int) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            raise ShadowwatchError(
                f"cannot read {self.path} after {self._so_far()}: {error.strerror}; the figures cover no more,"
                " look at the disk with `dmesg`"
            ) from None

    def _so_far(self) -> str:
        return counted(self._records, "event")

    def _damaged(self) -> ShadowwatchError:
        return ShadowwatchError(
            f"{self.path} is damaged after {self._so_far()}; the figures cover no more, record it again to have all"
        )

    def _cut(self) -> ShadowwatchError:
        return ShadowwatchError(
            f"{self.path} is cut off after {self._so_far()}; the figures cover no more,"
            " stop the next recording with Ctrl-C or SIGTERM, before the disk is full, to have all"
        )

    def _frame(self) -> tuple[bytes, bytes, Batch]:
        head = self._read(_FRAME.size)
        if len(head) < _FRAME.size:
            raise self._cut()
        kind, length, now_ns, lost, untracked, crc = _FRAME.unpack(head)
        if length > _LONGEST:
            raise self._damaged()
        payload = self._read(length)
        if len(payload) < length:
            raise self._cut()
        if zlib.crc32(payload, zlib.crc32(head[:-4])) != crc:
            raise self._damaged()
        return kind, payload, Batch(now_ns, lost, untracked, b"")

    def name_of(self, pid: int) -> str:
        """The name that the recorded run gave to the VM of this process."""
        return self._names.get(pid, str(pid))

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._file.fileno()).st_size

    @property
    def position(self) -> int:
        """Bytes that were read."""
        return self._file.tell()

    def place(self) -> Place:
        """Where reading is, between two batches."""
        return self._file.tell(), self._records, self._missed, dict(self._names)

    def go_to(self, place: Place) -> None:
        """Read on from there."""
        position, self._records, self._missed, names = place
        self._names, self.fault = dict(names), None
        self._last_ns = 0
        self._file.seek(position)

    def span(self) -> tuple[int, int]:
        """The clocks of the first and the last whole batch, (0, 0) without any; reading goes on where it was.

        A frame that is damaged is not noticed here, but where the clock goes back there is one.
        """
        place = self.place()
        first = last = 0
        size = self._file.seek(0, SEEK_END)
        self.go_to(place)
        while len(head := self._read(_FRAME.size)) == _FRAME.size:
            kind, length, now_ns, _, _, _ = _FRAME.unpack(head)
            if kind == _LAST or self._file.seek(length, SEEK_CUR) > size:
                break
            if kind == _DATA:
                if now_ns < last:
                    break
                first, last = first or now_ns, now_ns
        self.go_to(place)
        return first, last

    def whole_batches(self) -> Iterator[Batch]:
        """Yield the batches before the fault, and keep that in `fault` instead of raising it."""
        try:
            yield from self.batches()
        except ShadowwatchError as error:
            self.fault = error

    def batches(self) -> Iterator[Batch]:
        """Yield the batches as they were taken from the ring."""
        while True:
            kind, payload, batch = self._frame()
            try:
                if kind == _NAME:
                    pid, name = json.loads(payload)
                    if type(pid) is not int or type(name) is not str:
                        raise ValueError(payload)
                    self._names[pid] = printable(name)
                elif kind == _MISS:
                    missed = json.loads(payload)
                    if type(missed) is not int or missed <= self._missed:
                        raise ValueError(payload)
                    self._missed = missed
                elif kind == _DATA:
                    records = _unpacked(payload)
                    if batch.now_ns < self._last_ns:
                        raise ValueError(batch.now_ns)
                    self._last_ns = batch.now_ns
                    self._records += len(records) // RECORD.size
                    yield batch._replace(records=records, missed=self._missed)
                elif kind == _LAST:
                    if json.loads(payload) != self._records:
                        raise ValueError
                    return
                else:
                    raise ValueError(kind)
            except _WRONG:
                raise self._damaged() from None


def _unpacked(payload: bytes) -> bytes:
    """The records of a batch; ValueError when they are more than there can be, or not all there."""
    unpacker = zlib.decompressobj()
    records = unpacker.decompress(payload, min(_MOST, _SHORTER * (len(payload) + _FRAME.size)) + 1)
    if not unpacker.eof or len(records) > _MOST:
        raise ValueError
    return records


@contextmanager
def reading(path: str) -> Iterator[Reader]:
    """Open the capture at this path, a pipe's, too; ShadowwatchError when it cannot be read or is none."""
    with ExitStack() as opened:
        try:
            file: BinaryIO = opened.enter_context(open(path, "rb"))
        except OSError as error:
            raise ShadowwatchError(f"cannot read {path}: {error.strerror}; check the path") from None
        if not file.seekable():
            try:
                file = _kept(file, opened.enter_context(TemporaryFile()))
            except OSError as error:
                raise ShadowwatchError(
                    f"cannot keep what comes from {path}: {error.strerror};"
                    " make room in /tmp, or set TMPDIR to a folder with some"
                ) from None
        yield Reader(file, path)


def _kept(pipe: BinaryIO, file: BinaryIO) -> BinaryIO:
    """Fill a file with what comes from a pipe, since readers go back; of what is no capture only the beginning."""
    beginning = pipe.read(_PREAMBLE.size)
    file.write(beginning)
    if beginning.startswith(MAGIC):
        copyfileobj(pipe, file)
    file.seek(0)
    return file
