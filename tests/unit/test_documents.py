# SPDX-License-Identifier: Apache-2.0
"""The manual page and the completions know the whole command line, and nothing else."""

from __future__ import annotations

import argparse
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shadowwatch.cli import parser

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them, made as the package's build makes them: by the system's Python."""
    made = tmp_path_factory.mktemp("documents")
    subprocess.run(["/usr/bin/python3", CHECKOUT / "debian/documents.py", made], cwd="/", check=True)
    return made


def commands() -> Iterator[tuple[str, list[argparse.Action]]]:
    """Each command with its arguments, but for --help."""
    (action,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, one in action.choices.items():
        yield name, [argument for argument in one._actions if argument.dest != "help"]


def options(arguments: list[argparse.Action]) -> set[str]:
    """Their names, as they are typed."""
    return {option for argument in arguments for option in argument.option_strings}


def complete(folder: Path, *words: str) -> set[str]:
    """What bash offers for the last of these words."""
    code = """
    source "$1"; shift
    COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
    "$(complete -p shadowwatch | sed 's/.*-F \\([^ ]*\\) .*/\\1/')"
    printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", code, "bash", folder / "shadowwatch", "shadowwatch", *words],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_the_manual_has_every_command_and_argument_with_its_help(folder: Path) -> None:
    """As a reader sees it, and nothing in it that roff complains of."""
    done = subprocess.run(
        ["man", "--warnings", "-l", folder / "shadowwatch.1"],
        env={"MANWIDTH": "100", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    shown = done.stdout.split("\nCOMMANDS\n")[1].split("\nEXIT STATUS\n")[0]
    sections = dict(re.findall(r"^   (\w+)\n(.*?)(?=^   \w|\Z)", shown, re.MULTILINE | re.DOTALL))
    expected = dict(commands())
    assert list(sections) == list(expected)
    for name, arguments in expected.items():
        words = " ".join(sections[name].split())
        for argument in arguments:
            for option in argument.option_strings or [str(argument.metavar)]:
                assert f" {option}" in words, (name, option)
            if argument.help:
                assert " ".join((argument.help % vars(argument)).split()) in words, (name, argument.dest)
        heads = "".join(re.findall(r"^ {7}(?:-.*?)(?:\n|  )", sections[name], re.MULTILINE))
        assert set(re.findall(r"--[\w.-]+", heads)) == {
            option for option in options(arguments) if option.startswith("--")
        }


def test_bash_completes_commands_options_choices_and_files(folder: Path) -> None:
    """Each where it belongs."""
    (folder / "a.capture").touch()
    expected = dict(commands())
    assert complete(folder, "") == set(expected)
    assert complete(folder, "re") == {name for name in expected if name.startswith("re")} != set()
    for name, arguments in expected.items():
        assert complete(folder, name, "--") == {
            option for option in options(arguments) | {"--help"} if option.startswith("--")
        }
        for argument in arguments:
            if argument.choices and argument.option_strings:
                assert complete(folder, name, argument.option_strings[0], "") == set(argument.choices)
    assert complete(folder, "replay", "a.") == {"a.capture"}
    assert complete(folder, "top", "--replay", "a.") == {"a.capture"}
    assert complete(folder, "plot", "-o", "a.") == {"a.capture"}
    assert complete(folder, "top", "--filter", "a.") == set()


def test_zsh_is_told_of_every_command_and_option(folder: Path) -> None:
    """With their help; what it does with that is zsh's."""
    script = (folder / "_shadowwatch").read_text()
    assert script.startswith("#compdef shadowwatch\n")
    for name, arguments in commands():
        assert re.search(rf'^    "{name}:.+"$', script, re.MULTILINE), name
        (known,) = re.findall(rf"^_shtab_shadowwatch_{name}_options=\((.*?)^\)", script, re.MULTILINE | re.DOTALL)
        assert options(arguments) <= set(re.findall(r"(?<![\w-])--?[\w.-]+", known)), name
