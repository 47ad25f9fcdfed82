# SPDX-License-Identifier: Apache-2.0
"""`kvm->arch.active_mmu_pages`: who stands where, without keeping a list."""

from __future__ import annotations

from collections.abc import Mapping

from shadowwatch.mmu.page import Page


class ActiveMmuPages:
    """The order of a VM's list, newest at the head.

    KVM only ever adds at the head, so a page's place is fixed by when it came there: its
    `age`, a number that grows. One byte for each age says whether its page is still on the
    list; a place is then a count of bytes, done in C. Ages are given out again when most of
    them belong to pages that are gone.
    """

    __slots__ = ("_live", "_oldest", "_room")

    #: Give out ages again when there are this many for each page on the list, and a few more.
    SLACK = 4
    FLOOR = 256

    def __init__(self) -> None:
        self._live = bytearray()
        self._oldest = 0
        self._room = self.FLOOR

    def add(self, others: Mapping[int, Page]) -> int:
        """Put one page at the head and return its age; `others` are all pages on the list."""
        live = self._live
        age = len(live)
        if age > self._room:
            self._renumber(others)
            live = self._live
            age = len(live)
        live.append(1)
        return age

    def remove(self, age: int) -> None:
        """Take the page of this age off the list."""
        self._live[age] = 0

    def move(self, page: Page, all_pages: Mapping[int, Page]) -> None:
        """Move a page to the head and give it its new age; `all_pages` are those on the list."""
        if len(self._live) > self._room:
            self._renumber(all_pages)
        self._live[page.age] = 0
        page.age = len(self._live)
        self._live.append(1)

    def position(self, age: int, size: int) -> float:
        """Where the page of this age stands on a list of this size: 0.0 is the newest, 1.0 the oldest."""
        if size < 2:
            return 1.0
        live = self._live
        oldest = self._oldest
        if not live[oldest]:
            oldest = self._oldest = live.find(1, oldest)
        if age == oldest:
            return 1.0
        older = live.count(1, oldest, age)
        return 1.0 - older / (size - 1)

    def _renumber(self, pages: Mapping[int, Page]) -> None:
        for age, page in enumerate(sorted(pages.values(), key=lambda page: page.age)):
            page.age = age
        self._live = bytearray(b"\1" * len(pages))
        self._oldest = 0
        self._room = self.SLACK * len(pages) + self.FLOOR
