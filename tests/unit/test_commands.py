# SPDX-License-Identifier: Apache-2.0
"""Command lines that the kernel kept, as user space finds them."""

from __future__ import annotations

import os

import pytest

from shadowwatch.daemon.vmname import name_of
from shadowwatch.event.abi import COMMAND, COMMANDS
from shadowwatch.event.commands import Commands

#: No process has it: it is beyond what the kernel gives out.
GONE = (1 << 22) + 7


class Kept:
    """The array, as the kernel writes it."""

    def __init__(self) -> None:
        self._file = os.memfd_create("commands")
        os.truncate(self._file, Commands.SIZE)
        self.read = Commands(self._file)

    def write(self, pid: int, words: bytes, owner: int | None = None) -> None:
        """Keep these for a process."""
        words = words[: COMMAND.size - 9]
        record = COMMAND.pack(pid if owner is None else owner, len(words), words)
        os.pwrite(self._file, record, pid % COMMANDS * COMMAND.size)


@pytest.fixture
def kept() -> Kept:
    """An empty one."""
    return Kept()


def test_a_process_that_has_ended_is_named_by_what_was_kept(kept: Kept) -> None:
    """Its words are those that it was started with, empty ones among them."""
    kept.write(GONE, b"qemu-system-x86_64\0-append\0\0-name\0guest=web1\0")
    assert kept.read.of(GONE) == ["qemu-system-x86_64", "-append", "", "-name", "guest=web1"]
    assert name_of(GONE, kept.read.of) == "web1"
    assert name_of(GONE + 1, kept.read.of) == str(GONE + 1)


def test_a_word_that_was_cut_is_no_name(kept: Kept) -> None:
    """Half a name would be another VM's."""
    kept.write(GONE, b"lkvm\0--name\0" + b"x" * 2000)
    assert kept.read.of(GONE) == ["lkvm", "--name"]
    assert name_of(GONE, kept.read.of) == str(GONE)


def test_another_process_in_its_place_is_not_taken_for_it(kept: Kept) -> None:
    """The array has fewer places than there are processes; and one that is being written has no owner."""
    kept.write(GONE, b"lkvm\0--name\0a\0", owner=GONE + COMMANDS)
    assert kept.read.of(GONE) == []
    kept.write(GONE, b"lkvm\0--name\0a\0", owner=0)
    assert kept.read.of(GONE) == kept.read.of(0) == []


def test_a_process_that_runs_is_named_by_what_it_shows_now(kept: Kept) -> None:
    """Unless that has no name: some write other things over their command line."""
    kept.write(os.getpid(), b"lkvm\0--name\0before\0")
    assert name_of(os.getpid(), kept.read.of) == "before"
    assert name_of(os.getpid(), lambda pid: ()) == str(os.getpid())


def test_names_in_whatever_bytes_are_no_error(kept: Kept) -> None:
    """A command line need not be text."""
    kept.write(GONE, b"lkvm\0--name\0\xff\xfe\0")
    assert os.fsencode(name_of(GONE, kept.read.of)) == b"\xff\xfe"
