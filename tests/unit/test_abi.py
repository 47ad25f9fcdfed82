# SPDX-License-Identifier: Apache-2.0
"""bpf/event.h and its Python side are one definition."""

from __future__ import annotations

import subprocess
from pathlib import Path

from shadowwatch.event.abi import EVENT, FIELDS, HEADER, RECORD, Cause, Counter, Event, Kind, decode, encode
from shadowwatch.probe.attach import source_folder


def test_header_and_python_agree_on_every_size_offset_and_number(tmp_path: Path) -> None:
    """The C compiler's sizeof, offsetof and enum values equal the Python side's."""
    names = {
        **{f"SHADOWWATCH_{kind.name}": kind.value for kind in Kind},
        **{f"SHADOWWATCH_{cause.name}": cause.value for cause in Cause},
        **{f"SHADOWWATCH_{counter.name}": counter.value for counter in Counter},
        "SHADOWWATCH_COUNTERS": len(Counter),
    }
    field_lines = "".join(
        f'printf("{name} %zu %zu\\n", offsetof(struct shadowwatch_event, {name}),'
        f" sizeof(((struct shadowwatch_event *)0)->{name}));"
        for name, _ in FIELDS
    )
    name_lines = "".join(f'printf("{name} %d\\n", {name});' for name in names)
    source = tmp_path / "layout.c"
    source.write_text(
        '#include <stdio.h>\n#include <stddef.h>\n#include "event.h"\nint main(void){'
        f'{field_lines}{name_lines}printf("size %zu\\n", sizeof(struct shadowwatch_event));}}'
    )
    program = tmp_path / "layout"
    subprocess.run(["gcc", "-Wall", "-Werror", f"-I{source_folder()}", "-o", program, source], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout

    expected = []
    offset = 0
    for name, code in FIELDS:
        size = int(code[0]) if code.endswith("x") else {"Q": 8, "I": 4, "B": 1}[code]
        expected.append(f"{name} {offset} {size}")
        offset += size
    expected += [f"{name} {value}" for name, value in names.items()]
    assert said.splitlines() == [*expected, f"size {EVENT.size}"]


def test_every_kind_in_the_header_is_known_in_python() -> None:
    """No enumerator of event.h is missing here (the compiler only checks those that Python names)."""
    header = (source_folder() / "event.h").read_text()
    in_header = {line.split()[0].removeprefix("SHADOWWATCH_") for line in header.splitlines() if " = " in line}
    assert in_header == {*Kind.__members__, *Cause.__members__, *Counter.__members__, "COUNTERS"}


def test_padding_is_explicit() -> None:
    """The fields fill the struct to the last byte, and a record keeps the ring's 8-byte alignment."""
    assert EVENT.size == 64
    assert RECORD.size == HEADER.size + EVENT.size == 72


def test_decode_reads_what_encode_wrote() -> None:
    """A record carries each field unchanged at its largest value, and a cut one is left over."""
    event = Event(*(2 ** (8 * {"Q": 8, "I": 4, "B": 1}[code]) - 1 for name, code in FIELDS if name != "pad"))
    records, left = decode(encode(event) * 3 + b"cut")
    assert [Event(*fields) for fields in records] == [event] * 3
    assert left == 3
