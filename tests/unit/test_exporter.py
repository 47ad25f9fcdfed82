# SPDX-License-Identifier: Apache-2.0
"""HTTP as a scraper, a load balancer and a person use it."""

from __future__ import annotations

import gzip
import html
import math
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from isal import isal_zlib

from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import Batch
from shadowwatch.metrics import exporter, runbook
from shadowwatch.metrics.exporter import open_listener, passed_listener, serve, split_address
from shadowwatch.metrics.text import exposition
from shadowwatch.watch import Watch
from shadowwatch.web.config import Web
from tests.unit.story import FACTS, Story


def watching(now_ns: int | None = None) -> Watch:
    """A watch with one VM of a name that needs escaping, looked at just now."""
    story = Story()
    story.alloc(1, level=2)
    story.alloc(2)
    story.link(1, 0, 2)
    story.zap(1, level=2)
    watch = Watch(FACTS, lambda _: 'a<b>"c"')
    for records in (story.records(), b""):
        watch.take(Batch(time.monotonic_ns() if now_ns is None else now_ns, 0, 0, records))
    return watch


def no_page(path: str) -> None:
    """The pages of those who have none."""


def served(watch: Watch, address: str = "127.0.0.1:0") -> str:
    """Serve it without TLS, and return the address."""
    return serve(watch, open_listener(address), no_page, Web()).address


def get(address: str, path: str) -> tuple[int, str, str]:
    """Status, content type and body."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read().decode()


def test_metrics_over_http_are_the_exposition() -> None:
    """A scrape has every line of the exposition, and the process' own metrics."""
    watch = watching()
    status, content_type, body = get(served(watch), "/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=")
    assert set(exposition(watch).decode().splitlines()) <= set(body.splitlines())
    assert "process_resident_memory_bytes" in body


