# SPDX-License-Identifier: Apache-2.0
"""Configurations that are not right, each the sample of a kind: what puts one at a path, and what is said of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Bad(NamedTuple):
    """`put` makes it at a path; `said` is part of the one line about it."""

    put: Callable[[Path], object]
    said: str


def _text(text: str, said: str) -> Bad:
    return Bad(lambda path: path.write_text(text), said)


def _bytes(content: bytes, said: str) -> Bad:
    return Bad(lambda path: path.write_bytes(content), said)


def _large(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 30)


#: What is at a path is no file that can be read, whatever should be in it.
PLACES: dict[str, Bad] = {
    "nothing": Bad(lambda path: None, "No such file"),
    "a folder": Bad(lambda path: path.mkdir(), "is not a regular file"),
    "a FIFO that nobody writes to": Bad(os.mkfifo, "is not a regular file"),
    "a device without end": Bad(lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "a symbolic link to itself": Bad(lambda path: path.symlink_to(path), "Too many levels"),
    "a file of a gibibyte": Bad(_large, "it has more than"),
}

#: Of the main configuration.
TOML: dict[str, Bad] = {
    "a number that is too large": _text(
        f"[top]\ninterval = {'9' * 400}", "is not a number above 0 and at most 1,000,000,000"
    ),
    "one with an exponent": _text("[run]\nrecent-seconds = 1e300", "recent-seconds = 1e+300 is not a number above"),
    "one with thousands of digits": _text(f"[top]\ninterval = {'9' * 5000}", "has thousands of digits"),
    "a hexadecimal one": _text(f"[top]\nsort = 0x{'f' * 5000}", "is not the name of a column"),
    "a deep list": _text(f"a = {'[' * 5000}", "is nested too deep"),
    "deep tables": _text("run" + ".a" * 3000 + " = 1", "there is no [run] a"),
    "a deep value": _text("run.ring-mib" + ".a" * 3000 + " = 1", "ring-mib = {'a': {'a': {'a': {...}}}} is not"),
    "a key that steers a terminal": _text('"\\u001b[2J" = 1', "there is no ?[2J"),
    "a key that is long": _text(f"{'a' * 10000} = 1", "aaa…"),
    "a path that no file has": _text('[run]\ndifference = "/a\\u0000"', "is not a path"),
    "half a character": _bytes(b"[run]\n# \xff", "is not valid TOML"),
    "another encoding": _bytes("[run]\nring-mib = 8\n".encode("utf-16"), "is not valid TOML"),
}

TLS = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n"
MUTUAL = f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: "
HASH = "$2b$04$tC6y0lwF/X4FpIfZ/kWA7.PnUBNy7DPsnjDiAx8LnaUYxdx4TBoT6"

#: Of web.config; beside it are server.pem, server.key and ca.der.
WEB: dict[str, Bad] = {
    "a list where a word belongs": _text(f"{TLS}  client_auth_type: [a]", "client_auth_type: ['a'] is not one of"),
    "a mapping where a word belongs": _text(f"{TLS}  min_version: {{a: b}}", "min_version: {'a': 'b'} is not one of"),
    "a list where a path belongs": _text(TLS.replace("server.pem", "[a]"), "cert_file is missing"),
    "a path that no file has": _text(TLS.replace("server.pem", '"a\\0"'), "no file can have this name"),
    "a path that is endless": _text(TLS.replace("server.pem", "a" * 9000), "…: File name too long; check its path"),
    "an authority in DER": _text(f"{MUTUAL}ca.der", "has no certificate in PEM; `openssl x509 -inform der"),
    "users that are given twice": _text(
        f'basic_auth_users: {{a: "{HASH}"}}\nbasic_auth_users: {{}}', "basic_auth_users stands there twice"
    ),
    "a user who is given twice": _text(
        f'basic_auth_users:\n  a: "{HASH}"\n  "a": "{HASH}"', "a stands there twice, again in line 3; keep one"
    ),
    "a deep list": _text("[" * 1000, "is nested too deep"),
    "a value that holds itself": _text(
        f"{TLS}  client_auth_type: &a [*a]", "client_auth_type: [[[[...]]]] is not one of"
    ),
    "a value that is enormous": _text(
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{after}: &{after} [{', '.join([f'*{name}'] * 9)}]\n"
            for name, after in zip("abcdefghi", "bcdefghij", strict=True)
        )
        + f"{TLS}  client_auth_type: *j",
        "there is no a",
    ),
    "mappings that merge others many times over": _text(
        "a: &a {x: y}\n"
        + "".join(
            f"{after}: &{after} {{<<: [{', '.join([f'*{name}'] * 9)}]}}\n"
            for name, after in zip("abcdefghi", "bcdefghij", strict=True)
        ),
        "there is no a",
    ),
    "half a character": _text('basic_auth_users: {"\\uD800": x}', "half a character"),
    "a byte that is no UTF-8": _bytes(b"basic_auth_users: {\xff: x}", "is not valid YAML"),
    "a time that is none": _text("http_server_config: {http2: 2001-99-99}", "http_server_config.http2"),
    "a number with thousands of digits": _text(f"{TLS}  min_version: {'9' * 5000}", "min_version: 999"),
    "a set": _text("basic_auth_users: !!set {a, b}", "is not a mapping of strings"),
    "bytes": _text(f"{TLS}  max_version: !!binary aGFsbG8=", "max_version: b'hallo' is not one of"),
}
