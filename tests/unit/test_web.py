# SPDX-License-Identifier: Apache-2.0
"""web.config: TLS, clients' certificates and passwords, over real connections; and what is said of a file."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bcrypt
import pytest

from shadowwatch.errors import ShadowwatchError
from shadowwatch.web import server
from shadowwatch.web.config import Web, from_texts, load, texts
from shadowwatch.web.server import Server
from shadowwatch.web.users import Users
from tests.unit.certificates import Authority
from tests.unit.test_server import GET, answer

Written = Callable[[str], str]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority with a server's certificate, two clients', and the server's key encrypted."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    authority.issue("server", "IP:127.0.0.1")
    authority.issue("client", "DNS:prometheus")
    authority.issue("other", "DNS:other")
    subprocess.run(
        ["openssl", "pkey", "-in", "server.key", "-aes128", "-passout", "pass:x", "-out", "encrypted.key"],
        check=True,
        cwd=authority.folder,
    )
    return authority


@pytest.fixture
def written(authority: Authority) -> Written:
    """Writes a web.config beside the certificates and returns its path."""

    def write(text: str) -> str:
        path = authority.folder / "web.yml"
        path.write_text(text)
        return str(path)

    return write


def hashed(password: str, rounds: int = 4) -> str:
    """As htpasswd writes it, which says 2y; always with the same salt, since tests are named by it."""
    salt = f"$2y${rounds:02}${'.' * 22}"
    return bcrypt.hashpw(password.encode(), salt.encode()).decode()


def serve(web: Web) -> Server:
    """A server with this configuration."""
    return Server(socket.create_server(("127.0.0.1", 0)), answer, web)


def ask(to: Server, authority: Authority, client: str = "", request: bytes = GET, **versions: ssl.TLSVersion) -> bytes:
    """Ask over TLS as a client that knows the authority, perhaps with a certificate of its own."""
    context = ssl.create_default_context(cafile=str(authority.certificate))
    for name, version in versions.items():
        setattr(context, name, version)
    if client:
        context.load_cert_chain(authority.folder / f"{client}.pem", authority.folder / f"{client}.key")
    host, port = to.address.split(":")
    received = b""
    with (
        socket.create_connection((host, int(port)), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        secure.sendall(request)
        while piece := secure.recv(1 << 16):
            received += piece
    return received


def unanswered(to: Server, authority: Authority, client: str) -> bool:
    """Whether a client gets nothing; with TLS 1.3 it hears of its certificate only after the handshake."""
    try:
        return ask(to, authority, client) == b""
    except (ssl.SSLError, ConnectionError):
        return True


TLS = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n"
MUTUAL = f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n"


def test_tls_with_files_beside_the_configuration(authority: Authority, written: Written) -> None:
    """A client that knows the authority is answered; one that speaks plain HTTP, or is too old, gets nothing."""
    served = serve(load(written(f"{TLS}  min_version: TLS13\n")))
    assert ask(served, authority).endswith(b"well\n")
    with pytest.raises(ssl.SSLError):
        ask(served, authority, maximum_version=ssl.TLSVersion.TLSv1_2)
    host, port = served.address.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as plain:
        plain.sendall(GET)
        assert b"HTTP" not in plain.recv(1000)
    served = serve(load(written(f"{TLS}  max_version: TLS12\n")))
    assert ask(served, authority).endswith(b"well\n")
    with pytest.raises(ssl.SSLError):
        ask(served, authority, minimum_version=ssl.TLSVersion.TLSv1_3)


def test_clients_show_a_certificate(authority: Authority, written: Written, tmp_path: Path) -> None:
    """One of the authority's is taken, none and another authority's are not; `if given` takes none, too."""
    stranger = Authority(tmp_path, "stranger").issue("client", "DNS:prometheus")
    served = serve(load(written(MUTUAL)))
    assert ask(served, authority, "client").endswith(b"well\n")
    for client in ("", str(stranger.with_suffix(""))):
        assert unanswered(served, authority, client)
    served = serve(load(written(MUTUAL.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven"))))
    assert ask(served, authority).endswith(b"well\n")
    assert unanswered(served, authority, str(stranger.with_suffix("")))


def test_clients_may_have_to_have_a_name(authority: Authority, written: Written) -> None:
    """client_allowed_sans: a certificate of the authority alone is not enough."""
    served = serve(load(written(f"{MUTUAL}  client_allowed_sans: [prometheus]\n")))
    assert ask(served, authority, "client").endswith(b"well\n")
    assert ask(served, authority, "other").startswith(b"HTTP/1.1 403 ")


def authorized(user: str, password: str) -> bytes:
    """A request with a password."""
    return GET[:-2] + b"Authorization: Basic " + b64encode(f"{user}:{password}".encode()) + b"\r\n\r\n"


def test_a_password_is_asked_for(authority: Authority, written: Written) -> None:
    """Right for this user or 401, with the header that makes a browser ask; the same again and again."""
    served = serve(load(written(f"{TLS}basic_auth_users:\n  alice: {hashed('open')}\n  bob: {hashed('sesame')}\n")))
    for _ in range(2):
        for request in (authorized("alice", "open"), authorized("bob", "sesame")):
            assert ask(served, authority, request=request).endswith(b"well\n")
        for request in (
            GET,
            authorized("alice", "sesame"),
            authorized("alice", ""),
            authorized("nobody", "open"),
            authorized("", ""),
            authorized("alice", "open\0"),
            authorized("alice", "x" * 100),
            GET[:-2] + b"Authorization: Basic !\r\n\r\n",
            GET[:-2] + b"Authorization: Bearer open\r\n\r\n",
        ):
            received = ask(served, authority, request=request)
            assert received.startswith(b"HTTP/1.1 401 "), request
            assert b'\r\nWWW-Authenticate: Basic realm="shadowwatch"\r\n' in received


def test_a_right_password_is_known_afterwards_and_a_wrong_one_never() -> None:
    """One for each user, not the password itself; and one that has changed is forgotten."""
    users = Users({"alice": hashed("open")})
    right = "Basic " + b64encode(b"alice:open").decode()
    wrong = "Basic " + b64encode(b"alice:shut").decode()
    assert not users.know(right)
    assert users.check(right)
    assert users.know(right)
    assert not users.check(wrong)
    assert not users.know(wrong)
    assert users.know(right)
    assert not Users({"alice": hashed("new")}).know(right)
    assert b"open" not in repr(vars(users)).encode()


@pytest.mark.soak
def test_a_hundred_who_guess_delay_nobody_who_is_known(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bcrypt has a thread of its own, and whoever was right before does not wait for it."""
    monkeypatch.setattr(server, "ASK_SECONDS", 3.0)
    served = serve(load(written(f"basic_auth_users:\n  alice: {hashed('open', 10)}\n")))

    def request(password: str) -> bytes:
        host, port = served.address.split(":")
        with socket.create_connection((host, int(port)), timeout=60) as client:
            client.sendall(authorized("alice", password))
            return client.recv(100)

    assert request("open").startswith(b"HTTP/1.1 200 ")
    with ThreadPoolExecutor(100) as pool:
        guesses = [pool.submit(request, str(number)) for number in range(100)]
        assert request("open").startswith(b"HTTP/1.1 200 ")
        assert sum(guess.done() for guess in guesses) < 90
        # Those who wait longer than the time for a request are left.
        assert {guess.result()[:13] for guess in guesses} <= {b"HTTP/1.1 401 ", b""}


