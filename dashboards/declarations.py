# SPDX-License-Identifier: Apache-2.0
"""What a panel, a row and a dashboard are, and how their queries choose series."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from shadowwatch.snapshot import RECLAIM

#: Causes that are reclaim, as a matcher.
BY_RECLAIM = f'cause=~"{"|".join(sorted(cause.name.lower() for cause in RECLAIM))}"'
#: Levels of directories, as a matcher.
DIRECTORIES = 'level!~"1|unknown"'

GREEN, YELLOW, RED = "green", "yellow", "red"
#: From which value on a panel has which colour.
Colours = tuple[tuple[float, str], ...]
NONE_IS_GOOD: Colours = ((0, GREEN), (1, RED))


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked of Prometheus, under the name that its answer has in the legend, or as a column.

    A column without a name is there for its labels; it may have a unit of its own.
    """

    name: str
    expr: str
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: `unit` is Grafana's name of it, `width` a part of 24, `texts` what to say instead of a value.

    In a table, `texts` are for the column `texts_in`, and the rows come in falling order of the first query.
    """

    title: str
    description: str
    kind: Literal["stat", "series", "table", "heatmap"]
    unit: str
    queries: tuple[Query, ...]
    width: int = 12
    colours: Colours = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    texts_in: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The panels that answer one question."""

    question: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """All rows; which VMs there are to choose from is what the series `vms` have as their label."""

    name: str
    title: str
    description: str
    rows: tuple[Row, ...]
    vms: str = "shadowwatch_vm_info"
    one_instance: bool = True
    one_vm: bool = False


def of_host(series: str, *matchers: str) -> str:
    """The series of the hosts that are chosen."""
    matchers = ('job=~"$job"', 'instance=~"$instance"', *matchers)
    return f"{series}{{{','.join(matchers)}}}"


def of_vm(series: str, *matchers: str) -> str:
    """The series of the VMs that are chosen."""
    return of_host(series, 'vm=~"$vm"', *matchers)


def rate(selected: str) -> str:
    """How fast a counter grows."""
    return f"rate({selected}[$__rate_interval])"
