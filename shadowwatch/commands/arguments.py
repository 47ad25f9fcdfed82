# SPDX-License-Identifier: Apache-2.0
"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeAlias

from shadowwatch.config import CONTROL, DEFAULT, Setting
from shadowwatch.control.protocol import MOST_FILES
from shadowwatch.errors import ShadowwatchError

#: Where each command adds itself.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_settings(parser: argparse.ArgumentParser, settings: Iterable[Setting]) -> None:
    """Add the flags of settings that a configuration file may have, too (`config.fill` completes them)."""
    for setting in settings:
        setting.add_to(parser)
    parser.add_argument(
        "--config",
        metavar="FILE",
        type=given,
        help=f"read settings that no flag gives from this file (default {DEFAULT})",
    )


def add_flags(parser: argparse.ArgumentParser, settings: Iterable[Setting], **defaults: Any) -> None:
    """Add the flags of settings that no file has a say in, with their own defaults but for these."""
    for setting in settings:
        if setting.name in defaults:
            help = setting.help.partition(" (default")[0]
            setting = replace(setting, default=defaults[setting.name], help=help)
        setting.add_to(parser)
        parser.set_defaults(**{setting.name: setting.default})


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Add --socket."""
    add_flags(parser, (CONTROL,))


def given(text: str) -> str:
    """A word that is there: without a value, as a script's variable may be, it would be taken for one that is not."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; leave it out, or give it a value")
    return text


def seconds(text: str) -> float:
    """A time, 0 or more."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def of_a_capture(at: float | None, replay: str | None) -> None:
    """ShadowwatchError when a time is asked for of what is live."""
    if at is not None and replay is None:
        raise ShadowwatchError("--at is a time in a capture; add --replay FILE")


def of_one_source(replay: str | None, socket: str, standalone: bool = False) -> None:
    """ShadowwatchError when flags name more than one place to take events from: all but one would have no effect."""
    given = {"--replay": replay is not None, "--standalone": standalone, "--socket": socket != CONTROL.default}
    flags = [flag for flag, is_given in given.items() if is_given]
    if len(flags) > 1:
        raise ShadowwatchError(
            f"{' and '.join(flags)} are {len(flags)} places to take events from; leave all but one out"
        )


def files(text: str) -> int:
    """A number of files."""
    value = whole(text)
    if value > MOST_FILES:
        raise argparse.ArgumentTypeError(f"{text} is more than {MOST_FILES}")
    return value


def whole(text: str) -> int:
    """A whole number, 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value
