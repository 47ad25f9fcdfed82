# SPDX-License-Identifier: Apache-2.0
"""`mapped`: parents move up also whenever a page of the guest is mapped beneath them (the mail's rmap_add)."""

from __future__ import annotations

from typing import ClassVar

from shadowwatch.simulate.page import SimulatedList, SimulatedPage
from shadowwatch.simulate.policies.parents import Parents


class Mapped(Parents):
    """As patches/linux-6.1 has it, where it shows: events tell of no mapping, but of the moves that it leads to.

    So from what another policy did, this one is estimated as `parents`: a page that is allocated to map one of the
    guest's is the newest anyway, and what is mapped beneath it later is not known.
    """

    name: ClassVar[str] = "mapped"

    def moved(self, pages: SimulatedList, page: SimulatedPage) -> None:
        """Move it likewise."""
        self._told = True
        pages.move_to_end(page)
