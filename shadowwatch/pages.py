# SPDX-License-Identifier: Apache-2.0
"""What HTTP serves for people: a page of all VMs, and one for each.

A daemon is a guest on its host: it looks, draws, and loads what that takes, only when somebody asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from math import ceil
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from shadowwatch.errors import shown
from shadowwatch.snapshot import Snapshot, VmDetail
from shadowwatch.source import Seekable, Status
from shadowwatch.watch import Watch
from shadowwatch.web.server import Answer

if TYPE_CHECKING:
    from shadowwatch.view.screen import Frame

#: Pages take no more than this share of a core, after so many seconds of processor time at once.
SHARE, AT_ONCE_SECONDS = 0.1, 1.0

#: Who asks sooner than this after a look is shown the same; rates since one that is older say nothing about now.
SOON_SECONDS, OLD_SECONDS = 1.0, 60.0

#: Of a VM that has more shadow pages these are not copied for a page: the loop waits while that is done.
LARGE = 25_000


def place_of(name: str) -> str:
    """The path of a VM's page.

    Escaped before it is quoted, as far as a server would take it for steps of a path: whoever starts a VM names it.
    """
    inner = name.replace("%", "%25").replace("/", "%2F")
    return f"/vm/{quote(inner.replace('.', '%2E') if inner in ('.', '..') else inner, safe='')}"


def _name_in(path: str) -> str:
    return unquote(path.removeprefix("/vm/"))


@dataclass(frozen=True, slots=True)
class Here:
    """A watch of this process as a source."""

    watch: Watch
    status: Callable[[], Status]

    @property
    def replay(self) -> Seekable | None:
        """None: it cannot go to another time."""
        return None

    def snapshot(self) -> Snapshot:
        """All VMs."""
        return self.watch.snapshot()

    def detail(self, name: str) -> VmDetail | None:
        """One VM page by page."""
        return self.watch.detail(name)


class Pages:
    """Asked from one thread."""

    def __init__(self, source: Here, recorded: Frame | None = None) -> None:
        """Of what `source` is now, or of a recording that has been read into it, with what `recorded` says of it."""
        self._source = source
        self._recorded = recorded
        self._frames: Callable[[], Frame] | None = None
        self._frame: Frame | None = None
        self._looked = 0.0
        self._until = "the end of the recording" if recorded else ""
        self._left, self._asked = AT_ONCE_SECONDS, time.monotonic()

    def answer(self, path: str) -> Answer | None:
        """The page of this path, which is decoded as a server has it, with latin-1; None when it is not a page's."""
        if path != "/" and not path.startswith("/vm/"):
            return None
        now = time.monotonic()
        self._left = min(AT_ONCE_SECONDS, self._left + (now - self._asked) * SHARE)
        self._asked = now
        if self._left < 0:
            seconds = ceil(-self._left / SHARE)
            said = f"too many pages were asked for; ask again in {seconds} s\n"
            return _text(said, "text/plain", HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": str(seconds)})
        # Here and not above: rich is large, and most daemons are only scraped. Before the time is taken: it is loaded
        # once, and takes a slow machine longer than pages may at once.
        from shadowwatch.view import frames, page  # noqa: F401

        used = time.thread_time()
        try:
            return self._page(path.encode("latin-1", "replace").decode(errors="replace"))
        finally:
            self._left -= time.thread_time() - used

    def _page(self, path: str) -> Answer:
        from shadowwatch.view.page import all_page, vm_page

        if path == "/":
            return _text(all_page(self._look(), self._until, place_of))
        name = _name_in(path)
        vm = self._source.watch.vm(name)
        detail = self._source.detail(name) if vm and vm.all_pages <= LARGE else None
        if vm is None:
            return _text(
                f"there is no VM {shown(name)}; / has those that there are\n", "text/plain", HTTPStatus.NOT_FOUND
            )
        return _text(vm_page(self._look(), detail.vm if detail else vm, detail, self._until))

    def _look(self) -> Frame:
        from shadowwatch.view.frames import Frames

        if self._recorded:
            return self._recorded
        now = time.monotonic()
        if self._frame and now < self._looked + SOON_SECONDS:
            return self._frame
        if self._frames is None or now > self._looked + OLD_SECONDS:
            self._frames = Frames(self._source).look
        self._looked, self._frame = now, self._frames()
        self._until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return self._frame


def _text(
    text: str, type: str = "text/html", status: HTTPStatus = HTTPStatus.OK, headers: dict[str, str] | None = None
) -> Answer:
    return Answer(status, f"{type}; charset=utf-8", [text.encode(errors="replace")], headers or {})
