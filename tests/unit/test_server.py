# SPDX-License-Identifier: Apache-2.0
"""HTTP by those who do not keep to it: malformed, slow, many, and those who never read."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import ssl
import struct
import threading
import time
from contextlib import ExitStack, closing, suppress
from http import HTTPStatus
from pathlib import Path
from weakref import ref

import pytest

from shadowwatch.web import server
from shadowwatch.web.config import Web, load
from shadowwatch.web.server import Answer, Server
from tests.unit.certificates import Authority

LARGE = 20 << 20
PIECE = b"x" * (LARGE // 4)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def answer(path: str, gzip: bool) -> Answer:
    """A small page, and a large one in pieces."""
    if path == "/gzip":
        return Answer(HTTPStatus.OK, "text/plain", [str(gzip).encode()])
    if path == "/large":
        return Answer(HTTPStatus.OK, "text/plain", [PIECE] * 4)
    return Answer(HTTPStatus.OK, "text/plain", [b"well\n"])


def serve(web: Web | None = None) -> Server:
    """A server on a free port."""
    return Server(socket.create_server(("127.0.0.1", 0)), answer, web or Web(headers={"X-Frame-Options": "deny"}))


def connect(to: Server) -> socket.socket:
    """A client."""
    host, port = to.address.split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def ask(to: Server, request: bytes) -> bytes:
    """Send this, and read until the server hangs up."""
    received = b""
    with connect(to) as client, suppress(ConnectionError):
        client.sendall(request)
        while piece := client.recv(1 << 20):
            received += piece
    return received


def descriptors() -> int:
    """How many this process has open."""
    return len(os.listdir("/proc/self/fd"))


def settles_at(most: int) -> bool:
    """Whether no more descriptors than these are open after a while."""
    deadline = time.monotonic() + 10
    while descriptors() > most and time.monotonic() < deadline:
        time.sleep(0.05)
    return descriptors() <= most


def test_an_answer_has_its_length_and_the_headers_that_were_configured() -> None:
    """One for each connection; HEAD has no body."""
    served = serve()
    head, _, body = ask(served, GET).partition(b"\r\n\r\n")
    assert body == b"well\n"
    assert head.split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"X-Frame-Options: deny",
        b"Content-Type: text/plain",
        b"Content-Length: 5",
        b"Connection: close",
    ]
    assert ask(served, b"HEAD / HTTP/1.0\r\n\r\n").endswith(b"Content-Length: 5\r\nConnection: close\r\n\r\n")
    assert ask(served, GET + GET).count(b"well") == 1


@pytest.mark.parametrize(
    ("offer", "taken"),
    [
        *((b"gzip", b"True"), (b"deflate, GZIP;q=0.5", b"True"), (b"gzip ; q=1.000", b"True"), (b"*", b"True")),
        *((b"identity", b"False"), (b"", b"False"), (b"gzip;q=0", b"False"), (b"gzip; Q=0.000, *", b"False")),
        *((b"*;q=0", b"False"), (b"gzip;q=x", b"False"), (b"gzip;q=-1", b"False"), (b"gzip;q=inf", b"False")),
        *((b"x-gzip", b"False"), (b"identity\r\nAccept-Encoding: gzip", b"True")),
    ],
)
def test_a_client_says_whether_it_takes_gzip(offer: bytes, taken: bytes) -> None:
    """As Prometheus does."""
    assert ask(serve(), b"GET /gzip HTTP/1.1\r\nAccept-Encoding: " + offer + b"\r\n\r\n").endswith(taken)


@pytest.mark.parametrize(
    "target",
    ["/gzip", "/%67zip", "/gz%69%70?a=b", "http://a/gzip", "HTTPS://a:1/%67zip?b"],
)
def test_a_path_can_be_written_in_several_ways(target: str) -> None:
    """Letters as their numbers, and as a whole URL."""
    assert ask(serve(), f"GET {target} HTTP/1.1\r\n\r\n".encode()).endswith(b"False")


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("//gzip", "/gzip"),
        ("///gzip//a/?b=c%20d", "/gzip/a/?b=c%20d"),
        ("//a.example/%2e%2e", "/"),
        ("/a/../gzip/.", "/gzip"),
        ("/a%2F%2Fb", "/a/b"),
        ("//a%0d%0aX:%20y", "/a%0D%0AX:%20y"),
        ("//\\a", "/%5Ca"),
        ("http://a", "/"),
        ("http://a//gzip", "/gzip"),
    ],
)
def test_who_writes_a_path_with_too_much_is_sent_to_the_one_without(target: str, place: str) -> None:
    """As Prometheus' own server does: 301, within this server."""
    received = ask(serve(), f"GET {target} HTTP/1.1\r\n\r\n".encode())
    assert received.startswith(b"HTTP/1.1 301 Moved Permanently\r\n")
    assert f"\r\nLocation: {place}\r\n".encode() in received


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET  HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1 \r\n\r\n", 400),
        (b"GET http://[ HTTP/1.1\r\n\r\n", 400),
        (b"GET /%zz HTTP/1.1\r\n\r\n", 400),
        (b"GET /% HTTP/1.1\r\n\r\n", 400),
        (b"GET metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET //?\nSet-Cookie:a HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 0\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nContent-Length: 1\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * (server.HEAD + 1) + b"\r\n\r\n", 431),
    ],
)
def test_what_is_no_request_is_refused(request_: bytes, status: int) -> None:
    """With the status for it, and the next request is answered."""
    served = serve()
    received = ask(served, request_)
    assert received.startswith(f"HTTP/1.1 {status} ".encode()), received
    assert ask(served, GET).endswith(b"well\n")


