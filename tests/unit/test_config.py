# SPDX-License-Identifier: Apache-2.0
"""The configuration: flags over file over defaults, and what is said of a file that is not right."""

from __future__ import annotations

import argparse
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from shadowwatch.cli import parser
from shadowwatch.config import TABLES, example, fill, read, settle
from shadowwatch.control.server import listen
from shadowwatch.errors import ShadowwatchError
from tests.unit.test_cli import shadowwatch

EXAMPLE = Path(__file__).parents[2] / "docs" / "shadowwatch.toml"

Written = Callable[[str], str]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Writes a configuration file and returns its path."""

    def write(text: str) -> str:
        path = tmp_path / "a.toml"
        path.write_text(text)
        return str(path)

    return write


def parsed(*words: str) -> argparse.Namespace:
    """A command line, completed from its file and the defaults."""
    arguments = parser().parse_args(words)
    fill(arguments, words[0])
    return arguments


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(written: Written) -> None:
    """The same setting three times, and one that nobody speaks of."""
    path = written('[run]\nlisten = "127.0.0.1:1"\nring-mib = 8\n[top]\ncolumns = ["name", "recent"]\ninterval = 2\n')
    arguments = parsed("run", "--config", path, "--listen", "[::1]:2")
    assert (arguments.listen, arguments.ring_mib, arguments.audit_interval) == ("[::1]:2", 8.0, None)
    assert arguments.given == {"listen": "[::1]:2"}
    assert parsed("run", "--config", os.devnull).listen == "127.0.0.1:9790"
    top = parsed("top", "--config", path, "--columns", "pages,name")
    assert (top.columns, top.sort, top.interval) == (["pages", "name"], "recent", 2.0)
    assert parsed("top", "--config", path).columns == ["name", "recent"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[rnu]", "there is no rnu; did you mean run"),
        ("[run]\nlisen = 1", "there is no [run] lisen; did you mean listen"),
        ("[run]\nring_mib = 1", "there is no [run] ring_mib; did you mean ring-mib"),
        ("[run]\ncolumns = []", "there is no [run] columns; did you mean [top] columns"),
        ('listen = "a:1"', "there is no listen; did you mean [run] listen"),
        ("[top]\nzzz = 1", "there is no [top] zzz; choose from columns, sort, interval"),
        ("run = 1", "run = 1 is not a table; start it with a line [run]"),
        ("[run]\nring-mib = 0", "[run] ring-mib = 0 is not a number between 0.0625 and 512"),
        ("[run]\nring-mib = true", "[run] ring-mib = True is not a number between 0.0625 and 512"),
        ('[run]\naudit-interval = "5"', "[run] audit-interval = '5' is not a number above 0 and at most 1,000,000,000"),
        ("[run]\nrecent-seconds = inf", "[run] recent-seconds = inf is not a number above 0 and at most 1,000,000,000"),
        ("[run]\nlisten = 9790", "[run] listen = 9790 is not HOST:PORT"),
        (
            '[run]\nlisten = "9790"',
            "[run] listen: 9790 is not an address to listen on; give HOST:PORT, such as 127.0.0.1:9790",
        ),
        ('[run]\nsocket = "run/x"', "[run] socket = 'run/x' is not a path that begins with /"),
        ('[run]\nuser = ""', "[run] user = '' is not the name of a user"),
        ("[top]\ncolumns = 7", '[top] columns = 7 is not a list of names, such as ["name", "recent"]'),
        ("[top]\ncolumns = [1]", '[top] columns = [1] is not a list of names, such as ["name", "recent"]'),
        ('[top]\ncolumns = ["nam"]', "[top] columns: there is no column nam; did you mean name"),
    ],
)
def test_what_cannot_be_meant_is_one_line(text: str, said: str, written: Written) -> None:
    """It names the file, the key, and what is right there."""
    path = written(text)
    with pytest.raises(ShadowwatchError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: {said}"


def test_a_file_that_is_no_toml_or_not_there_is_one_line(written: Written) -> None:
    """With the line to fix, or what to check; the default file need not be there."""
    with pytest.raises(ShadowwatchError, match=r"a\.toml is not valid TOML: .*line 2.*; fix that line$"):
        read(written("[run]\nlisten 1\n"))
    with pytest.raises(ShadowwatchError, match=r"cannot read /no/such: No such file or directory; check its path"):
        read("/no/such")
    assert settle("top", {}, {}) == {"columns": None, "sort": "recent", "interval": 1}


def test_flags_are_checked_as_the_file_is() -> None:
    """By the same declaration."""
    done = shadowwatch("run", "--listen", "nowhere")
    said = "shadowwatch: nowhere is not an address to listen on; give HOST:PORT, such as 127.0.0.1:9790\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert "argument --ring-mib: 0 is not a number between 0.0625 and 512" in shadowwatch("run", "--ring-mib=0").stderr


def test_the_command_checks_a_file_and_ends(written: Written) -> None:
    """Exit code 0 for a valid file, 1 and one line for one that is not; no root is needed for it."""
    path = written("[run]\nring-mib = 8")
    done = shadowwatch("run", "--config", path, "--config.check")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"shadowwatch: {path} is valid\n", "")
    written("[run]\nrign-mib = 8")
    done = shadowwatch("run", "--config", path, "--config.check")
    said = f"shadowwatch: {path}: there is no [run] rign-mib; did you mean ring-mib\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('user = "nosuch"', "there is no user nosuch to run as; name another with --user"),
        ('user = "root"', "--user root is root; name a user without privileges, such as nobody"),
        (f'socket = "/run/{"a" * 103}"', "AF_UNIX path too long; choose another place with --socket"),
    ],
)
def test_a_check_refuses_what_a_start_would(setting: str, said: str, written: Written) -> None:
    """In the same words, though nobody becomes that user and no socket is made."""
    path = written(f"[run]\n{setting}")
    done = shadowwatch("run", "--config", path, "--config.check")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(f"{said}\n")
    assert done.stderr.count("\n") == 1


def test_a_socket_path_of_107_bytes_is_right(written: Written, tmp_path: Path) -> None:
    """By the check and by the kernel, and one of a byte more is not."""
    longest = f"{tmp_path}/{'a' * (107 - len(str(tmp_path)) - 1)}"
    assert shadowwatch("run", "--config", written(f'[run]\nsocket = "{longest}"'), "--config.check").returncode == 0
    listen(longest, None).close()
    with pytest.raises(ShadowwatchError, match=r"aaa: AF_UNIX path too long; choose another place with --socket$"):
        listen(f"{longest}a", None)


def test_the_example_is_what_the_declarations_say() -> None:
    """SHADOWWATCH_GOLDEN=write makes it again."""
    if os.environ.get("SHADOWWATCH_GOLDEN") == "write":
        EXAMPLE.write_text(example())
    assert EXAMPLE.read_text() == example()


def test_every_line_of_the_example_is_right(written: Written) -> None:
    """As it is, and with each setting uncommented; a default in it is the default."""
    assert read(written(example())) == {"run": {}, "top": {}}
    text = re.sub(r"^#(?=[a-z-]+ = )", "", example(), flags=re.MULTILINE)
    values = read(written(text))
    for table, settings in TABLES.items():
        assert list(tomllib.loads(text)[table]) == [setting.key for setting in settings]
        for setting in settings:
            if setting.default is not None:
                assert values[table][setting.key] == setting.default


def test_every_setting_is_a_flag_of_its_command() -> None:
    """Shown in its help."""
    for table, settings in TABLES.items():
        shown = shadowwatch(table, "--help").stdout
        for setting in settings:
            assert re.search(rf"^ +{re.escape(setting.flag or '--' + setting.key)} ", shown, re.MULTILINE), setting.key


def test_what_if_alone_is_all_that_can_be_estimated(written: Written) -> None:
    """Named with commas between on the command line, as a list in the file, and none of it by default."""
    assert parsed("run", "--what-if").what_if == ["stock", "parents", "mapped", "leaf-first", "childless", "accessed"]
    assert parsed("run", "--what-if", "parents,leaf-first").what_if == ["parents", "leaf-first"]
    assert parsed("run", "--config", written('[run]\nwhat-if = ["mapped"]')).what_if == ["mapped"]
    assert parsed("run", "--config", written("")).what_if is None
