# SPDX-License-Identifier: Apache-2.0
"""The configuration file."""

from __future__ import annotations

from pathlib import Path

import pytest

from shadowwatch.config import Config, read_config
from shadowwatch.errors import ShadowwatchError


def test_columns_are_read_in_their_order(tmp_path: Path) -> None:
    """An empty file sets nothing."""
    path = tmp_path / "a.toml"
    path.write_text('[top]\ncolumns = ["name", "recent"]\n')
    assert read_config(str(path)) == Config(top_columns=("name", "recent"))
    path.write_text("")
    assert read_config(str(path)) == Config()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tpo]", "there is no tpo; did you mean top"),
        ("[top]\ncolums = []", r"there is no \[top\] colums; did you mean columns"),
        ("[top]\ncolumns = 7", r"\[top\] columns is a list of names"),
        ("[top]\ncolumns = [1]", r"\[top\] columns is a list of names"),
        ("top = 1", r"\[top\] columns is a list of names"),
        ("[top", "is no TOML: "),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    """It names the file and the nearest right word."""
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(ShadowwatchError, match=said) as caught:
        read_config(str(path))
    assert str(caught.value).startswith(str(path))


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    """The default one need not."""
    with pytest.raises(ShadowwatchError, match=r"cannot read .*: No such file or directory"):
        read_config(str(tmp_path / "none"))
    assert read_config(None) == Config()
