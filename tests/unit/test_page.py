# SPDX-License-Identifier: Apache-2.0
"""Pages as HTML: golden files under a frozen clock, and what a browser makes of hostile names."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.text import Text

from shadowwatch.event.abi import Batch
from shadowwatch.event.facts import Facts
from shadowwatch.pages import place_of
from shadowwatch.snapshot import VmDetail
from shadowwatch.view import page as page_module
from shadowwatch.view.frames import Frames
from shadowwatch.view.insight import ranked
from shadowwatch.view.page import LINES, ROWS, all_page, marked, vm_page
from shadowwatch.view.screen import Frame
from shadowwatch.watch import Watch
from tests.golden import matches
from tests.unit.lively import LivelyDaemon, looked
from tests.unit.story import FACTS, Story

UNTIL = "2026-11-29 01:22:33 UTC"
VOID = {"meta", "br"}


class Parsed(HTMLParser):
    """What a browser takes for elements and what for text; AssertionError when elements are not nested."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: Counter[str] = Counter()
        self.links: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count it."""
        self.elements[tag] += 1
        self.links += [value or "" for name, value in attrs if name == "href"]
        assert not [name for name, _ in attrs if name.startswith("on") or name == "src"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """It was the last that was opened."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Outside of styles it is what people read."""
        self.text += "" if "style" in self.open else data


def detail_of(daemon: LivelyDaemon, name: str) -> VmDetail:
    """A VM that is there."""
    detail = daemon.detail(name)
    assert detail
    return detail


def page_of(frame: Frame, detail: VmDetail) -> str:
    """Its page."""
    return vm_page(frame, detail.vm, detail, UNTIL)


