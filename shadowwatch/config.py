# SPDX-License-Identifier: Apache-2.0
"""The configuration: each setting is one declaration, from which its flag, its key in the file and the example come.

A flag wins over the file, the file over the default.
"""

from __future__ import annotations

import argparse
import os
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from shadowwatch.control.protocol import SOCKET
from shadowwatch.errors import ShadowwatchError, clipped, meant, shown
from shadowwatch.file import contents

DEFAULT = Path("/etc/shadowwatch.toml")

#: A step of a walk must fit in.
RING_LEAST = 0.0625

#: Bytes of a file: a hundred settings, with comments. Of what is longer tomllib may take minutes.
LONGEST = 16 << 10

#: Thirty years of seconds: as nanoseconds it fits where the kernel keeps times.
MOST = 1e9


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value is: `right` tells people, `types` are TOML's.

    `make` makes the value that is used, from one of these types; `parse` makes one of these types from a flag's text.
    Either raises ValueError when it cannot, or ShadowwatchError when it can say more.
    """

    right: str
    metavar: str
    types: tuple[type, ...]
    make: Callable[[Any], Any]
    parse: Callable[[str], Any] = str

    def __call__(self, text: str) -> Any:
        """The value of a flag, for argparse, which lets a ShadowwatchError through."""
        try:
            return self.make(self.parse(text))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text or repr(text)} is not {self.right}") from None

    def take(self, value: Any) -> Any:
        """The value of a key; ValueError or ShadowwatchError when it cannot be meant."""
        if type(value) not in self.types:
            raise ValueError
        return self.make(value)


def _between(least: float, most: float) -> Callable[[float], float]:
    def make(value: float) -> float:
        if not least <= value <= most:
            raise ValueError
        return float(value)

    return make


def _above_0(value: float) -> float:
    if not 0 < value <= MOST:
        raise ValueError
    return float(value)


def _word(value: str) -> str:
    if not value:
        raise ValueError
    return value


def _path(value: str) -> str:
    if not value.startswith("/") or "\0" in value:
        raise ValueError
    return value


# What checks a value is imported when there is one: a command that needs little starts fast, and the daemon, which
# reads this file, too, has no columns in memory.


def _address(value: str) -> str:
    from shadowwatch.metrics.exporter import split_address

    if value:
        split_address(value)
    return value


def _columns(keys: list[str]) -> list[str]:
    from shadowwatch.view.columns import choose

    if not all(isinstance(key, str) for key in keys):
        raise ValueError
    return [column.key for column in choose(keys)]


def _column(key: str) -> str:
    return str(_columns([key])[0])


def _split(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _policies(names: list[str]) -> list[str]:
    from shadowwatch.simulate.policies import choose

    if not all(isinstance(name, str) for name in names):
        raise ValueError
    return list(choose(names))


POSITIVE = Kind(f"a number above 0 and at most {MOST:,.0f}", "S", (int, float), _above_0, float)
SIZE = Kind(f"a number between {RING_LEAST} and 512", "N", (int, float), _between(RING_LEAST, 512), float)
ADDRESS = Kind("HOST:PORT", "HOST:PORT", (str,), _address)
PATH = Kind("a path that begins with /", "FILE", (str,), _path, lambda text: text and os.path.abspath(text))
USER = Kind("the name of a user", "NAME", (str,), _word)
COLUMN = Kind("the name of a column", "KEY", (str,), _column)
COLUMNS = Kind('a list of names, such as ["name", "recent"]', "KEYS", (list,), _columns, _split)
POLICIES = Kind('a list of reclaim policies, such as ["parents"]', "POLICIES", (list,), _policies, _split)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its key in the file, which is the flag --KEY unless `flag` is another.

    `help` stands in --help and in the example, `default` None is what `help` says; `example` is a value for the
    example where there is no default; `bare` is the text that the flag alone stands for; `live` ones change by a
    reload, others by a restart.
    """

    key: str
    kind: Kind
    help: str
    default: Any = None
    example: Any = None
    live: bool = False
    flag: str = ""
    bare: str | None = None

    @property
    def name(self) -> str:
        """The attribute that argparse gives it."""
        return self.key.replace("-", "_")

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add its flag; one that is not given leaves no attribute, unless the parser has a default for it."""
        shown = ",".join(self.default) if isinstance(self.default, list) else self.default
        parser.add_argument(
            self.flag or f"--{self.key}",
            dest=self.name,
            metavar=self.kind.metavar,
            type=self.kind,
            nargs=None if self.bare is None else "?",
            const=self.bare,  # text: argparse makes a value of it when it is needed
            default=argparse.SUPPRESS,
            help=self.help if shown is None else f"{self.help} (default {shown})",
        )


LISTEN = Setting("listen", ADDRESS, "serve metrics at this address; empty for nowhere", "127.0.0.1:9790")
CONTROL = Setting("socket", PATH, "the daemon's socket, for top, tree and record", SOCKET)

WHAT_IF = Setting(
    "what-if",
    POLICIES,
    "estimate how these reclaim policies would have done for each VM, separated by commas (alone: all but newest)",
    example=["parents"],
    bare="",
)

#: What all take that attach probes.
COLLECTING = (
    Setting(
        "recent-seconds",
        POSITIVE,
        "count a directory as recently parented for this many seconds (default: for one list-length of allocations)",
        example=5,
        live=True,
    ),
    Setting(
        "audit-interval",
        POSITIVE,
        "compare the model with the kernel's own lists every so many seconds (default: never)",
        example=600,
        live=True,
    ),
    Setting(
        "difference",
        PATH,
        "write what led to the first difference to this file, for `replay`; without one it stays as it is",
        example="/var/lib/shadowwatch/difference.capture",
    ),
    Setting("ring-mib", SIZE, "size of the event ring in MiB", 4),
    Setting("user", USER, "run as this user (default: shadowwatch, else nobody)", example="shadowwatch"),
)

#: Table -> its settings, named as the command that takes them.
TABLES: Mapping[str, tuple[Setting, ...]] = {
    "run": (
        LISTEN,
        Setting(
            "web-config-file",
            PATH,
            "serve with TLS and passwords, as set in this web.config file of Prometheus' exporters",
            example="/etc/shadowwatch/web.yml",
            live=True,
            flag="--web.config.file",
        ),
        CONTROL,
        WHAT_IF,
        *COLLECTING,
    ),
    "top": (
        Setting("columns", COLUMNS, "which columns, in which order", example=["name", "pages", "recent"]),
        Setting("sort", COLUMN, "the column to sort by", "recent"),
        Setting("interval", POSITIVE, "seconds between updates", 1),
    ),
}


def read(path: str | None) -> dict[str, dict[str, Any]]:
    """Table -> key -> value of this file, or of the default one if it is there; ShadowwatchError if it is not right."""
    place = Path(path) if path else DEFAULT
    if not path and not place.exists():
        return {}
    try:
        tables = tomllib.loads(contents(str(place), LONGEST).decode("utf-8-sig"))
    except RecursionError:
        raise ShadowwatchError(f"{place} is nested too deep; what this takes is a value in a table") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ShadowwatchError(f"{place} is not valid TOML: {clipped(str(error))}; fix that line") from None
    except ValueError:
        raise ShadowwatchError(f"{place}: a number in it has thousands of digits; write a smaller one") from None
    values: dict[str, dict[str, Any]] = {}
    for table, keys in tables.items():
        if table not in TABLES:
            raise _unknown(place, table, TABLES)
        if not isinstance(keys, dict):
            raise ShadowwatchError(f"{place}: {table} = {shown(keys)} is not a table; start it with a line [{table}]")
        settings = {setting.key: setting for setting in TABLES[table]}
        values[table] = {}
        for key, value in keys.items():
            if key not in settings:
                raise _unknown(place, key, settings, f"[{table}] ")
            try:
                values[table][key] = settings[key].kind.take(value)
            except ValueError:
                raise ShadowwatchError(
                    f"{place}: [{table}] {key} = {shown(value)} is not {settings[key].kind.right}"
                ) from None
            except ShadowwatchError as error:
                raise ShadowwatchError(f"{place}: [{table}] {key}: {clipped(str(error))}") from None
    return values


def _unknown(place: Path, key: str, known: Collection[str], table: str = "") -> ShadowwatchError:
    """What to say of such a key: the nearest one of its table, else the nearest one of all tables."""
    key = clipped(key)
    elsewhere = {setting.key: f"[{name}] {setting.key}" for name in TABLES for setting in TABLES[name]}
    return ShadowwatchError(f"{place}: there is no {table}{key}; {meant(key, known, elsewhere)}")


def settle(table: str, file: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each setting by its name: from the flags that were given, else the file, else the default."""
    keys = file.get(table, {})
    return {setting.name: given.get(setting.name, keys.get(setting.key, setting.default)) for setting in TABLES[table]}