def test_a_configuration_read_again_is_for_those_who_connect_then(authority: Authority, written: Written) -> None:
    """From plain to TLS, and a certificate renewed in its place, on the same port."""
    served = serve(load(written("")))

    def certificate() -> str:
        host, port = served.address.split(":")
        return ssl.get_server_certificate((host, int(port)), ca_certs=str(authority.certificate))

    served.web = load(written(TLS))
    first = certificate()
    assert first == certificate()
    authority.issue("server", "IP:127.0.0.1")
    assert first == certificate()
    served.web = load(written(TLS))
    assert first != certificate()


def test_what_root_read_the_other_half_need_not(authority: Authority, written: Written) -> None:
    """The texts of all files go along, by their paths."""
    path = written(MUTUAL)
    read = texts(path)
    assert sorted(Path(name).name for name in read) == ["ca.pem", "server.key", "server.pem", "web.yml"]
    os.rename(authority.folder / "server.key", authority.folder / "moved.key")
    try:
        with pytest.raises(ShadowwatchError, match=r"^cannot read .*/server\.key: No such file or directory; check"):
            load(path)
        assert ask(serve(load(path, from_texts(read))), authority, "client").endswith(b"well\n")
    finally:
        os.rename(authority.folder / "moved.key", authority.folder / "server.key")