@pytest.mark.parametrize("compress", [zlib.compressobj, isal_zlib.compressobj])
def test_a_scraper_that_takes_gzip_gets_it(compress: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lines, where Python has ISA-L, and where it does not."""
    monkeypatch.setattr(exporter, "compressobj", compress)
    watch = watching()
    request = urllib.request.Request(f"http://{served(watch)}/metrics", headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        packed = answer.read()
    assert set(exposition(watch).splitlines()) <= set(gzip.decompress(packed).splitlines())


def test_health_follows_the_event_loop() -> None:
    """Ready once the ring was looked at; unhealthy when no look came for a while."""
    fresh = served(watching())
    assert get(fresh, "/-/healthy") == (200, "text/plain; charset=utf-8", "healthy\n")
    assert get(fresh, "/-/ready")[0] == 200
    starting = served(Watch(FACTS, str))
    assert get(starting, "/-/ready")[0] == 503
    stuck = served(watching(now_ns=time.monotonic_ns() - 11 * 10**9))
    assert get(stuck, "/-/healthy")[::2] == (503, "the ring has not been read for 10 seconds\n")


def test_the_runbook_is_a_page_with_an_anchor_for_each_alert() -> None:
    """Whole: each section of docs/runbook.md, and each command in it as it is typed."""
    status, content_type, body = get(served(watching()), "/runbook")
    assert (status, content_type) == (200, "text/html; charset=utf-8")
    text = (Path(__file__).parents[2] / "docs/runbook.md").read_text()
    for alert in re.findall(r"^## (\w+)$", text, re.MULTILINE):
        assert f'<h2 id="{alert.lower()}">{alert}</h2>' in body
    shown = [html.unescape(code) for code in re.findall("<code>(.*?)</code>", body, re.DOTALL)]
    assert shown == re.findall("`(.*?)`", text, re.DOTALL)
    assert len(re.findall("<strong>Fix</strong>", body)) == len(re.findall(r"^\*\*Fix\*\*", text, re.MULTILINE)) > 8
    assert "*" not in re.sub("<code>.*?</code>", "", body.partition("<body>")[2], flags=re.DOTALL)


def test_the_runbook_is_text_and_no_markup_of_its_own() -> None:
    """What HTML would take for a tag, and what Markdown would mark inside of code."""
    page = runbook.html("# A *b*\n\n`<c> **d**` & **e** *f* <g>")
    assert '<h1 id="a-b-">A <em>b</em></h1>' in page
    assert "<p><code>&lt;c&gt; **d**</code> &amp; <strong>e</strong> <em>f</em> &lt;g&gt;</p>" in page


def test_other_paths_are_not_found() -> None:
    """With a word on where to go."""
    assert get(served(watching()), "/favicon.ico")[::2] == (404, "try /, /metrics or /runbook\n")


def test_scrapes_in_parallel_all_get_the_same() -> None:
    """Sixteen scrapers at once, each a whole answer."""
    address = served(watching())
    with ThreadPoolExecutor(16) as pool:
        bodies = list(pool.map(lambda _: get(address, "/metrics")[2], range(64)))
    ours = [[line for line in body.splitlines() if "shadowwatch_" in line] for body in bodies]
    assert all(lines == ours[0] for lines in ours)
    assert len(ours[0]) > 50


def test_who_never_reads_keeps_no_figures_from_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each scrape has new ones, however many are still being sent; the oldest is cut off then, short of its length."""
    monkeypatch.setattr(exporter, "SHARE", math.inf)
    monkeypatch.setattr(exporter, "SMALL", 0)
    watch = watching()
    answer = exporter._answers(watch, no_page)
    sent = []
    for number in range(1, exporter.TEXTS + 2):
        watch.take(Batch(time.monotonic_ns(), number, 0, b""))
        sent.append(answer("/metrics", False))
        assert f'shadowwatch_events_lost_total{{reason="ring_full"}} {number}\n'.encode() in b"".join(sent[-1].body)
    whole = [sum(map(len, each.body)) == int(each.headers["Content-Length"]) for each in sent]
    assert whole == [False] + [True] * exporter.TEXTS
    assert not sent[0].body


def test_nobody_is_cut_off_while_the_figures_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few VMs' are made in no time, also while a hundred scrape: then many more are in memory at a time."""
    monkeypatch.setattr(exporter, "SHARE", math.inf)
    answer = exporter._answers(watching(), no_page)
    sent = [answer("/metrics", False) for _ in range(10 * exporter.TEXTS)]
    assert all(sum(map(len, each.body)) == int(each.headers["Content-Length"]) for each in sent)
    assert {len(each.body) for each in sent} == {1}


def test_a_taken_port_is_one_sentence() -> None:
    """With the flag that chooses another."""
    address = served(watching())
    with pytest.raises(ShadowwatchError, match=r"cannot listen on .*: Address already in use; choose another with"):
        served(watching(), address)


@pytest.mark.parametrize(
    "address",
    [
        *(
            "9790",
            "host:",
            "host:port",
            "host:99999",
            "",
            "host:²",
            "host:-1",
            "host:+1",
            "host: 1",
            "host:1 ",
            "a b:1",
        ),
        *("[::1:1", "::1]:1", "a\0b:1", "[[::1]]:1", "host:" + "9" * 5000),
    ],
)
def test_a_bad_address_is_one_sentence(address: str) -> None:
    """With an example of a good one."""
    with pytest.raises(ShadowwatchError, match=r"give HOST:PORT, such as 127\.0\.0\.1:9790"):
        split_address(address)


def test_ipv6_addresses_have_brackets() -> None:
    """As everywhere."""
    assert split_address("[::1]:9790") == ("::1", 9790)


def connects(listener: socket.socket, host: str, family: socket.AddressFamily) -> bool:
    """Whether a client gets through to it, and not to another server that has this port of another address."""
    listener.setblocking(False)
    with socket.socket(family) as client:
        try:
            client.connect((host, listener.getsockname()[1]))
            connection, peer = listener.accept()
        except OSError:
            return False
        connection.close()
        return bool(peer[1] == client.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "ipv4", "ipv6"),
    [(":0", True, True), ("[::]:0", True, True), ("0.0.0.0:0", True, False), ("[::1]:0", False, True)],
)
def test_everywhere_is_ipv4_and_ipv6(address: str, ipv4: bool, ipv6: bool) -> None:
    """As of Prometheus and its exporters: no host, and ::, stand for both."""
    with open_listener(address) as listener:
        assert connects(listener, "127.0.0.1", socket.AF_INET) == ipv4
        assert connects(listener, "::1", socket.AF_INET6) == ipv6


