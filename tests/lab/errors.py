# SPDX-License-Identifier: Apache-2.0
"""What the lab says when it cannot go on."""


class LabError(Exception):
    """One line for a person: what happened, to what, and the cure."""


class ArchiveError(LabError):
    """An archive of packages cannot be reached, or lacks what is asked of it."""

    def __init__(self, what: str, cure: str) -> None:
        super().__init__(f"{what}; {cure}")
        self.what = what
        self.cure = cure