@pytest.mark.parametrize(
    "before", [b"# M\xc3\xbcller CA\n", b"\xff\xfe\x00\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf# CA\r\n"]
)
def test_pem_has_room_for_comments_of_any_kind(authority: Authority, written: Written, before: bytes) -> None:
    """In all three files: other letters, other encodings, and the mark of UTF-8."""
    for name in ("server.pem", "server.key", "ca.pem"):
        (authority.folder / f"noted-{name}").write_bytes(before + (authority.folder / name).read_bytes() + before)
    served = serve(load(written(MUTUAL.replace(": server.", ": noted-server.").replace(": ca.", ": noted-ca."))))
    assert ask(served, authority, "client").endswith(b"well\n")
    assert unanswered(served, authority, "")


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("X-XSS-Protection: 1", {"X-XSS-Protection": "1"}),
        ("X-XSS-Protection: 0x10", {"X-XSS-Protection": "0x10"}),
        ("X-XSS-Protection: no", {"X-XSS-Protection": "no"}),
        ("X-XSS-Protection: 2001-01-01", {"X-XSS-Protection": "2001-01-01"}),
        ("X-XSS-Protection:", {}),
        (
            "Content-Security-Policy: &a x\n    X-XSS-Protection: *a",
            dict.fromkeys(("Content-Security-Policy", "X-XSS-Protection"), "x"),
        ),
    ],
)
def test_text_needs_no_quotes(text: str, headers: dict[str, str], written: Written) -> None:
    """As in the original, which takes what stands there whatever YAML would take it for."""
    assert load(written(f"http_server_config:\n  http2: off\n  headers:\n    {text}\n")).headers == headers


