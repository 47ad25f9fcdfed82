# SPDX-License-Identifier: Apache-2.0
"""One VM's shadow pages as a tree: text, JSON and DOT.

A page without parents is taken for a root when no page with the same guest_mode and smm has a higher level,
for an orphan otherwise: events do not tell which roots a vCPU has loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice, takewhile
from shlex import quote
from typing import Any, NamedTuple

from shadowwatch.errors import counted
from shadowwatch.mmu.page import SPT_MASK
from shadowwatch.mmu.role import RoleLayout
from shadowwatch.snapshot import PageSnapshot, VmDetail

_NEXT = "← next to go"
_SKIPPED = "root, in use?"

#: Which of a line's cells are numbers, and which is the role.
_NUMBERS, _ROLE = (1, 2), 4


class _Row(NamedTuple):
    page: PageSnapshot
    rails: str
    spte: int | None
    again: bool


def _index(pte: int) -> int:
    return (pte & ~SPT_MASK) >> 3


class Forest:
    """What a VM's pages are to each other; `next` is what reclaim takes next, if a page may go at all."""

    def __init__(self, detail: VmDetail, roles: RoleLayout) -> None:
        self.vm = detail.vm
        self.pages = detail.pages
        self.by_spt = {page.spt: page for page in detail.pages}
        self._roles = roles
        top: dict[tuple[int, int], int] = {}
        for page in detail.pages:
            kind = self._kind(page)
            top[kind] = max(page.level, top.get(kind, 0))
        parentless = [page for page in reversed(detail.pages) if not page.parents]
        self.roots = [page for page in parentless if page.level == top[self._kind(page)]]
        at_top = {page.spt for page in self.roots}
        self.orphans = [page for page in parentless if page.spt not in at_top]
        order = detail.pages if detail.vm.newest_first else detail.pages[::-1]
        self.next: PageSnapshot | None = next((page for page in order if page.spt not in at_top), None)
        #: The roots that reclaim comes by before that: it takes those that no vCPU has loaded.
        self.skipped = {page.spt for page in takewhile(lambda page: page.spt in at_top, order)}

    def _kind(self, page: PageSnapshot) -> tuple[int, int]:
        return self._roles.field(page.role, "guest_mode"), self._roles.field(page.role, "smm")

    def rows(self, starts: list[PageSnapshot], seen: set[int]) -> Iterator[_Row]:
        """These pages and what is below them, parents first, children by the index of their spte."""
        # Each entry: the page, the rails of its children's lines, those of its own, and the spte's index.
        stack: list[tuple[PageSnapshot, str, str, int | None]] = [(page, "", "", None) for page in reversed(starts)]
        while stack:
            page, below, rails, index = stack.pop()
            again = page.spt in seen
            yield _Row(page, rails, index, again)
            if again:
                continue
            seen.add(page.spt)
            children = sorted((pte, spt) for pte, spt in page.children.items() if spt in self.by_spt)
            for number, (pte, spt) in enumerate(reversed(children)):
                bend, rail = ("└─ ", "   ") if number == 0 else ("├─ ", "│  ")
                stack.append((self.by_spt[spt], below + rail, below + bend, _index(pte)))


def flags(roles: RoleLayout, role: int) -> str:
    """The role's fields that are not 0, but the level, in words."""
    return " ".join(name if width == 1 else f"{name}={value}" for name, value, width in roles.set_fields(role))


def _ago(page: PageSnapshot, now_ns: int) -> str:
    if page.parented is None or page.parented_ns is None:
        return "–"
    return f"{counted(page.parented, 'allocation')}, {(now_ns - page.parented_ns) / 1e9:,.3f} s"


def _note(forest: Forest, page: PageSnapshot) -> str:
    notes = []
    if len(page.parents) > 1:
        notes.append(f"{len(page.parents):,} parents")
    if forest.next and page.spt == forest.next.spt:
        notes.append(_NEXT)
    elif page.spt in forest.skipped:
        notes.append(_SKIPPED)
    return "; ".join(notes)


def _cells(forest: Forest, row: _Row, roles: RoleLayout, now_ns: int) -> tuple[str, ...]:
    page = row.page
    name = f"level {page.level} gfn {page.gfn:#x}"
    place = row.rails + (name if row.spte is None else f"{row.spte}: {name}")
    if row.again:
        return (place, "", "", "", "", "shown above")
    children = str(len(page.children)) if page.level > 1 else "–"
    parented = _ago(page, now_ns) if page.level > 1 else "–"
    return (place, str(page.position), children, parented, flags(roles, page.role), _note(forest, page))


