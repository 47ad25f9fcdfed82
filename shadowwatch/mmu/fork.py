# SPDX-License-Identifier: Apache-2.0
"""A copy of the model that goes its own way."""

from __future__ import annotations

import copyreg
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from shadowwatch.mmu.active import ActiveMmuPages
from shadowwatch.mmu.audit import Audited
from shadowwatch.mmu.curve import Curve
from shadowwatch.mmu.histogram import Histogram
from shadowwatch.mmu.model import Model
from shadowwatch.mmu.page import Directory, Page
from shadowwatch.mmu.reclaim_time import ReclaimTime
from shadowwatch.mmu.tree import Tree
from shadowwatch.mmu.vm import Vm

#: What a copy is made from, before it is given all that the original has: compiled classes are not made from nothing.
_MADE_FROM: dict[type, Callable[[Any], tuple[object, ...]]] = {
    ActiveMmuPages: lambda _: (),
    Audited: lambda audited: (audited._vm,),
    Curve: lambda _: (0,),
    Histogram: lambda histogram: (histogram.bounds,),
    Model: lambda model: (model._roles,),
    Page: lambda page: (page.table, page.identity, page.age),
    ReclaimTime: lambda _: (),
    Vm: lambda vm: (vm.kvm, vm.pid, vm.roles, vm.causes, vm.recent_ns),
}


def _names(thing: object) -> Iterator[str]:
    """All that it has; a compiled class says it in another way."""
    names = getattr(type(thing), "__mypyc_attrs__", None)
    if names is None:
        yield from getattr(thing, "__dict__", ())
        names = (name for base in type(thing).__mro__ for name in base.__dict__.get("__slots__", ()))
    yield from (name for name in names if name != "__dict__")


def _reduced(thing: Any) -> tuple[object, ...]:
    state = {} if isinstance(thing, Page) else {name: getattr(thing, name) for name in _names(thing)}
    # A compiled class takes it by a method; of others copy knows how slots are set.
    return type(thing), _MADE_FROM[type(thing)](thing), state if hasattr(thing, "__setstate__") else (None, state)


for _each in _MADE_FROM:
    copyreg.pickle(_each, _reduced)  # type: ignore[arg-type]


def _fork_pages(tree: Tree, memo: dict[int, object]) -> None:
    """Copy its pages: each knows others, so that one after another they would lead too deep."""
    pages = {page: Page(page.table, page.identity, page.age) for page in tree.pages.values()}
    directories = {old: Directory(pages[old.page], old.level) for old in tree.directories.values()}
    for old, page in pages.items():
        page.parent = old.parent and directories[old.parent]
        page.slot = old.slot
        memo[id(old)] = page
    for before, directory in directories.items():
        directory.children = {slot: pages[child] for slot, child in before.children.items()}
        directory.parented = before.parented
        memo[id(before)] = directory


def fork(model: Model) -> Model:
    """A copy; what is known of the kernel is the same for both."""
    memo: dict[int, object] = {}
    for known in model.of_the_kernel():
        memo[id(known)] = known
    for tree in model.trees():
        _fork_pages(tree, memo)
    return deepcopy(model, memo)
