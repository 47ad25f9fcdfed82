# SPDX-License-Identifier: Apache-2.0
"""docs/runbook.md as a page, which the alerts' runbook_url leads to.

Of Markdown it knows what that document is written in: headings, paragraphs, code, bold and italics.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>shadowwatch: runbook</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<style>:root{{color-scheme:light dark}}
body{{font:16px/1.5 system-ui,sans-serif;margin:3em auto;max-width:46em;padding:0 1em;overflow-wrap:anywhere}}
h2:target{{background:Mark;color:MarkText}}code{{background:color-mix(in srgb,Canvas 90%,CanvasText)}}</style></head>
<body>
{body}
<p><a href="/">All VMs</a></p></body></html>
"""
#: What stands between these is never marked up further, so code comes first.
_CODE = re.compile("(`[^`]*`)")
_MARKS = (("<strong>{}</strong>", re.compile(r"\*\*([^*]+)\*\*")), ("<em>{}</em>", re.compile(r"\*([^*]+)\*")))


def runbook() -> str:
    """The page, with an anchor for each alert: its name in lower case."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "runbook.md"
    return html((installed if installed.is_file() else package.parent / "docs/runbook.md").read_text("utf-8"))


def html(markdown: str) -> str:
    """Markdown as a page."""
    return _PAGE.format(body="\n".join(map(_block, re.split(r"\n\s*\n", markdown.strip()))))


def _block(text: str) -> str:
    marks, _, title = text.partition(" ")
    if marks in ("#", "##"):
        level = len(marks)
        return f'<h{level} id="{escape(re.sub("[^a-z0-9]+", "-", title.lower()))}">{_inline(title)}</h{level}>'
    return f"<p>{_inline(text)}</p>"


def _inline(text: str) -> str:
    return "".join(
        f"<code>{escape(part[1:-1])}</code>" if part.startswith("`") and part.endswith("`") else _marked(escape(part))
        for part in _CODE.split(text)
    )


def _marked(text: str) -> str:
    for mark, pattern in _MARKS:
        text = pattern.sub(mark.format(r"\1"), text)
    return text
