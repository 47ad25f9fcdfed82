# SPDX-License-Identifier: Apache-2.0
"""HTTP: /metrics, /-/healthy, /-/ready and a page for people."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from html import escape
from socketserver import ThreadingMixIn
from threading import Lock, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from shadowwatch import __version__
from shadowwatch.errors import ShadowwatchError
from shadowwatch.facts import PAGING
from shadowwatch.metrics.text import Exposition
from shadowwatch.mmu.cause import RECLAIM
from shadowwatch.watch import Watch

#: The event loop looks at the ring many times a second; longer than this and it is stuck.
STUCK_SECONDS = 10

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>shadowwatch</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:3em auto;max-width:46em;padding:0 1em}}
table{{border-collapse:collapse}}td,th{{padding:.2em 1.2em .2em 0;text-align:right}}
td:first-child,th:first-child{{text-align:left}}th{{border-bottom:1px solid #999}}</style></head>
<body><h1>shadowwatch</h1><p>{state}</p>{table}
<p><a href="/metrics">/metrics</a> · <a href="/-/healthy">/-/healthy</a> · <a href="/-/ready">/-/ready</a></p>
<p><small>shadowwatch {version} on Linux {kernel}</small></p></body></html>
"""
_HEADINGS = ("VM", "pages", "limit", "zaps by reclaim", "recently parented", "state")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: Any) -> None:
        """Silent when all is well: a scrape is no news either."""


def _landing_page(watch: Watch) -> str:
    now = watch.snapshot()
    rows = [
        (
            vm.name,
            sum(vm.pages.values()),
            vm.limit,
            sum(zaps for (_, cause), zaps in vm.zaps.items() if cause in RECLAIM),
            sum(vm.recently_parented_zaps.values()),
            "ended" if vm.ended else "exact" if vm.exact else "catching up",
        )
        for vm in now.vms
    ]
    texts = [[f"{cell:,}" if isinstance(cell, int) else escape(cell) for cell in row] for row in rows]
    cells = "".join("<tr>" + "".join(f"<td>{text}</td>" for text in row) + "</tr>" for row in texts)
    heading = "".join(f"<th>{heading}</th>" for heading in _HEADINGS)
    return _PAGE.format(
        state=f"{now.received:,} events received, {now.lost + now.untracked:,} lost."
        + ("" if rows else " No VM is running.")
        + (f" {PAGING[watch.facts.paging]}." if watch.facts.paging.startswith("tdp_mmu") else ""),
        table=f"<table><tr>{heading}</tr>{cells}</table>" if rows else "",
        version=escape(__version__),
        kernel=escape(watch.facts.kernel),
    )


def _application(watch: Watch) -> Callable[..., Iterable[bytes]]:
    process = CollectorRegistry()
    ProcessCollector(registry=process)
    exposition, one_at_a_time = Exposition(watch), Lock()

    def metrics() -> bytes:
        with one_at_a_time:
            return b"".join([*exposition.pieces(), generate_latest(process)])

    def stuck() -> bool:
        return time.monotonic_ns() - watch.seen_ns > STUCK_SECONDS * 10**9

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def answer(status: str, body: str, type: str = "text/plain") -> Iterable[bytes]:
            start_response(status, [("Content-Type", f"{type}; charset=utf-8")])
            return [body.encode()]

        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            start_response("200 OK", [("Content-Type", CONTENT_TYPE_LATEST)])
            return [metrics()]
        if path == "/":
            return answer("200 OK", _landing_page(watch), "text/html")
        if path == "/-/ready":
            # Probes are attached before this process begins, so one look makes it ready.
            return answer("200 OK", "ready\n") if watch.seen_ns else answer("503 Service Unavailable", "starting\n")
        if path == "/-/healthy":
            if stuck():
                return answer("503 Service Unavailable", f"no look at the ring for {STUCK_SECONDS} seconds\n")
            return answer("200 OK", "healthy\n")
        return answer("404 Not Found", "try / or /metrics\n")

    return application


def split_address(address: str) -> tuple[str, int]:
    """HOST:PORT → (host, port); ShadowwatchError when it is not that."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ShadowwatchError(f"{address} is no address to listen on; give HOST:PORT, such as 127.0.0.1:9790")
    return host.strip("[]"), int(port)


def serve(watch: Watch, address: str) -> str:
    """Serve the watch at HOST:PORT from a thread of its own; returns the address in use (port 0: any free one)."""
    host, port = split_address(address)
    try:
        server = make_server(host, port, _application(watch), _Server, _Handler)
    except OSError as error:
        raise ShadowwatchError(
            f"cannot listen on {address}: {error.strerror}; choose another with --listen HOST:PORT"
        ) from None
    Thread(target=server.serve_forever, daemon=True, name="http").start()
    return f"{host}:{server.server_port}"
