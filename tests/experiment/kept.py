# SPDX-License-Identifier: Apache-2.0
"""The rows of blocks that are done, so that the experiment goes on where it was stopped."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tests.experiment import accesses, analysis, reference, runs
from tests.experiment.runs import Block, Row
from tests.lab import guest, programs, workload
from tests.lab.cache import Input, key
from tests.lab.snapshot import daemon_files

#: What becomes part of a run, beside the case itself and the KVM that runs it.
GUESTS: Sequence[Input] = [
    *(Path(str(module.__file__)) for module in (runs, guest, workload, programs)),
    *(programs.VMM, programs.INIT, programs.NESTED_INIT),
]
REFERENCE: Sequence[Input] = [Path(str(module.__file__)) for module in (accesses, reference)]
LISTENERS: Sequence[Input] = [
    Path(__file__).with_name(name) for name in ("answering.py", "lock_time.py", "link_time.py")
]


class Kept:
    """Lines of JSON, one for each block: those of other sources are as if they were not there."""

    def __init__(self, path: Path, kvm: str) -> None:
        """`kvm` names the modules that the runs are made with, and is another when their source is."""
        self._path = path
        self._kvm = kvm
        self._daemon = [*daemon_files(), Path(str(analysis.__file__))]
        self._rows = dict(self._read())

    def of(self, block: Block) -> list[Row] | None:
        """Return the rows of a block, or nothing when it is still to be done."""
        return self._rows.get(self._key(block))

    def add(self, block: Block, rows: Sequence[Row]) -> None:
        """Keep the rows of a block; another process may do so at the same time."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # On a line of its own, even if another one was cut off.
            file.write("\n" + json.dumps({"key": self._key(block), "rows": rows}) + "\n")
        self._rows[self._key(block)] = list(rows)

    def _key(self, block: Block) -> str:
        case = block.case
        what = (case.name, case.workloads, case.linux, case.mode, case.limits, block.part, block.seed)
        inputs: list[Input] = [repr(what)]
        if block.part == "reference":
            return key([*inputs, *REFERENCE])
        inputs += [self._kvm, *GUESTS]
        if block.part == "recorded":
            inputs += self._daemon
        elif block.part != "bare":
            inputs += LISTENERS
        return key(inputs)

    def _read(self) -> Iterator[tuple[str, list[Row]]]:
        for line in self._path.read_text().splitlines() if self._path.exists() else ():
            with suppress(ValueError):
                found = json.loads(line)
                yield found["key"], found["rows"]