def test_a_thousand_at_once_are_all_answered() -> None:
    """Those that find no room wait their turn; nothing is left behind, and there are three threads, as before."""
    served = serve()
    ask(served, GET)
    threads, before = threading.active_count(), descriptors()

    async def one() -> bytes:
        host, port = served.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(GET)
        received = await reader.read()
        writer.close()
        await writer.wait_closed()
        return received

    async def all_of_them() -> list[bytes]:
        return await asyncio.gather(*(one() for _ in range(1000)))

    received = asyncio.run(asyncio.wait_for(all_of_them(), 60))
    assert {each.rpartition(b"\r\n")[2] for each in received} == {b"well\n"}
    assert settles_at(before)
    assert threading.active_count() <= threads


@pytest.mark.soak
def test_those_who_never_ask_are_left_and_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """More silent clients than there is room for, one of whom sends a byte now and then: a time limit for all of it."""
    monkeypatch.setattr(server, "ASK_SECONDS", 1.0)
    served = serve()
    ask(served, GET)
    before = descriptors()
    with ExitStack() as open_now:
        silent = [open_now.enter_context(connect(served)) for _ in range(server.CONNECTIONS + 20)]
        dripping = silent[0]
        begun = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() - begun < 10:
                dripping.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() - begun < 5
        assert ask(served, GET).endswith(b"well\n")
    assert settles_at(before)


def resident() -> int:
    """Bytes that this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


@pytest.mark.soak
def test_those_who_never_read_cost_little_and_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty of them, twenty MiB each: the text is there once, others get it whole, and time is up for the fifty."""
    monkeypatch.setattr(server, "ANSWER_SECONDS", 3.0)
    served = serve()
    assert ask(served, b"GET /large HTTP/1.1\r\n\r\n").endswith(b"x" * 1000)
    before, memory = descriptors(), resident()
    with ExitStack() as open_now:
        for _ in range(50):
            client = open_now.enter_context(closing(socket.socket()))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            host, port = served.address.split(":")
            client.connect((host, int(port)))
            client.sendall(b"GET /large HTTP/1.1\r\n\r\n")
        assert len(ask(served, b"GET /large HTTP/1.1\r\n\r\n")) > LARGE
        assert resident() - memory < 2 * LARGE + 50 * 4 * server.PIECE
        assert settles_at(before + 50)
    assert settles_at(before)


@pytest.mark.parametrize("tls", [pytest.param(False, marks=pytest.mark.soak), True])
def test_the_answer_of_those_who_hang_up_is_given_back(
    tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of those who reset and those who are late, without the garbage collector, which the daemon lets look hourly.

    And that they did is no news.
    """
    monkeypatch.setattr(server, "ANSWER_SECONDS", 2.0)

    class Body(list[bytes]):
        """A list that can be referred to weakly."""

    sent: list[ref[Body]] = []

    def answer(path: str, gzip: bool) -> Answer:
        body = Body([PIECE] * 4)
        sent.append(ref(body))
        return Answer(HTTPStatus.OK, "text/plain", body)

    def kept() -> int:
        return sum(body() is not None for body in sent)

    authority = Authority(tmp_path)
    certificate = authority.issue("server", "IP:127.0.0.1")
    (tmp_path / "web.yml").write_text(
        f"tls_server_config: {{cert_file: {certificate}, key_file: {certificate.with_suffix('.key')}}}"
    )
    context = ssl.create_default_context(cafile=str(authority.certificate))
    served = Server(socket.create_server(("127.0.0.1", 0)), answer, load(str(tmp_path / "web.yml")) if tls else Web())
    gc.disable()
    try:
        with ExitStack() as open_now:
            for number in range(16):
                client = connect(served)
                client = open_now.enter_context(
                    context.wrap_socket(client, server_hostname="127.0.0.1") if tls else client
                )
                client.sendall(GET)
                assert client.recv(1) == b"H"
                if number % 2:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.close()
            deadline = time.monotonic() + 20
            while kept() and time.monotonic() < deadline:
                time.sleep(0.05)
        assert (len(sent), kept(), caplog.messages) == (16, 0, [])
    finally:
        gc.enable()


@pytest.mark.parametrize("kib", [1, 40, 80, 120, 300])
def test_an_answer_that_is_taken_slowly_leaves_nothing_to_say(kib: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when its end was still here as the connection was closed: it is sent, and no task fails behind it."""
    said: list[str] = []
    monkeypatch.setattr(server, "say", lambda words, *_: said.append(words))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    body = bytes(kib << 10)
    served = Server(listener, lambda path, gzip: Answer(HTTPStatus.OK, "text/plain", [body]), Web())
    host, port = served.address.split(":")
    for _ in range(3):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.settimeout(20)
            client.connect((host, int(port)))
            client.sendall(GET)
            received = b""
            while piece := client.recv(3000):
                received += piece
        assert received.endswith(body)
    ask(served, GET)  # the thread has been there since
    gc.collect()
    assert said == []
