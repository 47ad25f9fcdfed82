# SPDX-License-Identifier: Apache-2.0
"""The BTF reader against the C compiler: pahole writes the BTF, offsetof is the witness."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

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
struct page the_page; fn the_fn; int table[3];
int main(void) {
#define P(m) printf(#m " %zu\\n", offsetof(struct page, m))
    P(link); P(flag); P(role); P(root_count); P(other); P(deep); P(deeper); P(spt);
    return 0;
}
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Btf, dict[str, int]]:
    """BTF of a small program, and the offsets that the program itself prints."""
    folder = tmp_path_factory.mktemp("btf")
    source, program, blob = folder / "a.c", folder / "a.out", folder / "a.btf"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-g", "-o", program, source], check=True)
    subprocess.run(["pahole", "--btf_encode_detached", blob, program], check=True)
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return Btf.load(blob), {name: int(offset) for name, offset in map(str.split, said.splitlines())}


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
