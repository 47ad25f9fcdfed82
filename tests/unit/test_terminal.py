# SPDX-License-Identifier: Apache-2.0
"""Keys as terminals send them."""

from __future__ import annotations

import pytest

from shadowwatch.view.terminal import keys_in


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOA", ["up"]),
        (b"\x1b", ["escape"]),
        (b"\r\n\t\x1b[Z", ["enter", "enter", "tab", "shift-tab"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[F", ["pageup", "pagedown", "home", "end"]),
        (b"\x03", ["ctrl-c"]),
        (b"a\x7f", ["a", "backspace"]),
        (b"\x00\xc3\xa4", []),  # no key of ours
        (b"\x1b[99~", []),  # an escape that nobody knows is not the Esc key
    ],
)
def test_keys_are_told_from_what_is_sent(sent: bytes, keys: list[str]) -> None:
    """Several at once, in their order; what is unknown is none."""
    assert list(keys_in(sent)) == keys
