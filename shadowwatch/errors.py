# SPDX-License-Identifier: Apache-2.0
"""What shadowwatch says when the world is not as it must be, and how it says what it was given and has counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from reprlib import Repr

#: So many characters of somebody else's text are enough to find it again.
LONGEST = 300


class ShadowwatchError(Exception):
    """One line for a person: what happened, to what, and the cure."""


class _Short(Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 80
        self.maxlevel = 3

    def repr_int(self, value: int, level: int) -> str:
        try:
            return super().repr_int(value, level)
        except ValueError:  # more digits than Python writes
            return "a number with thousands of digits"


def shown(value: object) -> str:
    """A value that somebody gave, as an error shows it: of a long or deep one a part."""
    return _Short().repr(value)


def clipped(text: str) -> str:
    """Words of somebody else in an error: of many the first ones."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def counted(number: int, thing: str, form: str = ",") -> str:
    """So many of a thing, in words: 1 event, 5,344 events; `form` is how the number is written."""
    return f"{number:{form}} {thing}{'' if abs(number) == 1 else 's'}"


def meant(word: str, known: Iterable[str], elsewhere: Mapping[str, str] | None = None) -> str:
    """The cure of a word that is not known: the nearest one that is, else the nearest elsewhere in its words, else all.

    There is no question mark behind it: other words may follow.
    """
    word, known, elsewhere = clipped(word), list(known), elsewhere or {}
    near = get_close_matches(word, known, 1) or [elsewhere[key] for key in get_close_matches(word, elsewhere, 1)]
    return f"did you mean {near[0]}" if near else f"choose from {', '.join(known)}"
