# SPDX-License-Identifier: Apache-2.0
"""Passwords against bcrypt hashes. The only user of bcrypt."""

from __future__ import annotations

import binascii
import hashlib
import hmac
import os
import re
from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from shadowwatch.errors import ShadowwatchError, clipped

#: $2y$10$, 22 characters of salt and 31 of hash.
_HASH = re.compile(r"\$2[aby]\$(0[4-9]|[12]\d|3[01])\$[./A-Za-z0-9]{53}")


class Users:
    """Who may ask. A check takes 50 to 300 ms, by intent; of each user the last right password is known after it."""

    def __init__(self, hashes: Mapping[str, str]) -> None:
        """`hashes` maps users, one at least, to bcrypt hashes of their passwords; ShadowwatchError when one is none."""
        for user, hashed in hashes.items():
            if not _HASH.fullmatch(hashed):
                name = clipped(user)
                raise ShadowwatchError(
                    f"basic_auth_users.{name} is not a bcrypt hash; make one with `htpasswd -nBC 10 {name}`"
                )
        self._hashes = {user.encode(): hashed.encode() for user, hashed in hashes.items()}
        self._bcrypt = _bcrypt()
        #: Digests with a secret of this process: a password is not kept.
        self._secret = os.urandom(32)
        self._right: dict[bytes, bytes] = {}

    def know(self, authorization: str) -> bool:
        """Whether this header has a password that was right before; costs nothing."""
        user, password = _credentials(authorization)
        return hmac.compare_digest(self._right.get(user, b""), self._digest(password))

    def check(self, authorization: str) -> bool:
        """Whether this header has the right password of a user; costs what bcrypt costs, for an unknown user, too."""
        if self.know(authorization):  # others with the same password waited for the first
            return True
        user, password = _credentials(authorization)
        hashed = self._hashes.get(user) or next(iter(self._hashes.values()))
        try:
            right = bool(self._bcrypt.checkpw(password, hashed)) and user in self._hashes
        except ValueError:  # it is longer than bcrypt takes, or has a NUL
            return False
        if right:
            self._right[user] = self._digest(password)
        return right

    def _digest(self, password: bytes) -> bytes:
        return hashlib.blake2b(password, key=self._secret).digest()


def _credentials(authorization: str) -> tuple[bytes, bytes]:
    """User and password of RFC 7617; both empty when the header is something else, and no user is empty."""
    scheme, _, text = authorization.partition(" ")
    try:
        user, colon, password = b64decode(text.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return b"", b""
    return (user, password) if scheme.lower() == "basic" and colon else (b"", b"")


def _bcrypt() -> Any:
    try:
        import bcrypt
    except ImportError:
        raise ShadowwatchError("basic_auth_users needs bcrypt for Python; apt install python3-bcrypt") from None
    return bcrypt
