# SPDX-License-Identifier: Apache-2.0
"""What HTTP serves: /metrics, /runbook, /-/healthy, /-/ready, and the pages that it is given."""

from __future__ import annotations

import errno
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from http import HTTPStatus
from itertools import chain
from weakref import ref

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

try:
    from isal.isal_zlib import compressobj
except ImportError:  # it is not in Debian 12, and not needed
    from zlib import compressobj

from shadowwatch.errors import ShadowwatchError, clipped
from shadowwatch.metrics.runbook import runbook
from shadowwatch.metrics.text import CONTENT_TYPE, Exposition
from shadowwatch.watch import Watch
from shadowwatch.web.config import Web
from shadowwatch.web.server import PIECE, Answer, Server

#: The event loop looks at the ring many times a second; longer than this and it is stuck.
STUCK_SECONDS = 10

#: Making the metrics takes no more than this share of a core: scrapes that come sooner get the last ones.
SHARE = 0.1

#: So many different ones are in memory at a time, and more only while all have no more bytes than this; who still reads
#: an older one is cut off.
TEXTS, SMALL = 4, 1 << 20

#: The page of a path, None when that is not a page's.
PageOf = Callable[[str], Answer | None]


class _Text(list[bytes]):
    """The metrics of one moment; a list that can be referred to weakly."""

    @cached_property
    def compressed(self) -> list[bytes]:
        """The same with gzip, a twentieth as long; level 1, for a higher one takes far longer and gives little more.

        By ISA-L, where Python has it, in a third of zlib's time.
        """
        gzip = compressobj(1, wbits=31)
        return [*map(gzip.compress, self), gzip.flush()]


def _in_pieces(texts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes, as few pieces of PIECE bytes at most: each costs the server a turn of its loop."""
    joined: list[bytes] = []
    for text in texts:
        for start in range(0, len(text), PIECE):
            piece = text[start : start + PIECE]
            if sum(map(len, joined)) + len(piece) > PIECE:
                yield b"".join(joined)
                joined.clear()
            joined.append(piece)
    yield b"".join(joined)


class _Metrics:
    """The metrics as text, made again when that is due; from one thread."""

    def __init__(self, watch: Watch) -> None:
        self._exposition = Exposition(watch)
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)
        self._text = _Text()
        self._alive: list[ref[_Text]] = []
        self._due = 0.0

    def text(self) -> _Text:
        """As they are now, or were a short while ago."""
        begun, used = time.monotonic(), time.thread_time()
        if begun < self._due:
            return self._text
        pieces = (*self._exposition.pieces(), generate_latest(self._process))
        # In small pieces, since one of them stays with whoever is cut off at it.
        self._text = _Text(_in_pieces(pieces))
        alive = [text for text in (known() for known in self._alive) if text is not None] + [self._text]
        while len(alive) > TEXTS and sum(map(len, chain(*alive))) > SMALL:
            alive.pop(0).clear()
        self._alive = [*map(ref, alive)]
        self._due = begun + (time.thread_time() - used) / SHARE
        return self._text


def _answers(watch: Watch, page: PageOf, seen_ns: Callable[[], int] | None = None) -> Callable[[str, bool], Answer]:
    seen = seen_ns or (lambda: watch.seen_ns)
    metrics = _Metrics(watch)
    what_to_do = runbook()  # read now: later the daemon may open no file

    def plain(text: str, status: HTTPStatus = HTTPStatus.OK, type: str = "text/plain") -> Answer:
        return Answer(status, f"{type}; charset=utf-8", [text.encode()])

    def answer(path: str, gzip: bool) -> Answer:
        if path == "/metrics":
            text = metrics.text()
            if gzip:
                return Answer(HTTPStatus.OK, CONTENT_TYPE, text.compressed, {"Content-Encoding": "gzip"})
            # Said here, where nobody clears it meanwhile: who gets less than this knows that it is not all.
            return Answer(HTTPStatus.OK, CONTENT_TYPE, text, {"Content-Length": str(sum(map(len, text)))})
        if path == "/runbook":
            return plain(what_to_do, type="text/html")
        if path == "/-/ready":
            # Probes are attached before this process begins, so one look makes it ready.
            return plain("ready\n") if seen() else plain("starting\n", HTTPStatus.SERVICE_UNAVAILABLE)
        if path == "/-/healthy":
            if time.monotonic_ns() - seen() > STUCK_SECONDS * 10**9:
                said = f"the ring has not been read for {STUCK_SECONDS} seconds\n"
                return plain(said, HTTPStatus.SERVICE_UNAVAILABLE)
            return plain("healthy\n")
        return page(path) or plain("try /, /metrics or /runbook\n", HTTPStatus.NOT_FOUND)

    return answer


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT → (host, port); ShadowwatchError when it is not that."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if (
        not colon
        or not re.fullmatch("[0-9]{1,5}", port)
        or int(port) > 65535
        or not re.fullmatch(r"[^\s\[\]\0]*", bare)
    ):
        named = clipped(address)
        raise ShadowwatchError(f"{named} is not an address to listen on; give HOST:PORT, such as 127.0.0.1:9790")
    return bare, int(port)


def open_listener(address: str) -> socket.socket:
    """Make a socket at HOST:PORT (port 0: any free one; no host, or ::, is all of them, IPv6 and IPv4)."""
    host, port = split_address(address)
    try:
        if host in ("", "::"):
            return _everywhere(host, port)
        # With the scope of a link-local address. A name has perhaps several: IPv4's come first, as in Go.
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = min(found, key=lambda each: each[0] != socket.AF_INET)
        return socket.create_server(place, family=family)
    except UnicodeError:  # it cannot be a name
        why = "Name or service not known"
    except OSError as error:
        why = str(error.strerror).partition(" (")[0]
    raise ShadowwatchError(f"cannot listen on {clipped(address)}: {why}; choose another with --listen HOST:PORT")


def _everywhere(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    except (OSError, ValueError) as error:
        # A kernel without IPv6, or one where it is switched off.
        absent = isinstance(error, ValueError) or error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
        if host or not absent:
            raise
        return socket.create_server(("", port))


def passed_listener(descriptor: int) -> socket.socket:
    """Take a socket that systemd passed; ShadowwatchError when nobody can connect to it for HTTP."""
    try:
        listener = socket.socket(fileno=descriptor)
        internet = listener.family in (socket.AF_INET, socket.AF_INET6) and listener.type == socket.SOCK_STREAM
        if internet and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return listener
        listener.close()
    except OSError:  # it is another kind of file
        pass
    raise ShadowwatchError("shadowwatch.socket is not for HTTP; give it ListenStream=HOST:PORT, and no Accept=yes")


def serve(
    watch: Watch,
    listener: socket.socket,
    page: PageOf,
    web: Web,
    *more: socket.socket,
    seen_ns: Callable[[], int] | None = None,
) -> Server:
    """Serve the watch at this socket, and perhaps at more, from threads of its own; `page` is asked in one of them.

    `seen_ns` tells when it was last fed (time.monotonic_ns()), 0 before the first time; by default the watch's clock.
    """
    return Server(listener, _answers(watch, page, seen_ns), web, *more)