def fill(arguments: argparse.Namespace, table: str) -> None:
    """Complete what was given on the command line, and keep that in `given`."""
    known = vars(arguments)
    given = {setting.name: known[setting.name] for setting in TABLES[table] if setting.name in known}
    known |= settle(table, read(arguments.config), given) | {"given": given}


def example() -> str:
    """The whole file with every setting, its default or an example, behind a comment."""
    lines = [
        "# The configuration of shadowwatch: the defaults, or an example where there is no default.",
        f"# Install it as {DEFAULT}, readable by the daemon's user;",
        "# `shadowwatch run --config.check` checks it, `systemctl reload shadowwatch` applies it.",
    ]
    for table, settings in TABLES.items():
        lines += ["", f"# Settings of `shadowwatch {table}`. Each is also a flag, and the flag wins.", f"[{table}]"]
        for setting in settings:
            flag = f" Its flag is {setting.flag}." if setting.flag else ""
            change = (
                "" if table != "run" else " Takes effect on reload." if setting.live else " Takes effect on restart."
            )
            help = f"{setting.help[0].upper()}{setting.help[1:]}.{change}{flag}"
            lines += ["", *wrap(help, 100, initial_indent="# ", subsequent_indent="# ")]
            value = setting.example if setting.default is None else setting.default
            lines.append(f"#{setting.key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
