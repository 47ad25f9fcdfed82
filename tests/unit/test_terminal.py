# SPDX-License-Identifier: Apache-2.0
"""Keys as terminals send them."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import time
from collections.abc import Sequence
from threading import Thread

import pytest
from rich.console import Console

from shadowwatch.view import terminal
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
        (b"\x00\x80\xe4", []),  # no key of ours, and no character
        ("ä".encode(), ["ä"]),
        (b"\x1b[99~q\x1b[1;5Aq", ["q", "q"]),  # an escape that nobody knows is not the Esc key
        (b"\x1b[[Aq\x1b[", ["?", "q"]),
        (b"\x1b\x1bq", ["escape", "escape", "q"]),  # typed ahead
        (b"\x1b[200~quit\r\x1b[Aq\x1b[201~j", ["pasted quit[Aq", "j"]),
        (b"\x1b[200~q", ["pasted q"]),
        (b"\x1b]11;rgb:q/q/q\x07j", ["j"]),  # answers to questions of another program
        (b"\x1b]11;rgb:q/q/q\x1b\\j", ["j"]),
        (b"\x1bP1$rq\x1b\\\x1b_q\x07\x1b^q\x07\x1bXq\x07j", ["j"]),
        (b"\x1b[M q!j", ["j"]),  # a click at column 81
        (b"\x1b[M \xf1\xf1j", ["j"]),  # and one at 209
        (b"\x1b[<0;81;5Mj", ["j"]),
        ("aß漢😀".encode(), ["a", "ß", "漢", "😀"]),
    ],
)
def test_keys_are_told_from_what_is_sent(sent: bytes, keys: list[str]) -> None:
    """Several at once, in their order; what is unknown is none."""
    assert list(keys_in(sent)) == keys


@pytest.mark.parametrize(
    ("parts", "keys"),
    [
        ((b"\x1b", b"[", b"B"), ["down"]),
        ((b"j\x1b", b"OA"), ["j", "up"]),
        ((b"\xc3", b"\xa4"), ["ä"]),
        ((b"q\xf0", b"\x9f", b"\x98", b"\x80"), ["q", "😀"]),
        ((b"\x1b[20", b"0~ab", b"c\x1b[20", b"1~"), ["pasted abc"]),
        ((b"\x1b]11;q", b"q", b"\x07"), []),
        ((b"\x1b[M", b" ", b"q!"), []),
    ],
)
def test_a_key_that_comes_in_parts_is_one(
    parts: Sequence[bytes], keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part comes after the one before was read: over a slow line the Esc of an arrow is not the Esc key."""
    # A busy machine may be slower than a line.
    monkeypatch.setattr(terminal, "_REST_SECONDS", 60.0)
    keyboard, typist = os.pipe()
    wake, _ = wakes = os.pipe()

    def type_() -> None:
        for part in parts:
            while struct.unpack("i", fcntl.ioctl(keyboard, termios.FIONREAD, bytes(4)))[0]:
                time.sleep(0.001)
            os.write(typist, part)

    thread = Thread(target=type_)
    thread.start()
    assert terminal.Terminal(Console(), keyboard, wake).keys(time.monotonic() + 60) == keys
    thread.join()
    os.write(typist, b"\x1b")
    monkeypatch.undo()
    assert terminal.Terminal(Console(), keyboard, wake).keys(time.monotonic() + 60) == ["escape"]
    os.close(typist)
    assert terminal.Terminal(Console(), keyboard, wake).keys(time.monotonic() + 60) == ["ctrl-c"]
    for descriptor in (keyboard, *wakes):
        os.close(descriptor)