def test_a_link_local_address_keeps_its_scope() -> None:
    """Without it the kernel could not know which link is meant, and says that the argument is invalid."""
    with pytest.raises(ShadowwatchError, match=r"cannot listen on \[fe80::1%lo\]:0: Cannot assign requested address"):
        open_listener("[fe80::1%lo]:0")


def test_a_name_may_have_ipv6_alone(tmp_path: Path) -> None:
    """In a mount namespace with hosts of its own: the first of IPv4, and IPv6 where there is nothing else."""
    hosts = tmp_path / "hosts"
    hosts.write_text("::1 six both\n127.0.0.1 both\n")
    script = (
        f"mount --bind {hosts} /etc/hosts && {sys.executable} -c"
        " 'from shadowwatch.metrics.exporter import open_listener; print(*(open_listener(name).getsockname()[0]"
        ' for name in ("six:0", "both:0")))\''
    )
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("root is missing, to have hosts of its own")
    assert done.stdout == "::1 127.0.0.1\n"


@pytest.mark.parametrize("host", ["no.such.name.invalid", "x" * 300, "a..b", "ü" * 100, "%lo", "1.2.3.4.5"])
def test_a_host_that_is_none_is_one_sentence(host: str) -> None:
    """Whatever the resolver thinks of it."""
    with pytest.raises(
        ShadowwatchError, match=r"cannot listen on .*; choose another with --listen HOST:PORT"
    ) as caught:
        open_listener(f"{host}:0")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("kind", ["datagram", "connected", "file", "pipe", "nothing"])
def test_a_descriptor_that_is_not_for_http_is_said_in_one_sentence(kind: str, tmp_path: Path) -> None:
    """Whatever systemd was told to listen at, or what else has the number."""
    with ExitStack() as stack:
        if kind == "datagram":
            descriptor = socket.socket(socket.AF_INET, socket.SOCK_DGRAM).detach()
        elif kind == "connected":
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            descriptor = socket.create_connection(listener.getsockname()).detach()
        elif kind == "file":
            descriptor = os.open(tmp_path, os.O_RDONLY)
        elif kind == "pipe":
            descriptor, writer = os.pipe()
            os.close(writer)
        else:
            descriptor = os.dup(0)
            os.close(descriptor)
        with pytest.raises(ShadowwatchError, match=r"shadowwatch\.socket is not for HTTP; give it ListenStream="):
            passed_listener(descriptor)
        with suppress(OSError):
            os.close(descriptor)


def test_all_sockets_are_answered_at() -> None:
    """As with two lines ListenStream=, and who is silent at one holds nobody at another."""
    watch, first, second = watching(), open_listener("127.0.0.1:0"), open_listener("[::1]:0")
    assert serve(watch, first, no_page, Web(), second).address == f"127.0.0.1:{first.getsockname()[1]}"
    with socket.create_connection(first.getsockname()):
        for _ in range(2):
            assert get(f"127.0.0.1:{first.getsockname()[1]}", "/-/healthy")[0] == 200
            assert get(f"[::1]:{second.getsockname()[1]}", "/-/healthy")[0] == 200


def test_a_socket_that_is_not_for_http_is_said_in_one_sentence() -> None:
    """As one that a changed shadowwatch.socket makes."""
    with (
        socket.socket(socket.AF_UNIX) as other,
        pytest.raises(ShadowwatchError, match=r"shadowwatch\.socket is not for HTTP"),
    ):
        passed_listener(os.dup(other.fileno()))
