# SPDX-License-Identifier: Apache-2.0
"""The BTF reader against the C compiler: pahole writes the BTF, offsetof is the witness."""

from __future__ import annotations

import struct
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shadowwatch.probe.btf import Btf, BtfError

SOURCE = """
#include <stdio.h>
#include <stddef.h>
struct inner { int a; long b; };
union word {
    unsigned int word;
    struct { unsigned level:4; unsigned pad:1; unsigned direct:1; unsigned :2; unsigned smm:8; };
};
struct page {
    struct inner link; char flag;
    union word role;
    union { int root_count; long other; };
    struct { short deep; struct { short deeper; }; };
    void *spt;
};
enum many { ONE = 1, TWO };
typedef int (*fn)(struct page *, enum many);
typedef struct { int owner; union { const volatile struct inner rlock; char free; }; } lock_t;
typedef lock_t another_lock_t;
struct holder { long before; const another_lock_t lock; struct { struct { int deep; } in; } named; };
struct holder the_holder;
struct page the_page; fn the_fn; int table[3];
int main(void) {
#define P(m) printf(#m " %zu\\n", offsetof(struct page, m))
    P(link); P(flag); P(role); P(root_count); P(other); P(deep); P(deeper); P(spt);
    return 0;
}
"""


def compile_small(folder: Path) -> bytes:
    """BTF of a small program, which is left in the folder as a.out."""
    source, program, blob = folder / "a.c", folder / "a.out", folder / "a.btf"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-g", "-o", program, source], check=True)
    subprocess.run(["pahole", "--btf_encode_detached", blob, program], check=True)
    return blob.read_bytes()


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Btf, dict[str, int]]:
    """BTF of a small program, and the offsets that the program itself prints."""
    folder = tmp_path_factory.mktemp("btf")
    whole = compile_small(folder)
    said = subprocess.run([folder / "a.out"], check=True, capture_output=True, text=True).stdout
    return Btf(whole), {name: int(offset) for name, offset in map(str.split, said.splitlines())}


def test_what_a_member_is_has_members_whatever_its_type_is_called(compiled: tuple[Btf, dict[str, int]]) -> None:
    """Through typedefs, qualifiers and structs without a name, as a lock's; of what is no struct there are none."""
    btf, _ = compiled
    assert btf.members("holder", "lock") == {"owner": (0, 0), "rlock": (64, 0), "free": (64, 0)}
    assert btf.members("holder", "lock", "rlock") == {"a": (0, 0), "b": (64, 0)}
    assert btf.members("holder", "named", "in") == {"deep": (0, 0)}
    for path in (("before",), ("absent",), ("lock", "owner"), ("lock", "rlock", "a", "b")):
        assert btf.members("holder", *path) == {}


def test_offsets_equal_the_compilers(compiled: tuple[Btf, dict[str, int]]) -> None:
    """Members, and those of anonymous unions and structs inside, at any depth."""
    btf, offsets = compiled
    members = btf.members("page")
    assert {name: bits // 8 for name, (bits, _) in members.items()} == offsets
    assert len(offsets) == 8


def test_bit_fields_have_place_and_width(compiled: tuple[Btf, dict[str, int]]) -> None:
    """As kvm_mmu_page_role has them, holes included."""
    btf, _ = compiled
    assert btf.members("word") == {
        "word": (0, 0),
        "level": (0, 4),
        "pad": (4, 1),
        "direct": (5, 1),
        "smm": (8, 8),
    }


def test_an_unknown_struct_has_no_members(compiled: tuple[Btf, dict[str, int]]) -> None:
    """A host without it is no error here."""
    btf, _ = compiled
    assert btf.members("no_such_struct") == {}


@pytest.mark.parametrize("data", [b"", b"\x9f\xeb", b"not BTF at all, certainly not"])
def test_other_data_is_a_btf_error(data: bytes) -> None:
    """Nothing else escapes: the host facts then say that there is no BTF."""
    with pytest.raises(BtfError, match="no BTF magic"):
        Btf(data)


def test_types_cut_in_the_middle_are_a_btf_error(compiled: tuple[Btf, dict[str, int]], tmp_path: Path) -> None:
    """A blob that ends inside a type is not half believed."""
    btf, _ = compiled
    with pytest.raises(BtfError):
        Btf(btf._data[:40])


def blob(types: list[tuple[int, ...]], strings: bytes = b"\0outer\0member\0") -> bytes:
    """A BTF of these words for each type."""
    packed = b"".join(struct.pack(f"<{len(words)}I", *words) for words in types)
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(packed), len(packed), len(strings))
    return header + packed + strings


