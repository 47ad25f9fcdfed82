# SPDX-License-Identifier: Apache-2.0
"""Pages for a browser: what `shadowwatch top` shows, from the same columns and lines, without any script.

Lines become HTML here and not by rich's export, which writes its colours into the page: a style's words are classes, so
the page follows the reader's choice of dark or light. And the daemon need not load rich's console for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from itertools import pairwise
from shlex import quote

from rich.text import Text

from shadowwatch import __version__
from shadowwatch.errors import counted
from shadowwatch.event.facts import PAGING
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.snapshot import VmDetail, VmSnapshot
from shadowwatch.view.columns import DEFAULT, Column, Row, Units, choose
from shadowwatch.view.insight import insight, ranked
from shadowwatch.view.screen import WORDS, Frame, drawn_pane
from shadowwatch.view.state import Pane

Place = Callable[[str], str]

#: VMs on the first page, those that fare worst, and lines of each part of a VM's tree.
ROWS, LINES = 100, 300

#: A page is not looked at at even intervals, so it has no trend.
COLUMNS = choose([key for key in DEFAULT if key != "zaps_trend"])

#: Characters across: the bars of a histogram fit on a telephone, and a tree has its roles.
_NARROW, _WIDE = 52, 1000

#: Rates need a second look, which is due when this many seconds have passed.
AGAIN_SECONDS = 1

_TITLES = {Pane.TREE: "Tree of shadow pages", Pane.HISTOGRAMS: "Limits and histograms", Pane.ZAPS: "Last zaps"}

#: Nothing but what is in the page is loaded or run, whatever a VM is called.
_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">{again}
<style>
:root{{color-scheme:light dark;--alarm:#b3001b;--line:#8888}}
@media(prefers-color-scheme:dark){{:root{{--alarm:#ff8078}}}}
body{{font:16px/1.5 system-ui,sans-serif;margin:2em auto;max-width:92em;padding:0 1em;overflow-wrap:anywhere}}
h1{{font-size:1.5em;line-height:1.25}}h2{{font-size:1.15em;margin:1.8em 0 .4em}}
.says{{font-size:1.15em;max-width:46em;border-left:.25em solid var(--line);padding-left:.8em}}
.wide,pre{{overflow:auto;border:1px solid var(--line);border-radius:4px}}
table{{border-collapse:collapse;font-variant-numeric:tabular-nums;white-space:nowrap;min-width:100%;font-size:.95em}}
th,td{{padding:.25em .6em;text-align:right}}th{{border-bottom:1px solid var(--line);font-weight:600}}
.left{{text-align:left}}td.fill{{font-family:ui-monospace,"DejaVu Sans Mono",monospace;font-size:.8em}}
.name{{position:sticky;left:0;background:Canvas;max-width:14em;overflow:hidden;text-overflow:ellipsis}}
tr:hover td{{background:color-mix(in srgb,Canvas 92%,CanvasText)}}
pre{{font:13px/1.25 ui-monospace,"DejaVu Sans Mono",monospace;margin:0;padding:.7em;max-height:80vh}}
pre.histograms{{white-space:pre-wrap}}
@media(max-width:30em){{pre{{font-size:11px}}.name{{max-width:8em}}}}details{{margin-top:1.5em}}
dt{{font-weight:600}}dd{{margin:0 0 .4em 1.2em}}
.bold{{font-weight:bold}}.dim,footer,.note{{color:color-mix(in srgb,Canvas 35%,CanvasText)}}
.red{{color:var(--alarm)}}footer{{margin-top:2.5em;font-size:.9em}}
</style></head>
<body>
{body}
<footer><a href="/metrics">/metrics</a> · <a href="/runbook">/runbook</a> · <a href="/-/healthy">/-/healthy</a>
· <a href="/-/ready">/-/ready</a> · shadowwatch {version}</footer>
</body></html>
"""


def all_page(frame: Frame, until: str, place: Place) -> str:
    """All VMs: the sentence about the one that fares worst, and those that fare worst as a table.

    `until` says in words of what moment the frame is, `place` is where a VM's page is, from its name.
    """
    status, now = frame.status, frame.now
    facts = status.facts
    kvm = f"KVM patched, policy {status.policy}" if status.policy else "stock KVM"
    probes = counted(len(facts.probes), "probe")
    meaning = PAGING[facts.paging]
    running = [vm for vm in now.vms if not vm.ended]
    rows = ranked(frame.rows)
    left = len(rows) - ROWS
    more = "one more VM is" if left == 1 else f"{left:,} more VMs are"
    body = [
        f"<h1>shadowwatch on {escape(facts.host)}</h1>",
        *_says(frame, frame.rows),
        _table(rows[:ROWS], place) if rows else "",
        f'<p class="note">{more} in <code>shadowwatch top</code> and in the metrics.</p>' if left > 0 else "",
        _note(frame, until) if rows else "",
        f"<p>VMs: {len(running):,} running, {sum(vm.exact for vm in running):,} of them exact."
        f" Events: {now.received:,} received, {_lost(now.all_lost)}.</p>",
        "<p>" + escape(f"Linux {facts.kernel}, {kvm}, {probes}. {meaning[0].upper()}{meaning[1:]}.") + "</p>",
        _explained(),
    ]
    return _whole(f"shadowwatch on {facts.host}", body, frame, rows)


