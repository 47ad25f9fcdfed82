# SPDX-License-Identifier: Apache-2.0
"""An HTTP/1.1 server for one answer a connection, with bounds to everything: connections, bytes, time, threads.

Own and not http.server's, which has a thread for each connection, and no bound to the time that all of it takes.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from posixpath import normpath
from socket import socket
from threading import Thread
from traceback import clear_frames
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from shadowwatch.service.log import Level, say
from shadowwatch.web.config import Web

#: Connections at once; those that come then wait in the kernel for their turn, this many of them.
CONNECTIONS, BACKLOG = 256, 1024

#: The longest line with headers; a request has no body.
HEAD = 16 << 10

#: For a connection to become a request, TLS included; then to take its answer; then to hang up.
ASK_SECONDS, ANSWER_SECONDS, END_SECONDS = 10.0, 30.0, 2.0

#: What is handed to the kernel at once, and so what a client that does not read costs.
PIECE = 64 << 10

#: How much an encoding is wanted (RFC 9110, 12.4.2); without it as much as can be.
_WEIGHT = re.compile(r"(?:q\s*=\s*((?:0|1)(?:\.\d*)?))?")

#: What no URL has, and could begin a line of an answer that repeats it.
_BAD_ESCAPE, _BAD_LETTER = re.compile("%(?![0-9A-Fa-f]{2})"), re.compile("[^!-~]")


class Answer(NamedTuple):
    """What to send: `body` in pieces."""

    status: HTTPStatus
    type: str
    body: Sequence[bytes]
    headers: Mapping[str, str] = {}


class _Request(NamedTuple):
    """`path` is decoded, `query` is as it was sent."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]

    @property
    def takes_gzip(self) -> bool:
        """Whether the answer may be compressed: gzip is offered, or anything is, and not with a weight of 0."""
        weights = {}
        for offer in self.headers.get("accept-encoding", "").lower().split(","):
            coding, _, weight = (part.strip() for part in offer.partition(";"))
            found = _WEIGHT.fullmatch(weight)
            weights[coding] = float(found[1] or 1) if found else 0.0
        return weights.get("gzip", weights.get("*", 0.0)) > 0


def _refusal(status: HTTPStatus, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, "text/plain", [f"{status.phrase}\n".encode()], named)


def _parse(head: bytes) -> _Request:
    """Take a request's head apart (RFC 9112); ValueError when it is none."""
    line, *fields = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    method, target, version = line.split(" ")
    if version not in ("HTTP/1.0", "HTTP/1.1") or not target:
        raise ValueError
    headers: dict[str, str] = {}
    for field in fields:
        name, colon, value = field.partition(":")
        if not colon or not name or name != name.strip():
            raise ValueError
        before = headers.get(name.lower())
        headers[name.lower()] = value.strip() if before is None else f"{before}, {value.strip()}"
    return _Request(method, *_place(target), headers)


def _place(target: str) -> tuple[str, str]:
    """Path and query of what is asked for, which may be a whole URL (RFC 9112, 3.2.2); ValueError for other things."""
    if _BAD_LETTER.search(target):
        raise ValueError
    if target.startswith("/"):  # with two of them, too: no host begins there
        path, _, query = target.partition("?")
    elif target.lower().startswith(("http://", "https://")):
        path, query = urlsplit(target)[2:4]
    else:
        raise ValueError
    if _BAD_ESCAPE.search(path):
        raise ValueError
    return unquote(path, "latin-1"), query


def _clean(path: str) -> str:
    """The path without empty steps, and without `.` and `..`, as Go's servers have it, Prometheus' among them."""
    clean = normpath(f"/{path}").replace("//", "/")
    return f"{clean}/" if path.endswith("/") and clean != "/" else clean


def _refused(request: _Request) -> Answer | None:
    """Why this is not answered here, whatever its path is: that of a place, or a way to write one."""
    if request.method not in ("GET", "HEAD"):
        return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")
    if request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers:
        return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if (clean := _clean(request.path)) != request.path:
        place = quote(clean.encode("latin-1"), safe="/:@!$&'()*+,;=")
        return _refusal(HTTPStatus.MOVED_PERMANENTLY, Location=f"{place}?{request.query}" if request.query else place)
    return None


class _Protocol(asyncio.StreamReaderProtocol):
    """Knows whether the connection is over: asyncio's transports fail when one aborts them then."""

    over = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.over = True
        super().connection_lost(exc)