STRUCT = 4
OUTER, MEMBER = 1, 7


def test_more_members_than_16_bits_count_are_read() -> None:
    """7.3's btf.h has 24 bits for how many there are, and 7 for the kind."""
    many = (OUTER, STRUCT << 24 | 1 << 16, 8, *((0, 2, 0) * ((1 << 16) - 1)), MEMBER, 2, 40)
    assert Btf(blob([many, (0, 1 << 24, 4, 0)])).members("outer") == {"member": (40, 0)}


def test_a_kind_of_7_bits_is_not_taken_for_another() -> None:
    """0x24 is not 4."""
    with pytest.raises(BtfError, match="kind 36 is not known"):
        Btf(blob([(OUTER, 0x24 << 24, 0)]))


@pytest.mark.parametrize(
    ("types", "said"),
    [
        ([(OUTER, STRUCT << 24 | 1, 8, 99, 1, 0)], "no string at 99"),
        ([(OUTER, STRUCT << 24 | 1, 8, 16, 1, 0)], "no string at 16"),
        ([(OUTER, STRUCT << 24 | 1, 8, 0, 77, 0)], "no type 77"),
        ([(OUTER, STRUCT << 24 | 1, 8, 0, 0, 0)], "no type 0"),
        ([(OUTER, STRUCT << 24 | 1, 8, 0, 1, 0)], "a struct that is in itself"),
        ([(OUTER, STRUCT << 24 | 9, 8, MEMBER, 1, 0)], "ends inside a type"),
        # Each of 16 structs is twice in the one before.
        (
            [(OUTER, STRUCT << 24 | 2, 8, *(0, n + 2, 0) * 2) for n in range(16)] + [(0, 1 << 24, 4, 0)],
            "without an end",
        ),
    ],
)
def test_what_cannot_be_is_a_btf_error(types: list[tuple[int, ...]], said: str) -> None:
    """Each way in which a reader could go astray, or on for ever; the last string here is no UTF-8 and has no end."""
    with pytest.raises(BtfError, match=said):
        Btf(blob(types, b"\0outer\0member\0\xff\0\xfe")).members("outer")


def test_a_type_that_is_another_name_of_itself_is_a_btf_error() -> None:
    """Two typedefs of each other; who asks for no more than the struct never comes there."""
    types = [(OUTER, STRUCT << 24 | 1, 8, MEMBER, 2, 0), (OUTER, 8 << 24, 3), (OUTER, 8 << 24, 2)]
    btf = Btf(blob(types, b"\0outer\0member\0"))
    assert btf.members("outer") == {"member": (0, 0)}
    with pytest.raises(BtfError, match="another name of itself"):
        btf.members("outer", "member")


def test_strings_that_are_cut_off_are_a_btf_error() -> None:
    """The header says how long they are."""
    with pytest.raises(BtfError, match="before its types and strings do"):
        Btf(blob([(OUTER, 7 << 24, 0)])[:-3])


@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=8), cut=st.data())
def test_no_damage_is_anything_but_a_btf_error(
    changes: list[tuple[int, int]], cut: st.DataObject, compiled: tuple[Btf, dict[str, int]]
) -> None:
    """Bytes that changed, and an end that is missing: what is read all the same is a layout or none."""
    data = bytearray(compiled[0]._data)
    for place, change in changes:
        data[place % len(data)] ^= change
    del data[cut.draw(st.integers(len(data) // 2, len(data))) :]
    with suppress(BtfError):
        damaged = Btf(bytes(data))
        for name in ("page", "word", "inner"):
            assert all(isinstance(member, str) for member in damaged.members(name))
        assert all(isinstance(member, str) for member in damaged.members("holder", "lock", "rlock"))
