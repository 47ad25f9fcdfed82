# SPDX-License-Identifier: Apache-2.0
"""What was measured, kept as it comes, so that a run of many measurements goes on where it was stopped."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tests.lab.cache import Input, key

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)


class Lines:
    """A file with a line of JSON for each measurement: its name, and the rows that it came to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.rows: dict[str, list[dict[str, Any]]] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(ValueError):  # one that was cut off
                found = json.loads(line)
                self.rows[found["key"]] = found["rows"]

    def add(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        """Keep the rows of a measurement; another process may do so at the same time."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # On a line of its own, even if another one was cut off.
            file.write("\n" + json.dumps({"key": name, "rows": rows}) + "\n")
        self.rows[name] = list(rows)


class Kept:
    """The measurements of these sources: those of others are as if they were not there."""

    def __init__(self, path: Path, sources: Sequence[Input]) -> None:
        """`sources` are what the measurements are made with, in whatever measurement."""
        self._lines = Lines(path)
        self._sources = list(sources)

    def or_done(self, what: str, row: type[T], do: Callable[[], Iterable[T]]) -> list[T]:
        """The rows of a measurement, from before, or else by doing it."""
        name = key([what, *self._sources])
        if name in self._lines.rows:
            return [row(**found) for found in self._lines.rows[name]]
        rows = list(do())
        self._lines.add(name, [asdict(each) for each in rows])
        return rows
