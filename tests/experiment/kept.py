# SPDX-License-Identifier: Apache-2.0
"""The rows of blocks that are done, so that the experiment goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.experiment import accesses, analysis, reference, runs
from tests.experiment.runs import Block, Row
from tests.lab import guest, programs, workload
from tests.lab.cache import Input, key
from tests.lab.kept import Lines
from tests.lab.snapshot import daemon_files

#: What becomes part of a run, beside the case itself and the KVM that runs it.
GUESTS: Sequence[Input] = [
    *(Path(str(module.__file__)) for module in (runs, guest, workload, programs)),
    *(programs.VMM, programs.LINUX, programs.INIT, programs.NESTED_INIT),
]
REFERENCE: Sequence[Input] = [Path(str(module.__file__)) for module in (accesses, reference)]
LISTENERS: Sequence[Input] = [
    Path(__file__).with_name(name) for name in ("answering.py", "lock_time.py", "link_time.py")
]


class Kept:
    """The rows of blocks: those of other sources are as if they were not there."""

    def __init__(self, path: Path, kvm: str) -> None:
        """`kvm` names the modules that the runs are made with, and is another when their source is."""
        self._lines = Lines(path)
        self._kvm = kvm
        self._daemon = [*daemon_files(), Path(str(analysis.__file__))]

    def of(self, block: Block) -> list[Row] | None:
        """Return the rows of a block, or nothing when it is still to be done."""
        return self._lines.rows.get(self._key(block))

    def add(self, block: Block, rows: Sequence[Row]) -> None:
        """Keep the rows of a block."""
        self._lines.add(self._key(block), rows)

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
