# SPDX-License-Identifier: Apache-2.0
"""The configuration: one TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from shadowwatch.errors import ShadowwatchError

DEFAULT = Path("/etc/shadowwatch.toml")

#: Table -> its keys.
_KNOWN = {"top": ("columns",)}


@dataclass(frozen=True, slots=True)
class Config:
    """What a person set; empty where nothing was."""

    top_columns: tuple[str, ...] = ()


def read_config(path: str | None) -> Config:
    """Read this file, or the default one if it is there; ShadowwatchError for what cannot be meant."""
    place = Path(path) if path else DEFAULT
    if not path and not place.exists():
        return Config()
    try:
        values = tomllib.loads(place.read_text())
    except OSError as error:
        raise ShadowwatchError(f"cannot read {place}: {error.strerror}; check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ShadowwatchError(f"{place} is no TOML: {error}; mend that line") from None
    for table, keys in values.items():
        _check(place, table, _KNOWN)
        for key in keys if isinstance(keys, dict) else ():
            _check(place, key, _KNOWN[table], f"[{table}] ")
    top = values.get("top", {})
    columns = top.get("columns", []) if isinstance(top, dict) else None
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise ShadowwatchError(f'{place}: [top] columns is a list of names, such as ["name", "pages", "recent"]')
    return Config(top_columns=tuple(columns))


def _check(place: Path, key: str, known: Collection[str], table: str = "") -> None:
    if key not in known:
        near = get_close_matches(key, known, 1) or list(known)
        raise ShadowwatchError(f"{place}: there is no {table}{key}; did you mean {near[0]}")
