# SPDX-License-Identifier: Apache-2.0
"""What comes from outside is an answer, an error of one line or nothing, and never the end of anything.

SHADOWWATCH_FUZZ_SECONDS says for how long each kind is fed, ten seconds by default.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http import HTTPStatus
from pathlib import Path

import pytest

from shadowwatch.config import example, read, settle
from shadowwatch.control.client import connect
from shadowwatch.control.protocol import GREETING
from shadowwatch.daemon.vmname import name_in
from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import RECORD, Batch
from shadowwatch.event.names import LONGEST_NAME
from shadowwatch.file import contents
from shadowwatch.metrics.text import exposition
from shadowwatch.probe.btf import Btf, BtfError
from shadowwatch.watch import Watch
from shadowwatch.web import server
from shadowwatch.web.config import Web, load
from shadowwatch.web.server import Answer, Server, _parse, _refused
from shadowwatch.web.users import _credentials
from tests.unit import lively
from tests.unit.bad_files import HASH, MUTUAL, TLS
from tests.unit.certificates import Authority
from tests.unit.daemon import STATUS, Daemon
from tests.unit.fuzz import Target, fuzz, seconds
from tests.unit.story import FACTS, Story
from tests.unit.test_btf import compile_small

pytestmark = pytest.mark.soak

REQUESTS = (
    b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept-Encoding: deflate, gzip;q=0.5\r\n\r\n",
    b"GET http://a.example/%6Detrics?a=b HTTP/1.0\r\nAuthorization: Basic YWxpY2U6b3Blbg==\r\n\r\n",
    b"HEAD //-/healthy/../ready HTTP/1.1\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
)
HTTP_WORDS = (
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b":", b";", b",", b"/", b"//", b"..", b"%", b"%00", b"%2F", b"%0d%0a"),
    *(b"q=0", b"q=1.0", b"*", b"?", b"#", b"@", b"[", b"]", b"\xff", b"http://", b"HTTP/1.1", b"Basic ", b"gzip"),
    *(b"Authorization: ", b"Accept-Encoding: ", b"Content-Length: ", b"GET ", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
)

SETTINGS = (
    example().replace("\n#", "\n").encode(),
    b'[run]\nlisten = "[::1]:9790"\nring-mib = 8\nrecent-seconds = 5.5\nwhat-if = ["parents"]\nsocket = "/a"\n',
    b'[top]\ncolumns = ["name", "recent"]\nsort = "recent"\ninterval = 1e1\n',
    b'top = {interval = 1}\nrun.listen = ":0"\nrun.difference = "/b"\nrun.audit-interval = 0x10\n',
)
TOML_WORDS = (
    *(b"[", b"]", b"[[", b"{", b"}", b"=", b".", b",", b'"', b"'", b'"""', b"\n", b"\r", b"#", b"\\", b"\\u0000"),
    *(b"\\ud800", b"1e308", b"-1", b"inf", b"nan", b"0x", b"_", b"9" * 200, b"2001-01-01T00:00:00Z", b"true"),
    *(b"run", b"top", b"listen", b"a.a.", b"\xef\xbb\xbf", b"\xff", b"\0", b"\x1b[2J", b"/", b":", b"[::1%lo]:"),
)

