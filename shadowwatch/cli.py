# SPDX-License-Identifier: Apache-2.0
"""The command line: parse, run, print the cure. Each command is a file in commands/."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from shadowwatch import __version__
from shadowwatch.commands import audit, cost, doctor, info, plot, record, replay, run, simulate, top, tree
from shadowwatch.commands.streams import Output, forget_odd_sizes
from shadowwatch.errors import ShadowwatchError
from shadowwatch.service.log import Level, say

#: The exit code of argparse, too. Help was not asked for: a script that lost its command must not go on.
NOT_UNDERSTOOD = 2

#: In the order of help.
COMMANDS = (doctor, run, top, tree, cost, record, info, replay, plot, simulate, audit)


def parser() -> argparse.ArgumentParser:
    """The one definition of the command line."""
    whole = argparse.ArgumentParser(
        prog="shadowwatch",
        description="Find VMs for which KVM keeps throwing away page tables (shadow pages) that they still need, and"
        " what would help.",
        epilog="On a new host, begin with `shadowwatch doctor`.",
    )
    whole.add_argument("--version", action="version", version=version())
    commands = whole.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return whole


def version() -> str:
    """The version, and whether the model is compiled: this Python takes an extension before the source beside it."""
    model = Path(__file__).parent / "mmu" / "vm"
    compiled = any(model.with_suffix(suffix).exists() for suffix in EXTENSION_SUFFIXES)
    return f"shadowwatch {__version__}{' (compiled)' if compiled else ''}"


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
        whole = parser()
        arguments = whole.parse_args(words)
        if "command" not in arguments:
            whole.print_help()
            return NOT_UNDERSTOOD
        code: int = arguments.command(arguments)
    except ShadowwatchError as error:
        say(str(error), Level.ERROR)
        return 1
    except KeyboardInterrupt:
        return 130
    return code
