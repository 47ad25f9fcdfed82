# SPDX-License-Identifier: Apache-2.0
"""bpf/event.h and its Python side are one definition."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from shadowwatch.event.abi import (
    COMMAND,
    COMMAND_FIELDS,
    COMMANDS,
    EVENT,
    FIELDS,
    HEADER,
    RECORD,
    REQUEST,
    REQUEST_FIELDS,
    STEP_RECORDS,
    Counter,
    Event,
    Flags,
    Kind,
    Want,
    decode,
    encode,
)
from shadowwatch.probe.attach import source_folder

STRUCTS = {
    "shadowwatch_event": (FIELDS, EVENT.size),
    "shadowwatch_request": (REQUEST_FIELDS, REQUEST.size),
    "shadowwatch_command": (COMMAND_FIELDS, COMMAND.size),
}

#: All names in the header that stand for a number, and the numbers.
NAMES: dict[str, int] = {
    **{f"SHADOWWATCH_{kind.name}": kind.value for kind in Kind},
    **{f"SHADOWWATCH_{flag.name}": flag.value for flag in Flags},
    **{f"SHADOWWATCH_{counter.name}": counter.value for counter in Counter},
    **{f"SHADOWWATCH_{want.name}": want.value for want in Want},
    "SHADOWWATCH_COUNTERS": len(Counter),
    "SHADOWWATCH_STEP_RECORDS": STEP_RECORDS,
    "SHADOWWATCH_COMMANDS": COMMANDS,
}


def width(code: str) -> int:
    """The bytes of a field."""
    return int(code[:-1]) if code[-1] in "xs" else {"Q": 8, "I": 4, "B": 1}[code]


def c_program_says(tmp_path: Path, lines: str) -> list[str]:
    """What a program prints that has event.h and these statements."""
    source, program = tmp_path / "layout.c", tmp_path / "layout"
    source.write_text(f'#include <stdio.h>\n#include <stddef.h>\n#include "event.h"\nint main(void){{{lines}}}')
    subprocess.run(["gcc", "-Wall", "-Werror", f"-I{source_folder()}", "-o", program, source], check=True)
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()


def test_header_and_python_agree_on_every_size_offset_and_number(tmp_path: Path) -> None:
    """The C compiler's sizeof, offsetof and enum values equal the Python side's."""
    lines, expected = "", []
    for struct, (fields, size) in STRUCTS.items():
        offset = 0
        for name, code in fields:
            lines += (
                f'printf("{struct} {name} %zu %zu\\n", offsetof(struct {struct}, {name}),'
                f" sizeof(((struct {struct} *)0)->{name}));"
            )
            expected.append(f"{struct} {name} {offset} {width(code)}")
            offset += width(code)
        lines += f'printf("{struct} %zu\\n", sizeof(struct {struct}));'
        expected.append(f"{struct} {size}")
    for name, value in NAMES.items():
        lines += f'printf("{name} %d\\n", {name});'
        expected.append(f"{name} {value}")
    assert c_program_says(tmp_path, lines) == expected


def test_every_name_in_the_header_is_known_in_python() -> None:
    """No enumerator of event.h is missing here (the compiler only checks those that Python names)."""
    header = (source_folder() / "event.h").read_text()
    code = re.sub(r"/\*.*?\*/", "", header, flags=re.DOTALL)
    enumerators = set(NAMES) - {"SHADOWWATCH_STEP_RECORDS", "SHADOWWATCH_COMMANDS"}
    assert set(re.findall(r"(SHADOWWATCH_\w+) = ", code)) == enumerators
    fields = {name.rpartition(".")[2] for fields, _ in STRUCTS.values() for name, _ in fields}
    assert set(re.findall(r"__u\d+ (\w+)(?:\[[^]]*\])?;", code)) == fields


def test_padding_is_explicit() -> None:
    """The fields fill the struct to the last byte, and a record keeps the ring's 8-byte alignment."""
    assert EVENT.size == 80
    assert RECORD.size == HEADER.size + EVENT.size == 88
    assert REQUEST.size == 56
    assert COMMAND.size % 8 == 0


def test_decode_reads_what_encode_wrote() -> None:
    """A record carries each field unchanged at its largest value, and a cut one is left over."""
    event = Event(*(2 ** (8 * width(code)) - 1 for name, code in FIELDS if name != "pad"))
    records, left = decode(encode(event) * 3 + b"cut")
    assert [Event(*fields) for fields in records] == [event] * 3
    assert left == 3
