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

    A page is put there, and taken off, by its tree, since that is done so often: `live` has the bytes.
    """

    __slots__ = ("_oldest", "live", "room")

    #: Give out ages again when there are this many for each page on the list, and a few more.
    SLACK = 4
    FLOOR = 256

    def __init__(self) -> None:
        self.live = bytearray()
        #: Ages are to be given out again when there are more.
        self.room = self.FLOOR
        self._oldest = 0

    def move(self, page: Page, all_pages: Mapping[int, Page]) -> None:
        """Move a page to the head and give it its new age; `all_pages` are those on the list."""
        if len(self.live) > self.room:
            self.renumber(all_pages)
        self.live[page.age] = 0
        page.age = len(self.live)
        self.live.append(1)

    def oldest(self) -> int:
        """An age that no page on the list is below, and the oldest one has until others go."""
        if self._oldest < len(self.live) and not self.live[self._oldest]:
            self._oldest = max(self._oldest, self.live.find(1, self._oldest))
        return self._oldest

    def tidy(self, pages: Mapping[int, Page]) -> None:
        """Give out ages again when most are of pages that are gone; `pages` are all that are on the list."""
        if len(self.live) > self.room:
            self.renumber(pages)

    def renumber(self, pages: Mapping[int, Page]) -> None:
        """Give out ages again; `pages` are all that are on the list."""
        for age, page in enumerate(sorted(pages.values(), key=lambda page: page.age)):
            page.age = age
        self.live = bytearray(b"\1" * len(pages))
        self._oldest = 0
        self.room = self.SLACK * len(pages) + self.FLOOR