class Server:
    """Serves from a thread of its own; answers are made in another, one at a time, and passwords checked in a third."""

    def __init__(self, listener: socket, answer: Callable[[str, bool], Answer], web: Web, *more: socket) -> None:
        """`answer` is asked with a path, and whether it may compress with gzip; `listener` and `more` are bound."""
        self._listeners = (listener, *more)
        for each in self._listeners:
            each.listen(BACKLOG)
            each.setblocking(False)
        host, port = listener.getsockname()[:2]
        #: HOST:PORT, the first of them.
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        #: How to serve who connects from now on.
        self.web = web
        self._answer = answer
        self._answers = ThreadPoolExecutor(1, "http-answer")
        self._checks = ThreadPoolExecutor(1, "http-password")
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_unexpected)
        Thread(target=self._loop.run_until_complete, args=(self._serve_all(),), daemon=True, name="http").start()

    async def _serve_all(self) -> None:
        await asyncio.gather(*map(self._accept, self._listeners))

    async def _accept(self, listener: socket) -> None:
        serving = set()
        while True:
            await self._room.acquire()
            try:
                connection, _ = await self._loop.sock_accept(listener)
            except OSError:  # no descriptor is left, or the client has gone already
                self._room.release()
                await asyncio.sleep(0.1)
                continue
            task = self._loop.create_task(self._serve(connection))
            serving.add(task)
            task.add_done_callback(serving.discard)
            task.add_done_callback(lambda _: self._room.release())

    async def _serve(self, connection: socket) -> None:
        web = self.web
        reader = asyncio.StreamReader(HEAD, self._loop)
        protocol = _Protocol(reader, loop=self._loop)
        transport: asyncio.Transport | None = None
        # A client that is late, goes, or has no certificate is no news.
        try:
            async with asyncio.timeout(ASK_SECONDS):
                limits = {"ssl_handshake_timeout": ASK_SECONDS, "ssl_shutdown_timeout": END_SECONDS} if web.tls else {}
                made, _ = await self._loop.connect_accepted_socket(lambda: protocol, connection, ssl=web.tls, **limits)
                assert isinstance(made, asyncio.Transport)
                transport = made
                writer = asyncio.StreamWriter(transport, protocol, reader, self._loop)
                request, refusal = await self._ask(reader, writer, web)
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = refusal
                if answer is None:
                    asked = (request.path, request.takes_gzip)
                    answer = await self._loop.run_in_executor(self._answers, self._answer, *asked)
                await _send(writer, answer, web.headers, request.method == "HEAD")
            async with asyncio.timeout(END_SECONDS):
                writer.close()
                await writer.wait_closed()
        except (TimeoutError, OSError, asyncio.IncompleteReadError) as error:
            _let_go(error)
        finally:
            if transport:
                if not protocol.over:
                    transport.abort()
                # It may have been lost by another error than the one that was raised.
                try:
                    await writer.wait_closed()
                except OSError as error:
                    _let_go(error)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, web: Web
    ) -> tuple[_Request, Answer | None]:
        """Read a request; with it comes the answer if it is refused."""
        nothing = _Request("GET", "", "", {})
        try:
            request = _parse(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.LimitOverrunError:
            return nothing, _refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        except ValueError:
            return nothing, _refusal(HTTPStatus.BAD_REQUEST)
        if web.sans and not web.sans & _names(writer.get_extra_info("peercert")):
            return request, _refusal(HTTPStatus.FORBIDDEN)
        if web.users:
            authorization = request.headers.get("authorization", "")
            if not authorization or not (
                web.users.know(authorization)
                or await self._loop.run_in_executor(self._checks, web.users.check, authorization)
            ):
                return request, _refusal(HTTPStatus.UNAUTHORIZED, WWW_Authenticate='Basic realm="shadowwatch"')
        return request, _refused(request)


async def _send(writer: asyncio.StreamWriter, answer: Answer, headers: Mapping[str, str], head_only: bool) -> None:
    lines = [f"HTTP/1.1 {answer.status.value} {answer.status.phrase}"]
    own = {"Content-Type": answer.type, "Content-Length": str(sum(map(len, answer.body))), "Connection": "close"}
    lines += [f"{name}: {value}" for name, value in {**headers, **own, **answer.headers}.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
    for piece in () if head_only else answer.body:
        whole = memoryview(piece)
        for start in range(0, len(piece), PIECE):
            writer.write(whole[start : start + PIECE])
            # A connection that is lost is known to be only after the loop's next turn, which drain() does not wait for
            # with TLS: all other pieces would be written to it, each with a warning.
            await asyncio.sleep(0)
            await writer.drain()
    await writer.drain()


def _let_go(error: BaseException) -> None:
    """Keep nothing by an error that the reader keeps.

    Its frames keep the reader and the answer: only the garbage collector would find them, and the daemon has it look
    once an hour.
    """
    clear_frames(error.__traceback__)
    error.__traceback__ = None


def _names(certificate: Mapping[str, Any] | None) -> frozenset[str]:
    return frozenset(value for _, value in (certificate or {}).get("subjectAltName", ()))


def _unexpected(_: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    error = context.get("exception")
    if not isinstance(error, OSError | ssl.SSLError):
        say(f"HTTP: {context.get('message', '')} {error!r}", Level.WARNING)
