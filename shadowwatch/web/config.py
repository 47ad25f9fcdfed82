# SPDX-License-Identifier: Apache-2.0
"""A web.config file of Prometheus' exporter-toolkit (its docs/web-configuration.md). The only user of yaml.

What is not written there is refused, and so is what this server has no use for, by its name.
"""

from __future__ import annotations

import os
import ssl
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from shadowwatch.errors import ShadowwatchError, clipped, meant, shown
from shadowwatch.file import LARGEST, contents
from shadowwatch.web.users import Users

#: Reads the configuration, or a file that it names: of this path, with no more bytes than this.
Read = Callable[[str, int], bytes]

#: Bytes of a configuration: hundreds of users. YAML is read slowly, and the daemon's loop waits for it.
LONGEST = 64 << 10

_KEYS: Mapping[str, Collection[str]] = {
    "tls_server_config": (
        *("cert_file", "key_file", "client_auth_type", "client_ca_file", "client_allowed_sans"),
        *("min_version", "max_version"),
    ),
    "http_server_config": ("http2", "headers"),
    "basic_auth_users": (),
}

#: Keys of the format that are not served -> the cure.
_REFUSED = {
    "cert": "name the file with cert_file",
    "key": "name the file with key_file",
    "client_ca": "name the file with client_ca_file",
    "cipher_suites": "leave it out: OpenSSL chooses, and TLS13 as min_version leaves little to choose",
    "prefer_server_cipher_suites": "leave it out, with cipher_suites",
    "curve_preferences": "leave it out: OpenSSL chooses",
    "rate_limit": "leave it out: connections are limited, and what they ask for is made once for all",
}

#: Values of client_auth_type; None: such a certificate would not be looked at.
_CLIENT_AUTH: Mapping[str, ssl.VerifyMode | None] = {
    "NoClientCert": ssl.CERT_NONE,
    "RequestClientCert": None,
    "RequireAnyClientCert": None,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}

#: How YAML 1.1 says it.
_FALSE = ("false", "no", "off", "n")

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}

#: Headers that may be set -> the values that they may have, if these are few.
_HEADERS: Mapping[str, Collection[str]] = {
    "Content-Security-Policy": (),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-Content-Type-Options": ("nosniff",),
    "X-XSS-Protection": (),
    "Strict-Transport-Security": (),
}


@dataclass(frozen=True, slots=True)
class Web:
    """How to serve; by default to everybody who can connect, without TLS.

    A client's certificate must have one of `sans`, if there are any, as its subjectAltName.
    """

    tls: ssl.SSLContext | None = None
    sans: frozenset[str] = frozenset()
    users: Users | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def load(path: str, read: Read = contents) -> Web:
    """Read such a file and those that it names; ShadowwatchError for what is not right, with the file and the key."""
    try:
        return _Loading(path, read).web()
    except ShadowwatchError as error:
        words = str(error)
        raise ShadowwatchError(words if words.startswith("cannot read ") else f"{path}: {words}") from None


def texts(path: str) -> dict[str, str]:
    """The same file and those that it names, by their paths, for `from_texts`; checked as `load` does."""
    read: dict[str, str] = {}

    def keep(path: str, most: int) -> bytes:
        content = contents(path, most)
        read[path] = content.decode("latin-1")
        return content

    load(path, keep)
    return read


def from_texts(texts: Mapping[str, str]) -> Read:
    """Reads what another process read, for one that may not."""
    return lambda path, _: texts[path].encode("latin-1")