WEBS = (
    TLS.encode(),
    f"{MUTUAL}ca.pem\n  client_allowed_sans: [a, 'b']\n  min_version: TLS12\n  max_version: TLS13\n".encode(),
    f'basic_auth_users:\n  alice: "{HASH}"\n  bob: {HASH}\n'.encode(),
    b"http_server_config:\n  http2: false\n  headers:\n    X-XSS-Protection: 1\n    X-Frame-Options: deny\n",
    b"a: &a {b: c}\nd: {<<: [*a, *a], e: !!int 5}\nrate_limit: {burst: 1}\n",
)
YAML_WORDS = (
    *(b": ", b"- ", b"? ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"<<: ", b"!!", b"!!python/none ", b"!!binary "),
    *(b"!!set ", b"!!omap ", b"!!timestamp ", b"|\n", b">\n", b"---\n", b"...\n", b"%YAML 1.1\n", b"\n", b"  ", b"\t"),
    *(b"'", b'"', b'"\\uD800"', b"\\0", b"~", b"null", b"yes", b"0o7", b"1:2:3", b".inf", b"2001-99-99", b"9" * 200),
    *(b"tls_server_config:\n", b"cert_file: ", b"\xef\xbb\xbf", b"\xfe\xff", b"\xff", b"\0", b"\x85", b"="),
)

BTF_WORDS = (*(bytes([number]) for number in (0, 1, 4, 0x80, 0xFF)), b"\xff\xff\xff\xff", b"\0\0\0\x04", b"page\0")
RECORD_WORDS = (*(bytes([number]) for number in range(14)), b"\0" * 8, b"\xff" * 8, b"\x10" * RECORD.size)

LINES = (
    b'{"ask": "status"}',
    b'{"ask": "snapshot"}',
    b'{"ask": "detail", "vm": "web1"}',
    b'{"ask": "record", "paths": ["a"], "most": 5}',
    GREETING.encode(),
)
JSON_WORDS = (
    *(b"{", b"}", b"[", b"]", b":", b",", b'"', b"null", b"NaN", b"-Infinity", b"1e999", b"9" * 200, b"\\ud800"),
    *(b"\\u0000", b"\0", b"\xff", b"\xef\xbb\xbf", b"\r", b"\n", b"ask", b"vm", b"status", b"record", b"4711"),
)

COMMANDS = (
    b"/usr/bin/qemu-system-x86_64\0-name\0guest=db,,blue,debug-threads=on\0-append\0--name=a\0-m\x0096",
    b"firecracker\0--id\0551e7604\0--\0--id\0b",
    b"crosvm\0run\0--name=web\0-p\0--name=b",
)
COMMAND_WORDS = (
    *(b"\0", b",", b",,", b"=", b"-", b"--", b"guest=", b"-name\0", b"--name=", b"--id\0", b"-append\0", b"\x1b[2J"),
    *(b"\n", b"\xff", "…".encode(), "\u202e".encode(), b"x" * 200, b'"', b"\\", b"{", b"%s"),
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, and a server's certificate and key."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    authority.issue("server", "IP:127.0.0.1")
    return authority.folder


def _http_head(data: bytes) -> None:
    head = data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    try:
        request = _parse(head)
    except ValueError:
        return
    refusal = _refused(request)
    for value in refusal.headers.values() if refusal else ():
        assert value.isprintable()
    assert request.takes_gzip in (True, False)
    _credentials(request.headers.get("authorization", ""))


def _one_line(error: ShadowwatchError) -> None:
    words = str(error)
    assert words
    assert len(words) < 1500


def _web(data: bytes, files: dict[str, bytes]) -> None:
    def read(path: str, most: int) -> bytes:
        if path == "/etc/web.yml":
            return data
        if path in files:
            return files[path]
        return contents(path, most)

    try:
        load("/etc/web.yml", read)
    except ShadowwatchError as error:
        _one_line(error)


def _pem(data: bytes, files: dict[str, bytes]) -> None:
    for name in ("ca.pem", "server.pem", "server.key"):
        _web(f"{MUTUAL}ca.pem\n".encode(), files | {f"/etc/{name}": data})


def _name(data: bytes) -> None:
    command = data.decode(errors="surrogateescape").split("\0")
    name = name_in(command)
    assert name is None or name
    watch = Watch(FACTS, lambda pid: name or str(pid))
    for pid in (1, 2):
        story = Story(kvm=0x1000 * pid, pid=pid)
        story.alloc(1)
        watch.take(Batch(story.ns, 0, 0, story.records()))
    names = [vm.name for vm in watch.snapshot().vms]
    assert len(set(names)) == 2
    assert all(each.isprintable() and len(each) <= LONGEST_NAME for each in names)


def _scrape(data: bytes) -> None:
    _name(data)
    name = data.decode(errors="surrogateescape")
    watch = Watch(FACTS, lambda pid: name)
    story = Story()
    story.alloc(1)
    watch.take(Batch(story.ns, 0, 0, story.records()))
    assert {
        line.count(b'"') % 2 for line in exposition(watch).replace(b"\\\\", b"").replace(b'\\"', b"").splitlines()
    } <= {0}


def _fed(target: Target, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = fuzz(target, seconds())
    with capsys.disabled():
        print(f"\n{target.name}: {inputs:,} inputs in {seconds():g} s")


def test_heads_of_http_requests(capsys: pytest.CaptureFixture[str]) -> None:
    """A request or none; what is sent back of it is one line."""
    _fed(Target("HTTP heads", _http_head, REQUESTS, HTTP_WORDS, 64), capsys)


def test_connections_by_http(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real server, and whatever is sent: an answer or the end of the connection, nothing to say, and it goes on."""
    said: list[str] = []
    monkeypatch.setattr(server, "say", lambda words, *_: said.append(words))
    body = Answer(HTTPStatus.OK, "text/plain", [b"well\n"])
    served = Server(socket.create_server(("127.0.0.1", 0)), lambda path, gzip: body, Web())
    host, port = served.address.split(":")

    def feed(data: bytes) -> None:
        with socket.create_connection((host, int(port)), timeout=20) as client:
            try:
                client.sendall(data)
                client.shutdown(socket.SHUT_WR)
                received = client.recv(20)
            except ConnectionError:
                received = b""
            assert not received or received.startswith(b"HTTP/1.1 ")
        assert said == []

    _fed(Target("HTTP connections", feed, REQUESTS, HTTP_WORDS), capsys)
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"well\n")


def test_configurations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Settings, or an error of one line."""
    path = tmp_path / "a.toml"

    def feed(data: bytes) -> None:
        path.write_bytes(data)
        try:
            settle("run", read(str(path)), {})
        except ShadowwatchError as error:
            _one_line(error)

    _fed(Target("TOML", feed, SETTINGS, TOML_WORDS, 8), capsys)


def test_configurations_of_the_web(capsys: pytest.CaptureFixture[str], authority: Path) -> None:
    """A way to serve, or an error of one line."""
    files = {f"/etc/{path.name}": path.read_bytes() for path in authority.iterdir()}
    _fed(Target("web.config", lambda data: _web(data, files), WEBS, YAML_WORDS, 4), capsys)


def test_certificates_and_keys(capsys: pytest.CaptureFixture[str], authority: Path) -> None:
    """Of the server and of the authority, each in the place of each."""
    files = {f"/etc/{path.name}": path.read_bytes() for path in authority.iterdir()}
    seeds = [files[f"/etc/{name}"] for name in ("ca.pem", "server.pem", "server.key")]
    words = (
        b"-----BEGIN ",
        b"-----END ",
        b"CERTIFICATE",
        b"X509 CRL",
        b"-----",
        b"\n",
        b"\r",
        b"=",
        b"\0",
        b"\xff",
        b"A",
    )
    _fed(Target("PEM", lambda data: _pem(data, files), seeds, words), capsys)


def test_names_of_vms(capsys: pytest.CaptureFixture[str]) -> None:
    """From command lines: printable, short and unique, and each line of a scrape is whole."""
    _fed(Target("command lines", _scrape, COMMANDS, COMMAND_WORDS, 8), capsys)


@contextmanager
def _daemon(folder: Path) -> Iterator[Daemon]:
    daemon = Daemon(folder / "control")
    try:
        yield daemon
    finally:
        daemon.server.shutdown()
        daemon.server.server_close()


def test_lines_to_the_socket(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before and after the greeting: each line is one of JSON answers, or the connection ends."""
    with _daemon(tmp_path) as daemon:

        def feed(data: bytes) -> None:
            line = data.replace(b"\n", b" ") + b"\n"
            for before in (f"{GREETING}\n".encode(), b""):
                with socket.socket(socket.AF_UNIX) as asker:
                    asker.settimeout(20)
                    asker.connect(daemon.path)
                    lines = asker.makefile("rb")
                    try:
                        asker.sendall(before)
                        if before:
                            assert lines.readline() == before
                        asker.sendall(line)
                        asker.shutdown(socket.SHUT_WR)
                        for answer in lines:
                            json.loads(answer)
                    except ConnectionError:
                        pass
            assert not daemon.recordings

        _fed(Target("socket lines", feed, LINES, JSON_WORDS), capsys)
        with closing(connect(daemon.path)) as live:
            assert live.status() == STATUS


def test_type_information(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of a kernel or a module: layouts, or an error of its own."""
    _fed(Target("BTF", _btf, [compile_small(tmp_path)], BTF_WORDS, 16), capsys)


def _btf(data: bytes) -> None:
    with suppress(BtfError):
        for name in ("page", "word", "inner"):
            Btf(data).members(name)


def test_records(capsys: pytest.CaptureFixture[str]) -> None:
    """Of any content, in a ring: a snapshot and a scrape afterwards."""
    batches = lively.batches()[:6:2]
    seeds = [batch.records[: 60 * RECORD.size] for batch in batches]
    _fed(Target("records", lambda data: _records(data, batches[0].now_ns), seeds, RECORD_WORDS, 4), capsys)


def _records(data: bytes, now_ns: int) -> None:
    watch = Watch(FACTS, str)
    watch.take(Batch(now_ns, 0, 0, data[: len(data) // RECORD.size * RECORD.size]))
    assert exposition(watch)
