# SPDX-License-Identifier: Apache-2.0
"""Clients that a server has to bear: `nuisance.py half|deaf|scrapes PORT COUNT`.

They run in the lab, where nothing is between them and the server. Those of `half` send half a request, those of `deaf`
ask and never read; they say so in a line, and go when standard input ends. `scrapes` are all made at once, as
Prometheus makes one, and those that are left without an answer again; it prints how many came to a whole one.
"""

import asyncio
import resource
import socket
import sys
import zlib

HALF = b"GET /metrics HTTP/1.1\r\nHost: a\r\n"
GZIP = b"Accept-Encoding: gzip\r\n"


def _connected(port: int, request: bytes) -> socket.socket:
    client = socket.socket()
    # Little fits into what the kernel has of such a connection, so the server has to wait.
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.connect(("127.0.0.1", port))
    client.sendall(request)
    return client


async def _scrape(port: int) -> bytes:
    """The answer; empty when the server hangs up before it."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HALF + GZIP + b"\r\n")
        answer = await reader.read()
        writer.close()
    except OSError:
        return b""
    return answer


async def _scraper(port: int) -> bool:
    """Whether what is answered in the end is whole."""
    while not (answer := await _scrape(port)):
        pass
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.startswith(b"HTTP/1.1 200 ") and zlib.decompress(body, 31).endswith(b"\n")


async def _scrapers(port: int, count: int) -> int:
    return sum(await asyncio.gather(*(_scraper(port) for _ in range(count))))


def main(what: str, port: int, count: int) -> None:
    """Be so many of these clients."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 64, count + 64))
    if what == "scrapes":
        print(asyncio.run(_scrapers(port, count)))
        return
    clients = [_connected(port, HALF if what == "half" else HALF + b"\r\n") for _ in range(count)]
    print(len(clients), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
