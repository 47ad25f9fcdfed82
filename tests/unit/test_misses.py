# SPDX-License-Identifier: Apache-2.0
"""What procfs says of programs, read at a distance in time; the kernel's side of it is proven in the lab."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowwatch.event.misses import LOOK_NS, Misses, open_infos

#: Of a kprobe's program on Linux 6.12; 5.10 has no line recursion_misses.
INFO = """pos:	0
flags:	02000002
mnt_id:	15
ino:	1057
prog_type:	2
prog_jited:	1
prog_tag:	e2d5a4a9a0eb2a2a
memlock:	8192
prog_id:	17
run_time_ns:	0
run_cnt:	0
recursion_misses:	{}
verified_insns:	1127
"""
OLD = "\n".join(line for line in INFO.splitlines() if "recursion" not in line)


class Programs:
    """Files in the place of procfs', and a clock."""

    def __init__(self, folder: Path, count: int) -> None:
        self.paths = [folder / str(number) for number in range(count)]
        self.now_ns = 10**9
        self.say(*[0] * count)
        self.opened = [os.open(path, os.O_RDONLY) for path in self.paths]
        self.misses = Misses(self.opened, lambda: self.now_ns)

    def say(self, *counts: int | None) -> None:
        """Of each program it is said that it was missed so often; None: not a word."""
        for path, count in zip(self.paths, counts, strict=True):
            path.write_text(OLD if count is None else INFO.format(count))

    def later(self) -> int:
        """The count when it is time to look again."""
        self.now_ns += LOOK_NS
        return self.misses.count()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """Three of them."""
    made = Programs(tmp_path, 3)
    yield made
    for descriptor in made.opened:
        os.close(descriptor)


def test_all_that_were_missed_since_the_beginning_are_counted(programs: Programs) -> None:
    """Of every program, and none of those from before: nobody read the ring then."""
    programs.say(3, 40, 0)
    begun = Misses(programs.opened, lambda: programs.now_ns)
    programs.say(3, 45, 100)
    assert programs.later() == 148
    assert begun.count() == 105


def test_a_look_is_dear_so_there_are_few(programs: Programs) -> None:
    """Between two looks the count stays as it was."""
    programs.say(1, 0, 0)
    assert programs.misses.count() == 0
    programs.now_ns += LOOK_NS - 1
    assert programs.misses.count() == 0
    programs.now_ns += 1
    assert programs.misses.count() == 1


def test_a_kernel_that_does_not_count_them_has_none(programs: Programs) -> None:
    """The others are counted all the same; without any program there is nothing to read."""
    programs.say(None, None, 7)
    assert programs.later() == 7
    assert Misses((), lambda: 0).count() == 0


def test_procfs_tells_of_a_descriptor_as_often_as_it_is_asked() -> None:
    """The file stays open, and is read from its beginning each time."""
    descriptor = os.memfd_create("any")
    (info,) = open_infos((descriptor,))
    try:
        os.lseek(descriptor, 5, os.SEEK_SET)
        assert os.pread(info, 4096, 0).startswith(b"pos:\t5\n")
        os.lseek(descriptor, 6, os.SEEK_SET)
        assert os.pread(info, 4096, 0).startswith(b"pos:\t6\n")
    finally:
        os.close(info)
        os.close(descriptor)


def test_without_procfs_nothing_is_read() -> None:
    """As of a descriptor that is not there."""
    assert open_infos((1 << 20,)) == ()