class _Loading:
    def __init__(self, path: str, read: Read) -> None:
        self._folder = os.path.dirname(path)
        self._read = read
        self._values = _parsed(read(path, LONGEST))

    def web(self) -> Web:
        whole = self._table(self._values, _KEYS)
        tls = self._table(whole.get("tls_server_config"), _KEYS["tls_server_config"], "tls_server_config.")
        http = self._table(whole.get("http_server_config"), _KEYS["http_server_config"], "http_server_config.")
        users = self._strings(whole.get("basic_auth_users"), "basic_auth_users")
        if str(http.get("http2", "false")).lower() not in _FALSE:
            raise ShadowwatchError("http_server_config.http2: this serves HTTP/1.1; leave it out, or set it to false")
        return Web(
            tls=self._context(tls) if tls else None,
            sans=self._sans(tls),
            users=Users(users) if users else None,
            headers=self._headers(http.get("headers")),
        )

    def _table(self, values: Any, known: Collection[str], table: str = "") -> Mapping[str, Any]:
        if values is None:
            return {}
        if not isinstance(values, dict):
            raise ShadowwatchError(f"{table.rstrip('.') or 'it'} is not a mapping; write keys and values")
        for key in values:
            if key in _REFUSED:
                raise ShadowwatchError(f"{table}{key} is not supported; {_REFUSED[key]}")
            if key not in known:
                raise ShadowwatchError(f"there is no {table}{clipped(str(key))}; {meant(str(key), known)}")
        return values

    def _strings(self, values: Any, key: str, unquoted: bool = False) -> Mapping[str, str]:
        """Values that are empty are "", and `unquoted` takes those that YAML would take for a number or the like."""
        if values is not None and not (
            isinstance(values, dict)
            and all(isinstance(name, str) and isinstance(value, str | None) for name, value in values.items())
            and (unquoted or not any(isinstance(value, _Unquoted) for value in values.values()))
        ):
            raise ShadowwatchError(f"{key} is not a mapping of strings to strings; put quotes around what is not")
        return {name: value or "" for name, value in (values or {}).items()}

    def _headers(self, values: Any) -> Mapping[str, str]:
        headers = self._strings(values, "http_server_config.headers", unquoted=True)
        self._table(headers, _HEADERS, "http_server_config.headers.")
        for name, value in headers.items():
            if not value.isprintable() or (_HEADERS[name] and value not in _HEADERS[name]):
                right = " or ".join(_HEADERS[name]) or "one line of text"
                raise ShadowwatchError(f"http_server_config.headers.{name}: {shown(str(value))} is not {right}")
        return {name: value for name, value in headers.items() if value}

    def _sans(self, tls: Mapping[str, Any]) -> frozenset[str]:
        sans = tls.get("client_allowed_sans") or []
        if not isinstance(sans, list) or not all(isinstance(san, str) for san in sans):
            raise ShadowwatchError("tls_server_config.client_allowed_sans is not a list of strings")
        if sans and tls.get("client_auth_type") != "RequireAndVerifyClientCert":
            raise ShadowwatchError(
                "tls_server_config.client_allowed_sans needs client_auth_type: RequireAndVerifyClientCert"
            )
        return frozenset(sans)

    def _context(self, tls: Mapping[str, Any]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._choice(tls, "min_version", _VERSIONS, "TLS12")
        context.maximum_version = self._choice(tls, "max_version", _VERSIONS, "TLS13")
        if context.maximum_version < context.minimum_version:
            raise ShadowwatchError("tls_server_config.max_version is below min_version")
        self._present(context, tls)
        mode = self._choice(tls, "client_auth_type", _CLIENT_AUTH, "NoClientCert")
        if mode is None:
            raise ShadowwatchError(
                f"tls_server_config.client_auth_type: {tls['client_auth_type']} trusts any certificate and is not"
                " supported; choose RequireAndVerifyClientCert"
            )
        authority = tls.get("client_ca_file")
        if bool(authority) != (mode is not ssl.CERT_NONE):
            raise ShadowwatchError(
                "tls_server_config.client_ca_file and a client_auth_type that verifies need each other; set both or"
                " neither"
            )
        if authority:
            path = self._path(tls, "client_ca_file")
            # As a file and not as text, which may be nothing but ASCII: the format has room for comments.
            with _as_file(self._read(path, LARGEST).removeprefix(BOM_UTF8)) as file:
                try:
                    context.load_verify_locations(file)
                except ssl.SSLError:
                    raise ShadowwatchError(
                        f"tls_server_config.client_ca_file: {clipped(path)} has no certificate in PEM;"
                        f" `openssl x509 -inform der -in {clipped(path)}` makes it of one in DER"
                    ) from None
        context.verify_mode = mode
        return context

    def _present(self, context: ssl.SSLContext, tls: Mapping[str, Any]) -> None:
        """Load the server's own certificate and key."""
        certificate, key = self._path(tls, "cert_file"), self._path(tls, "key_file")

        def encrypted() -> str:
            raise ShadowwatchError(
                f"tls_server_config.key_file: {clipped(key)} is encrypted; `openssl pkey` writes it without"
            )

        pem, secret = (self._read(path, LARGEST).removeprefix(BOM_UTF8) for path in (certificate, key))
        with _as_file(pem) as certificate_file, _as_file(secret) as key_file:
            try:
                context.load_cert_chain(certificate_file, key_file, encrypted)
            except ssl.SSLError as error:
                why = (error.reason or str(error)).lower().replace("_", " ")
                raise ShadowwatchError(
                    f"tls_server_config: {clipped(certificate)} and {clipped(key)} are not a certificate and its key"
                    f" in PEM ({why})"
                ) from None

    def _path(self, tls: Mapping[str, Any], key: str) -> str:
        """A file, beside the configuration unless it says otherwise."""
        value = tls.get(key)
        if not value or not isinstance(value, str):
            raise ShadowwatchError(f"tls_server_config.{key} is missing; it is the path of a file")
        return os.path.join(self._folder, value)

    def _choice(self, tls: Mapping[str, Any], key: str, choices: Mapping[str, Any], default: str) -> Any:
        value = tls.get(key) or default
        if not isinstance(value, str) or value not in choices:
            text = clipped(value) if isinstance(value, str) else shown(value)
            raise ShadowwatchError(f"tls_server_config.{key}: {text} is not one of {', '.join(choices)}")
        return choices[value]


class _Unquoted(str):
    """The text of what YAML takes for a number, a truth or a time."""

    __slots__ = ()


def _parsed(text: bytes) -> Any:
    """What the YAML holds: mappings, lists, None, and for all else the text that stands there.

    So it is in the original: what belongs there is text, whatever YAML would take it for. And no key may stand there
    twice, as with UnmarshalStrict.
    """
    try:
        import yaml
    except ImportError:
        raise ShadowwatchError("a web.config file needs YAML for Python; apt install python3-yaml") from None

    class Loader(yaml.SafeLoader):
        def construct_scalar(self, node: Any) -> str:
            word = super().construct_scalar(node)
            if any("\ud800" <= letter <= "\udfff" for letter in word):
                raise yaml.constructor.ConstructorError(None, None, "half a character", node.start_mark)
            return str(word)

        def construct_unquoted(self, node: Any) -> str:
            return _Unquoted(self.construct_scalar(node))

        def flatten_mapping(self, node: Any) -> None:
            said = set()
            for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
                if key.value in said:
                    where = f"again in line {key.start_mark.line + 1}"
                    raise ShadowwatchError(f"{clipped(key.value)} stands there twice, {where}; keep one of them")
                said.add(key.value)
            super().flatten_mapping(node)
            # Of what was merged only what counts: mappings that merge others again and again would fill the memory.
            counts = {
                key.value if isinstance(key, yaml.ScalarNode) else id(key): (key, each) for key, each in node.value
            }
            node.value = list(counts.values())

    for kind in ("bool", "int", "float", "timestamp"):
        Loader.add_constructor(f"tag:yaml.org,2002:{kind}", Loader.construct_unquoted)
    try:
        return yaml.load(text, Loader)  # noqa: S506 - it is a safe one
    except yaml.YAMLError as error:
        raise ShadowwatchError(
            f"it is not valid YAML: {clipped(' '.join(str(error).split()))}; fix that line"
        ) from None
    except RecursionError:
        raise ShadowwatchError("it is nested too deep; what this takes is keys and values in a few mappings") from None
    except ValueError as error:
        raise ShadowwatchError(f"it is not valid YAML: {clipped(str(error))}; fix that") from None


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """A path to this, for OpenSSL, which reads certificates and keys from files alone."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
