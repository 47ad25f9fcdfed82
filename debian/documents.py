# SPDX-License-Identifier: Apache-2.0
"""Write the manual page and what shells complete by, into a folder: `documents.py FOLDER`.

Both come from the one definition of the command line; a build makes them again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import shtab

sys.path.insert(0, str(Path(__file__).parents[1]))

from shadowwatch import __version__
from shadowwatch.cli import parser

#: What a value is called in help that is a file's name, so that shells complete it as one.
FILES = ("FILE", "CAPTURE", "PATH")

#: Behind the commands; {} is where these come.
PAGE = r""".TH SHADOWWATCH 1 "" "shadowwatch {version}" "User Commands"
.nh
.ad l
.SH NAME
shadowwatch \- watch KVM reclaim shadow pages
.SH SYNOPSIS
.B shadowwatch
.I COMMAND
.RI [ OPTION ]...
.SH DESCRIPTION
{description}
{options}
.SH COMMANDS
{commands}
.SH EXIT STATUS
0, or 1 when a command could not do or did not find what it should, and says why in one line; 2 when it was not
understood.
.SH FILES
.TP
.I /etc/shadowwatch.toml
the configuration; /usr/share/doc/shadowwatch/examples has it with all defaults
.TP
.I /run/shadowwatch/control
the daemon's socket, for root and the members of the group shadowwatch
.TP
.I /var/lib/shadowwatch/cost.json
what a page fault takes on this host, as \fBcost\fR measured it last
.SH SEE ALSO
.BR systemctl (1),
.BR journalctl (1);
/usr/share/doc/shadowwatch says what is measured, and how.
"""


def commands(whole: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """The name of each command, its line of help, and its own parser."""
    for action in whole._actions:
        if isinstance(action, argparse._SubParsersAction):
            for described in action._choices_actions:
                yield described.dest, described.help or "", action.choices[described.dest]


def roff(text: str) -> str:
    """Text as roff takes it for what it is."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace("\n.", "\n\\&.").replace("\n'", "\n\\&'")


def entries(one: argparse.ArgumentParser) -> str:
    """Each argument with its help, as argparse words it."""
    formatter = one._get_formatter()
    lines = []
    for action in one._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        lines += [".TP", f".B {roff(formatter._format_action_invocation(action))}"]
        lines.append(roff(formatter._expand_help(action)) if action.help else "\\&")
    return "\n".join(lines)


def manual(whole: argparse.ArgumentParser) -> str:
    """The manual page: one for all commands, so that it can be searched."""
    parts = []
    for name, said, one in commands(whole):
        words = " ".join(one.format_usage().removeprefix("usage: ").split())
        parts += [f".SS {name}", roff(f"{said[0].upper()}{said[1:]}."), ".PP", f".B {roff(words)}", entries(one)]
    return PAGE.format(
        version=__version__,
        description=roff(whole.description or ""),
        options=entries(whole),
        commands="\n".join(parts),
    )


def marked(whole: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The same, with what shtab looks for: each command's line of help, and what is a file."""
    for _, said, one in commands(whole):
        one.description = said
        for action in one._actions:
            if action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return whole


def main() -> None:
    """Write all of it."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "shadowwatch.1").write_text(manual(parser()))
    for shell, name in (("bash", "shadowwatch"), ("zsh", "_shadowwatch")):
        script = shtab.complete(marked(parser()), shell)
        # Of several choices Debian 12's shtab sees the first alone; later ones have other words here.
        one, all_of_them = """="${current_action}_choices\"""", """="${current_action}_choices[*]" IFS=$'\\n'"""
        (folder / name).write_text(script.replace(one, all_of_them))


if __name__ == "__main__":
    main()