def text(detail: VmDetail, roles: RoleLayout, width: int | None = None, most: int | None = None) -> Iterator[str]:
    """Lines for people, without roles where these would make them wider than `width`.

    No more than `most` of the tree and `most` of the orphans, and then a line that says how to see the others.

    A line is a page: the index of the spte that points to it, its place on active_mmu_pages (0 is the newest),
    its children, how long ago a child was last linked beneath it, and its role.
    """
    forest = Forest(detail, roles)
    seen: set[int] = set()
    vm = detail.vm
    tree_rows = list(islice(forest.rows(forest.roots, seen), most))
    orphans = list(islice(forest.rows(forest.orphans, seen), most))
    # Only damaged events can lead to pages that are below one another; they are shown all the same.
    for page in detail.pages if most is None else ():
        if page.spt not in seen:
            orphans += forest.rows([page], seen)
    left = len(detail.pages) - len({row.page.spt for row in (*tree_rows, *orphans)})
    rows = [_cells(forest, row, roles, detail.now_ns) for row in tree_rows]
    lower = [_cells(forest, row, roles, detail.now_ns) for row in orphans]
    heading = ("spte: page", "list", "children", "parented ago", "role", "")
    widths = [max(map(len, column)) for column in zip(heading, *rows, *lower, strict=True)]
    too_wide = width is not None and sum(widths) + 2 * len(widths[1:]) > width

    def line(cells: tuple[str, ...]) -> str:
        padded = [
            cell.rjust(room) if number in _NUMBERS else cell.ljust(room)
            for number, (cell, room) in enumerate(zip(cells, widths, strict=True))
        ]
        if too_wide:
            del padded[_ROLE]
        return "  ".join(padded).rstrip()

    state = vm.state if vm.ended or vm.exact else f"{vm.state}: some pages are unknown or old"
    pages = f"{counted(len(detail.pages), 'page')}, limit {vm.limit:,}"
    yield f"{vm.name}, pid {vm.pid}, {state}; {pages}; list 0 is the newest on active_mmu_pages"
    if not detail.pages:
        return
    yield ""
    yield line(heading)
    yield from map(line, rows)
    if lower:
        yield ""
        yield "orphans: no spte points to them, they wait for reuse or reclaim"
        yield from map(line, lower)
    if left:
        yield ""
        yield f"{counted(left, 'more page')}: shadowwatch tree {quote(vm.name)} shows all"
    if vm.newest_first:
        yield ""
        yield "reclaim takes the newest pages first, as Linux 5.9 to 5.11.1 did by mistake"


def tree(detail: VmDetail, roles: RoleLayout) -> dict[str, Any]:
    """A dict that is ready for JSON; its keys stay as they are.

    `vm` (name, pid, exact, ended, limit, newest_first), `now_ns`, `roots` and `orphans` (spts), `reclaim_next` (spt or
    null), `reclaim_may_skip` (spts of roots that are nearer to reclaim's end, taken only if no vCPU uses them), and
    `pages`, the newest on active_mmu_pages first: spt, gfn, level, list_position, role (the word), fields (the role's
    fields that are not 0, but level), parents and children (each spt and index of the spte), parented_allocations and
    parented_seconds (since a child was last linked beneath, null if never). An spt is a string in hexadecimal, since
    JSON's numbers are not that wide everywhere.
    """
    forest = Forest(detail, roles)
    vm = detail.vm
    return {
        "vm": {
            "name": vm.name,
            "pid": vm.pid,
            "exact": vm.exact,
            "ended": vm.ended,
            "limit": vm.limit,
            "newest_first": vm.newest_first,
        },
        "now_ns": detail.now_ns,
        "roots": [hex(page.spt) for page in forest.roots],
        "orphans": [hex(page.spt) for page in forest.orphans],
        "reclaim_next": hex(forest.next.spt) if forest.next else None,
        "reclaim_may_skip": [hex(page.spt) for page in forest.roots if page.spt in forest.skipped],
        "pages": [_page(page, roles, detail.now_ns) for page in detail.pages],
    }


def _page(page: PageSnapshot, roles: RoleLayout, now_ns: int) -> Mapping[str, Any]:
    return {
        "spt": hex(page.spt),
        "gfn": page.gfn,
        "level": page.level,
        "list_position": page.position,
        "role": page.role,
        "fields": {name: value for name, value, _ in roles.set_fields(page.role)},
        "parents": [{"spt": hex(pte & SPT_MASK), "index": _index(pte)} for pte in sorted(page.parents)],
        "children": [{"spt": hex(spt), "index": _index(pte)} for pte, spt in sorted(page.children.items())],
        "parented_allocations": page.parented,
        "parented_seconds": None if page.parented_ns is None else (now_ns - page.parented_ns) / 1e9,
    }


def dot(detail: VmDetail, roles: RoleLayout) -> Iterator[str]:
    """Lines in Graphviz's language: orphans are dashed, roots drawn double, and what reclaim takes next is grey."""
    forest = Forest(detail, roles)
    roots = {page.spt for page in forest.roots}
    orphans = {page.spt for page in forest.orphans}
    title = detail.vm.name.replace("\\", "\\\\").replace('"', '\\"')
    yield f'digraph "{title}" {{'
    yield '  rankdir=LR; node [shape=box, fontname="sans-serif", fontsize=10];'
    yield '  edge [fontname="sans-serif", fontsize=8];'
    for page in reversed(detail.pages):
        words = [f"level {page.level} gfn {page.gfn:#x}", f"list {page.position}", flags(roles, page.role)]
        if page.parented is not None:
            words.append(f"parented {_ago(page, detail.now_ns)} ago")
        looks = ""
        if page.spt in roots:
            looks = ", peripheries=2"
        elif page.spt in orphans:
            looks = ", style=dashed"
        if forest.next and page.spt == forest.next.spt:
            looks = ', style="filled,dashed"' if page.spt in orphans else ", style=filled"
            words.append("reclaim takes this next")
        label = "\\n".join(word for word in words if word)
        yield f'  "{page.spt:#x}" [label="{label}"{looks}];'
    for page in reversed(detail.pages):
        for pte, spt in sorted(page.children.items()):
            yield f'  "{page.spt:#x}" -> "{spt:#x}" [label="{_index(pte)}"];'
    yield "}"