@pytest.fixture(autouse=True)
def a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages of the next release are the same."""
    monkeypatch.setattr(page_module, "__version__", "x.y.z")


def test_all_vms() -> None:
    """Golden: the sentence of top, VMs in its ranking with links, the host, the words."""
    page = all_page(looked()[1], UNTIL, place_of)
    matches("page.html", page)
    parsed = Parsed(page)
    assert "web1 thrashes: KVM reclaims 432 shadow pages/s" in parsed.text
    assert parsed.links[:4] == ["/vm/web1", "/vm/db1", "/vm/idle3", "/vm/idle4"]


def test_one_vm() -> None:
    """Golden: what top says of it and all three of its panes, line by line."""
    daemon, frame = looked()
    page = page_of(frame, detail_of(daemon, "web1"))
    matches("page-vm.html", page)
    text = Parsed(page).text
    for said in (
        "512 (× 8)     100%",
        "├─ 322: level 2 gfn 0xc2     62         8",
        "recently parented",
    ):
        assert said in text


def test_the_page_of_a_vm_that_does_not_suffer_speaks_of_that_one() -> None:
    """Whatever the worst one does; and one that ended did not vanish."""
    daemon, frame = looked()
    calm = Parsed(page_of(frame, detail_of(daemon, "db1"))).text
    assert "web1" not in calm
    assert "KVM reclaims no shadow pages now." in calm
    detail = detail_of(daemon, "db1")
    ended = replace(detail, vm=detail.vm._replace(ended=True), pages=())
    assert "db1 has ended." in Parsed(page_of(frame, ended)).text


@pytest.mark.parametrize(("paging", "said"), [("tdp_mmu", "TDP MMU in use:"), ("nested", "Nested paging without the")])
def test_the_capitals_of_names_are_kept(paging: str, said: str) -> None:
    """The sentence on paging begins with a capital, and the rest of it is as it is everywhere else."""
    facts: Facts = replace(FACTS, paging=paging)
    assert f" 2 probes. {said} " in Parsed(all_page(looked(facts=facts)[1], UNTIL, place_of)).text


def test_without_a_vm_there_is_no_table() -> None:
    """It says that none is running, and does not load itself again for ever."""
    frame = Frames(LivelyDaemon()).look()
    page = all_page(replace(frame, rows=[], now=replace(frame.now, vms=())), UNTIL, place_of)
    assert "No VM is running." in Parsed(page).text
    assert "refresh" not in page
    assert Parsed(page).elements["table"] == 0


def test_the_first_look_has_no_rates_and_asks_for_the_second() -> None:
    """The browser asks by itself, without a script, and then no more; a recording has no second look."""
    daemon = LivelyDaemon()
    frames = Frames(daemon)
    first = daemon.look(frames)
    page = all_page(first, UNTIL, place_of)
    assert '<meta http-equiv="refresh" content="1">' in page
    assert "Measuring: rates come with the next update." in page
    assert 'http-equiv="refresh"' in page_of(first, detail_of(daemon, "web1"))
    assert 'refresh"' not in all_page(daemon.look(frames), UNTIL, place_of)
    assert 'refresh"' not in all_page(replace(first, position=1.0), UNTIL, place_of)


def test_a_vm_that_came_after_the_look_asks_for_the_next() -> None:
    """Its page is there before its rates are."""
    daemon, frame = looked()
    without = replace(frame, rows=[row for row in frame.rows if row.vm.name != "db1"])
    assert 'http-equiv="refresh"' in page_of(without, detail_of(daemon, "db1"))
    assert 'http-equiv="refresh"' not in page_of(without, detail_of(daemon, "web1"))


def test_of_a_thousand_vms_the_worst_are_listed() -> None:
    """And how many are not, and where those are; the page stays small."""
    page = all_page(looked(idle=998, looks=2)[1], UNTIL, place_of)
    parsed = Parsed(page)
    assert parsed.elements["tr"] == 1 + ROWS
    assert parsed.links[0] == "/vm/web1"
    assert "900 more VMs are in shadowwatch top and in the metrics." in parsed.text
    assert len(page) < 100_000


def test_vms_that_ended_come_last_and_those_that_suffered_before_others() -> None:
    """The order of the page is that of the sentence."""
    _, frame = looked()
    assert [row.vm.name for row in ranked(frame.rows)] == ["web1", "db1", "idle3", "idle4"]
    ended = [replace(row, vm=row.vm._replace(ended=row.vm.name == "web1")) for row in frame.rows]
    assert ranked(ended)[-1].vm.name == "web1"
    still = [replace(row, before=row.vm) for row in reversed(frame.rows)]
    assert [row.vm.name for row in ranked(still)] == ["web1", "db1", "idle3", "idle4"]


def story_of(pages: int, pid: int = 4711) -> Story:
    """A VM with so many pages: a root, directories below it, and 499 tables below each of these."""
    story = Story(kvm=0x1000 * pid, pid=pid, step_ns=1000)
    story.alloc(1, level=3, limit=10 * pages)
    for number in range(2, pages + 1):
        if number % 500 == 2:
            directory = number
            story.alloc(directory, level=2, limit=10 * pages)
            story.link(1, number // 500, directory)
        else:
            story.alloc(number, gfn=number, limit=10 * pages)
            story.link(directory, number % 500, number)
    return story


def test_a_large_tree_is_cut_and_says_so() -> None:
    """With the command that shows all of it; a tree that fits is whole."""
    frame = looked()[1]
    for pages, whole in ((LINES, True), (3 * LINES, False)):
        watch = Watch(FACTS, lambda _: "big one")
        watch.take(Batch(10**9, 0, 0, story_of(pages).records()))
        detail = watch.detail("big one")
        assert detail
        page = page_of(frame, detail)
        text = Parsed(page).text
        assert len(re.findall(r"level \d gfn 0x", text)) == LINES
        left = pages - LINES
        assert (f"{left} more pages: shadowwatch tree 'big one' shows all" in text) == (not whole)
        assert len(page) < 100_000


def test_a_vm_that_is_too_large_for_a_tree_has_a_page() -> None:
    """With all that is told without its pages; of one whose pages are not kept that is said."""
    daemon, frame = looked()
    detail = detail_of(daemon, "web1")
    parsed = Parsed(vm_page(frame, detail.vm, None, UNTIL))
    assert "web1 has too many shadow pages for this page; shadowwatch tree web1 shows them." in parsed.text
    assert "512 (× 8)     100%" in parsed.text
    assert (parsed.elements["pre"], "#tree" in parsed.links) == (1, False)
    oversize = replace(detail, vm=detail.vm._replace(oversize=True), pages=())
    assert "none is kept, since this host has too many" in Parsed(page_of(frame, oversize)).text


HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=y>', "a'b&amp;c", "[bold]x[/]", "</pre></td>", "é" * 128]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_is_text_wherever_it_stands(name: str) -> None:
    """In titles, links, sentences and the tree: the same elements as of a harmless one."""
    daemon, frame = looked()

    def pages(called: str) -> tuple[Parsed, Parsed]:
        rows = [
            replace(row, vm=row.vm._replace(name=called), before=row.before and row.before._replace(name=called))
            if row.vm.name == "web1"
            else row
            for row in frame.rows
        ]
        facts = replace(FACTS, host=called, kernel=called, policy=called)
        status = replace(frame.status, facts=facts, policy=called)
        shown = replace(frame, rows=rows, status=status)
        detail = detail_of(daemon, "web1")
        detail = replace(detail, vm=detail.vm._replace(name=called))
        return Parsed(all_page(shown, UNTIL, place_of)), Parsed(page_of(shown, detail))

    for hostile, harmless in zip(pages(name), pages("web2"), strict=True):
        assert hostile.elements == harmless.elements
        assert name in hostile.text
    assert all(re.fullmatch(r"[\w/%.~#-]+", link) for page in pages(name) for link in page.links)


def test_styles_are_classes() -> None:
    """Each stretch with all of its styles; no blanks at the end."""
    line = Text("a <b> c   ", "dim")
    line.stylize("bold red", 2, 5)
    assert marked(line) == (
        '<span class="dim">a </span><span class="dim bold red">&lt;b&gt;</span><span class="dim"> c</span>'
    )
    assert marked(Text("plain")) == "plain"
    assert marked(Text("bold", "bold")) == '<span class="bold">bold</span>'
    assert marked(Text("   ", "bold")) == marked(Text()) == ""
