# SPDX-License-Identifier: Apache-2.0
"""HTTP as a scraper, a load balancer and a person use it."""

from __future__ import annotations

import gzip
import math
import os
import socket
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from shadowwatch.errors import ShadowwatchError
from shadowwatch.event.abi import Batch
from shadowwatch.metrics import exporter
from shadowwatch.metrics.exporter import listening, passed, serve, split_address
from shadowwatch.metrics.text import exposition
from shadowwatch.watch import Watch
from shadowwatch.web.config import Web
from tests.unit.daemon import STATUS
from tests.unit.story import FACTS, Story


def watching(now_ns: int | None = None) -> Watch:
    """A watch with one VM of a name that needs escaping, looked at just now."""
    story = Story()
    story.alloc(1, level=2)
    story.alloc(2)
    story.link(1, 0, 2)
    story.zap(1, level=2)
    watch = Watch(FACTS, lambda _: 'a<b>"c"')
    watch.take(Batch(time.monotonic_ns() if now_ns is None else now_ns, 0, 0, story.records()))
    return watch


def served(watch: Watch, address: str = "127.0.0.1:0") -> str:
    """Serve it without TLS, and return the address."""
    return serve(watch, listening(address), lambda: STATUS, Web()).address


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


def test_a_scraper_that_takes_gzip_gets_it() -> None:
    """The same lines."""
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
    assert get(stuck, "/-/healthy")[::2] == (503, "no look at the ring for 10 seconds\n")


def test_the_landing_page_shows_state_and_escapes_names() -> None:
    """Host, kernel, KVM, probes, VMs, losses, how many are exact, and links; a VM's name is somebody else's text."""
    status, content_type, body = get(served(watching()), "/")
    assert status == 200
    assert content_type.startswith("text/html")
    assert "a&lt;b&gt;&quot;c&quot;" in body
    assert "a<b>" not in body
    for said in (
        "<h1>shadowwatch on kvm1</h1>",
        "Linux 6.1.0-test, KVM patched, policy parents, 2 probes. Shadow paging:",
        "VMs: 1 running, 1 of them exact. Events: 4 received, 0 lost.",
        '<a href="/metrics">',
    ):
        assert said in body


def test_other_paths_are_not_found() -> None:
    """With a word on where to go."""
    assert get(served(watching()), "/favicon.ico")[::2] == (404, "try / or /metrics\n")


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
    answer = exporter._answers(watch, lambda: STATUS)
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
    answer = exporter._answers(watching(), lambda: STATUS)
    sent = [answer("/metrics", False) for _ in range(10 * exporter.TEXTS)]
    assert all(sum(map(len, each.body)) == int(each.headers["Content-Length"]) for each in sent)
    assert {len(each.body) for each in sent} == {1}


def test_a_taken_port_is_one_sentence() -> None:
    """With the flag that chooses another."""
    address = served(watching())
    with pytest.raises(ShadowwatchError, match=r"cannot listen on .*: Address already in use; choose another with"):
        served(watching(), address)


@pytest.mark.parametrize("address", ["9790", "host:", "host:port", "host:99999", ""])
def test_a_bad_address_is_one_sentence(address: str) -> None:
    """With an example of a good one."""
    with pytest.raises(ShadowwatchError, match=r"give HOST:PORT, such as 127\.0\.0\.1:9790"):
        split_address(address)


def test_ipv6_addresses_have_brackets() -> None:
    """As everywhere."""
    assert split_address("[::1]:9790") == ("::1", 9790)


def test_a_socket_that_is_not_for_http_is_said_in_one_sentence() -> None:
    """As one that a changed shadowwatch.socket makes."""
    with (
        socket.socket(socket.AF_UNIX) as other,
        pytest.raises(ShadowwatchError, match=r"shadowwatch\.socket is not one"),
    ):
        passed(os.dup(other.fileno()))
