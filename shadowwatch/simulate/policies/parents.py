# SPDX-License-Identifier: Apache-2.0
"""`parents`: a directory that gets a child moves to the head of the list, and so do its ancestors (the RFC)."""

from __future__ import annotations

from typing import ClassVar

from shadowwatch.simulate.page import SimulatedList, SimulatedPage
from shadowwatch.simulate.policies.stock import Stock

#: A walk looks at so many parents in all (MMU_PARENT_WALK_SPTES; here those of one page count as one).
LOOKS = 64


class Parents(Stock):
    """As patches/ has it: mmu_parent_walk() from the directory on, each page once, but for idle roots."""

    name: ClassVar[str] = "parents"

    def __init__(self) -> None:
        #: Which roots are in use, and so move, is told by a kernel that moves them; else it is guessed.
        self._told = False

    def linked(self, pages: SimulatedList, directory: SimulatedPage) -> None:
        """Move the directory to the head, and then its ancestors: the root becomes the newest."""
        visited = {directory}
        looks = LOOKS
        pages.move_to_end(directory)
        walks = [directory.directories()]
        while walks and looks:
            parent = next(walks[-1], None)
            if parent is None:
                walks.pop()
                continue
            looks -= 1
            if parent not in visited and (parent.up or (parent.loaded and not self._told)):
                visited.add(parent)
                pages.move_to_end(parent)
                walks.append(parent.directories())

    def moved(self, pages: SimulatedList, page: SimulatedPage) -> None:
        """Move a root likewise."""
        self._told = True
        if page.up is None:
            pages.move_to_end(page)