def test_a_mapping_may_be_merged_into_another(written: Written) -> None:
    """YAML's own way of not to write a thing twice; what the mapping has itself wins."""
    text = f"basic_auth_users: {{<<: {{alice: {hashed('x')}, bob: x}}, bob: {hashed('y')}}}"
    users = load(written(text)).users
    assert users
    assert users.check("Basic " + b64encode(b"bob:y").decode())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "it is not valid YAML: .*; fix that line"),
        ("7", "it is not a mapping; write keys and values"),
        ("tls_config: {}", "there is no tls_config; did you mean tls_server_config"),
        (f"{TLS}  cert_fiel: x", "there is no tls_server_config.cert_fiel; did you mean cert_file"),
        (f"{TLS}  1: x", "there is no tls_server_config.1; choose from cert_file, "),
        (f"{TLS}  cipher_suites: []", "tls_server_config.cipher_suites is not supported; leave it out: OpenSSL"),
        (f"{TLS}  key: x", "tls_server_config.key is not supported; name the file with key_file"),
        ("rate_limit: {burst: 1}", "rate_limit is not supported; leave it out"),
        ("tls_server_config: {cert_file: server.pem}", "tls_server_config.key_file is missing"),
        (
            TLS.replace("server.key", "client.key"),
            r"server\.pem and .*client\.key are not a certificate and its key in PEM",
        ),
        (TLS.replace("server.key", "web.yml"), r"server\.pem and .*web\.yml are not a certificate and its key in PEM"),
        (TLS.replace("server.key", "encrypted.key"), r"key_file: .*encrypted\.key is encrypted; `openssl pkey` writes"),
        (f"{TLS}  min_version: TLS10", "tls_server_config.min_version: TLS10 is not one of TLS12, TLS13"),
        (f"{TLS}  min_version: TLS13\n  max_version: TLS12", "tls_server_config.max_version is below min_version"),
        (f"{TLS}  client_auth_type: Require", "client_auth_type: Require is not one of NoClientCert, "),
        (f"{TLS}  client_auth_type: RequireAnyClientCert", "RequireAnyClientCert trusts any certificate and is not"),
        (f"{TLS}  client_ca_file: ca.pem", "client_ca_file and a client_auth_type that verifies need each other"),
        (MUTUAL.replace("ca.pem", "server.key"), r"client_ca_file: .*server\.key has no certificate in PEM"),
        (f"{TLS}  client_allowed_sans: [a]", "client_allowed_sans needs client_auth_type: RequireAndVerifyClientCert"),
        ("http_server_config: {http2: true}", "http_server_config.http2: this serves HTTP/1.1; leave it out, or"),
        ("http_server_config: {headers: {X-Frame-Options: x}}", "X-Frame-Options: 'x' is not deny or sameorigin"),
        ("http_server_config: {headers: {Server: x}}", "there is no http_server_config.headers.Server; choose from"),
        (
            'http_server_config: {headers: {X-XSS-Protection: "a\\nb"}}',
            r"X-XSS-Protection: 'a\\nb' is not one line of text",
        ),
        ("basic_auth_users: [alice]", "basic_auth_users is not a mapping of strings to strings; put quotes around"),
        ("basic_auth_users: {alice: 7}", "basic_auth_users is not a mapping of strings to strings; put quotes around"),
        (
            "basic_auth_users: {alice: open}",
            "basic_auth_users.alice is not a bcrypt hash; make one with `htpasswd -nBC",
        ),
        (f"basic_auth_users: {{alice: {hashed('x')[:-1]}}}", "basic_auth_users.alice is not a bcrypt hash"),
        (
            f"basic_auth_users: {{alice: {hashed('x').replace('$04$', '$32$')}}}",
            "basic_auth_users.alice is not a bcrypt",
        ),
    ],
)
def test_what_is_not_right_is_one_line(text: str, said: str, written: Written) -> None:
    """With the file, the key and the cure; nothing is passed over."""
    path = written(text)
    with pytest.raises(ShadowwatchError, match=said) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"basic_auth_users: {{{'a' * 1000}: open}}",
        f"{'a' * 1000}: 1",
        f"http_server_config: {{headers: {{X-Frame-Options: {'a' * 9000}}}}}",
        f"tls_server_config: {{client_ca_file: {'a/../' * 700}ca.der, client_auth_type: RequireAndVerifyClientCert}}",
        f"tls_server_config: {{min_version: {'a' * 9000}}}",
    ],
)
def test_an_error_shows_of_long_values_a_part(text: str, written: Written) -> None:
    """A line of a log, whatever stands in the file."""
    path = written(text)
    with pytest.raises(ShadowwatchError) as caught:
        load(path)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(("module", "text"), [("yaml", ""), ("bcrypt", f"basic_auth_users: {{a: {hashed('x')}}}")])
def test_a_library_that_is_missing_is_named(
    module: str, text: str, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Debian's package for it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ShadowwatchError, match=f"; apt install python3-{module}$"):
        load(written(text))


def test_the_toolkits_own_defaults() -> None:
    """Nothing configured is plain HTTP for everybody."""
    assert load("/dev/null") == Web()
