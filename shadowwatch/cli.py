# SPDX-License-Identifier: Apache-2.0
"""The command line: parse, run, print the cure. Each command is a file in commands/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from shadowwatch import __version__
from shadowwatch.commands import audit, doctor, info, plot, record, replay, run, simulate, top, tree
from shadowwatch.commands.streams import Output, forget_odd_sizes
from shadowwatch.errors import ShadowwatchError
from shadowwatch.service.log import Level, say

#: In the order of help.
COMMANDS = (doctor, run, top, tree, record, info, replay, plot, simulate, audit)


def parser() -> argparse.ArgumentParser:
    """The one definition of the command line."""
    whole = argparse.ArgumentParser(
        prog="shadowwatch",
        description="Watch KVM reclaim shadow pages: which directories it zaps that had just been given a child.",
    )
    whole.add_argument("--version", action="version", version=f"shadowwatch {__version__}")
    commands = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    return whole


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    forget_odd_sizes()
    output = Output()
    try:
        try:
            return _run(words)
        finally:
            # What cannot be written is known while it can be said.
            sys.stdout.flush()
    except OSError as error:
        if not output.refused(error):
            raise
        # A reader that went away, as `head` does, has what it wanted.
        if not isinstance(error, BrokenPipeError):
            say(f"cannot write to standard output: {error.strerror}; send it to another place", Level.ERROR)
        return 1


def _run(words: Sequence[str] | None) -> int:
    try:
        arguments = parser().parse_args(words)
        code: int = arguments.command(arguments)
    except ShadowwatchError as error:
        say(str(error), Level.ERROR)
        return 1
    except KeyboardInterrupt:
        return 130
    return code