def vm_page(frame: Frame, vm: VmSnapshot, detail: VmDetail | None, until: str) -> str:
    """One VM: the sentence about it, its figures, and top's panes; `until` likewise.

    Without its detail it is one that has more pages than can be shown.
    """
    same = (row for row in frame.rows if (row.vm.kvm, row.vm.pid, row.vm.name) == (vm.kvm, vm.pid, vm.name))
    row = next(same, None) or Row(vm, None, 0.0)
    host = frame.status.facts.host
    roles = RoleLayout(frame.status.facts.role)
    few = detail or VmDetail(frame.now.now_ns, vm, (), ())
    order = (Pane.HISTOGRAMS, Pane.ZAPS, Pane.TREE) if detail else (Pane.HISTOGRAMS,)
    links = " · ".join(f'<a href="#{pane.value}">{_TITLES[pane]}</a>' for pane in order)
    body = [
        f'<p><a href="/">All VMs on {escape(host)}</a></p>',
        f"<h1>{escape(vm.name)}</h1>",
        *([f'<p class="says">{escape(vm.name)} has ended.</p>'] if vm.ended else _says(frame, [row])),
        _table([row], None),
        _note(frame, until),
        f"<p>{links}</p>",
    ]
    for pane in order:
        heading, lines = drawn_pane(pane, few, roles, _NARROW if pane is Pane.HISTOGRAMS else _WIDE, LINES)
        text = "\n".join(map(marked, (*heading, *lines))) or _no_pages(vm)
        body.append(f'<h2 id="{pane.value}">{_TITLES[pane]}</h2>\n<pre class="{pane.value}" tabindex="0">{text}</pre>')
    if detail is None:
        said = f"{vm.name} has too many shadow pages for this page; shadowwatch tree {quote(vm.name)} shows them."
        body.append(f"<p>{escape(said)}</p>")
    body.append(_explained())
    return _whole(f"{vm.name} on {host}", body, frame, [row])


def _no_pages(vm: VmSnapshot) -> str:
    """Instead of a tree."""
    return "none is kept, since this host has too many" if vm.oversize else "none now"


def marked(line: Text) -> str:
    """A line as HTML: what has a style is in a span, with the style's words as classes."""
    plain = line.plain.rstrip()
    ends = {0, len(plain), *(end for span in line.spans for end in (span.start, span.end) if end < len(plain))}
    parts = []
    for start, end in pairwise(sorted(ends)):
        styles = [line.style, *(span.style for span in line.spans if span.start <= start and end <= span.end)]
        words = " ".join(str(style) for style in styles if style)
        part = escape(plain[start:end])
        parts.append(f'<span class="{escape(words)}">{part}</span>' if words else part)
    return "".join(parts)


def _whole(title: str, body: Iterable[str], frame: Frame, rows: Sequence[Row]) -> str:
    measuring = frame.position is None and any(not row.seconds and not row.vm.ended for row in rows)
    again = f'\n<meta http-equiv="refresh" content="{AGAIN_SECONDS}">' if measuring else ""
    text = "\n".join(filter(None, body))
    return _PAGE.format(title=escape(title), again=again, body=text, version=escape(__version__))


def _says(frame: Frame, rows: Sequence[Row]) -> Iterator[str]:
    fault = f"{frame.fault}. " if frame.fault else ""
    yield f'<p class="says">{escape(fault + insight(rows, frame.status))}</p>'


def _note(frame: Frame, until: str) -> str:
    over = f" Rates are over the {frame.seconds:,.1f} s before." if frame.seconds else ""
    return f'<p class="note">As of {escape(until)}.{over}</p>'


def _lost(lost: int) -> str:
    return f'<span class="bold red">{lost:,} lost</span>' if lost else "0 lost"


def _table(rows: Sequence[Row], place: Place | None) -> str:
    """Without `place` there is no name, which leads there."""
    columns = [column for column in COLUMNS if place or column.key != "name"]
    headings = "".join(
        f'<th class="{_kind(column)}" title="{escape(column.help)}">{escape(column.heading)}</th>' for column in columns
    )
    lines = "".join(f"<tr>{''.join(_cell(column, row, place) for column in columns)}</tr>\n" for row in rows)
    return f'<div class="wide" tabindex="0"><table>\n<tr>{headings}</tr>\n{lines}</table></div>'


def _kind(column: Column) -> str:
    return f"left {column.key}" if column.left else column.key


def _cell(column: Column, row: Row, place: Place | None) -> str:
    text = escape(column.text(row, Units.RATE))
    value = column.value(row) if column.alarm else 0
    alarm = " bold red" if isinstance(value, float | int) and value > 0 else ""
    if place and column.key == "name":
        text = f'<a href="{escape(place(row.vm.name))}" title="{text}">{text}</a>'
    return f'<td class="{_kind(column)}{alarm}">{text}</td>'


def _explained() -> str:
    words = (*((column.heading, column.help) for column in COLUMNS), *WORDS)
    terms = "".join(f"<dt>{escape(word)}</dt><dd>{escape(help)}</dd>" for word, help in words)
    return f"<details><summary>What these words mean</summary><dl>{terms}</dl></details>"
