# SPDX-License-Identifier: Apache-2.0
"""Snapshots as JSON and back, by the types that they are declared with: each figure with its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

#: From what stands in JSON to the value, or the other way round.
Convert = Callable[[Any], Any]


def dumps(value: object) -> str:
    """Write a snapshot, or what else is made of dataclasses and tuples, as one line of JSON."""
    return json.dumps(_packer(cast(Any, type(value)))(value), separators=(",", ":"))


def loads(kind: type[T], text: str) -> T:
    """Read what `dumps` wrote of this type; ValueError, TypeError or KeyError when it is something else."""
    return cast(T, _unpacker(cast(Any, kind))(json.loads(text)))


def _same(value: Any) -> Any:
    return value


@cache
def _parts(kind: Any) -> tuple[tuple[str, Any], ...]:
    """The fields of a dataclass or a named tuple, () of any other type."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return tuple((field.name, hints[field.name]) for field in fields(kind))
    return tuple(get_type_hints(kind).items()) if hasattr(kind, "_fields") else ()


@cache
def _packer(kind: Any) -> Convert:
    """Dataclasses and named tuples become objects, mappings lists of pairs: keys of JSON are but strings."""
    origin, arguments = get_origin(kind), get_args(kind)
    if named := _parts(kind):
        each = [(name, _packer(part)) for name, part in named]
        return lambda value: {name: pack(getattr(value, name)) for name, pack in each}
    if origin is UnionType:
        some = _packer(next(part for part in arguments if part is not NoneType))
        return lambda value: None if value is None else some(value)
    if origin is not None and issubclass(origin, Mapping):
        key, item = map(_packer, arguments)
        return lambda value: [(key(name), item(held)) for name, held in value.items()]
    if origin in (tuple, frozenset) and arguments[-1] in (..., arguments[0]) and _packer(arguments[0]) is not _same:
        one = _packer(arguments[0])
        return lambda value: [one(item) for item in value]
    return list if origin is frozenset else _same


@cache
def _unpacker(kind: Any) -> Convert:
    origin, arguments = get_origin(kind), get_args(kind)
    if named := _parts(kind):
        each = [(name, _unpacker(part)) for name, part in named]

        def named_parts(value: Any) -> Any:
            if len(value) != len(each):
                raise ValueError(f"{kind} has other fields")
            return kind(*[unpack(value[name]) for name, unpack in each])

        return named_parts
    if origin is UnionType:
        some = _unpacker(next(part for part in arguments if part is not NoneType))
        return lambda value: None if value is None else some(value)
    if origin is not None and issubclass(origin, Mapping):
        key, item = map(_unpacker, arguments)
        return lambda value: {key(name): item(held) for name, held in value}
    if origin in (tuple, frozenset):
        one = _unpacker(arguments[0])
        return origin if one is _same else lambda value: origin(one(item) for item in value)
    return _same
