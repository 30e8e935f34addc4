"""ElfFile and FunctionTable on files written here."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elf_builder import (
    BSS_ADDRESS,
    BSS_SIZE,
    FUNC,
    LOCAL,
    NOTYPE,
    OBJECT,
    TEXT_ADDRESS,
    TEXT_SIZE,
    TLS,
    WEAK,
    Sym,
    build,
)
from jsspy.errors import FaultError, JsspyError, MalformedData, UnsupportedTarget
from jsspy.model.units import FileAddress
from jsspy.target import elf as elf_module
from jsspy.target.elf import ElfFile, Symbol


def at(offset: int) -> FileAddress:
    return FileAddress(TEXT_ADDRESS + offset)


def image(*symtab: Sym, dynsym: tuple[Sym, ...] = (), tail_merge: bool = False) -> ElfFile:
    return ElfFile("test", build(symtab, dynsym, tail_merge=tail_merge))


def found(elf: ElfFile, offset: int) -> str | None:
    symbol = elf.functions().find(at(offset))
    return None if symbol is None else symbol.name


def test_headers() -> None:
    elf = ElfFile("test", build([Sym("f", at(0))], build_id=b"\xab\xcd", kind=3))
    assert elf.is_relocatable
    assert elf.build_id == "abcd"
    text = elf.section(".text")
    assert text is not None
    assert (text.address, text.size) == (TEXT_ADDRESS, TEXT_SIZE)
    assert elf.section(".nothing") is None
    assert elf.tls is not None
    assert elf.tls.memory_size == 0x18


def test_what_is_derived_is_made_once_until_the_file_is_closed() -> None:
    elf = ElfFile("test", build([Sym("f", at(0)), Sym("g", at(16))]))
    pattern = re.compile(b"f")
    symbols = elf.derive(ElfFile.find_symbols, pattern)
    assert list(symbols) == ["f"]
    assert elf.derive(ElfFile.find_symbols, pattern) is symbols
    assert list(elf.derive(ElfFile.find_symbols, re.compile(b"g"))) == ["g"]
    elf.close()
    assert elf.derive(ElfFile.find_symbols, pattern) is not symbols


def test_read_gives_zeros_for_bss_and_faults_outside() -> None:
    elf = ElfFile("test", build(data=b"0123456789abcdef"))
    assert elf.read(BSS_ADDRESS + 14, 6) == b"ef\0\0\0\0"
    assert elf.read(BSS_ADDRESS + 0x80, 8) == bytes(8)
    for address, size in ((BSS_ADDRESS + BSS_SIZE - 4, 8), (0, 1), (BSS_ADDRESS, -1)):
        with pytest.raises(FaultError):
            elf.read(address, size)


def test_to_address_prefers_the_exact_segment() -> None:
    elf = ElfFile("test", build())
    assert elf.to_address(0x1010) == at(0x10)
    data = elf.section(".data")
    assert data is not None
    assert elf.to_address(data.offset + 3) == BSS_ADDRESS + 3
    assert elf.to_address(0) is None
    assert elf.to_address(1 << 40) is None


def test_find_symbols_matches_whole_names_and_merges_tables() -> None:
    elf = image(
        Sym("v8dbg_a", BSS_ADDRESS, 4, OBJECT, section=2),
        Sym("xv8dbg_b", BSS_ADDRESS, 4, OBJECT, section=2),
        Sym("v8dbg_tls", 8, 8, TLS, section=2),
        Sym("v8dbg_undefined", 0, section=0),
        dynsym=(Sym("v8dbg_a", 1, 1), Sym("v8dbg_c", at(0), 5, WEAK)),
    )
    symbols = elf.find_symbols(re.compile(rb"v8dbg_\w+"))
    assert symbols == {
        "v8dbg_a": Symbol("v8dbg_a", FileAddress(BSS_ADDRESS), 4, OBJECT),
        "v8dbg_tls": Symbol("v8dbg_tls", FileAddress(8), 8, TLS),
        "v8dbg_c": Symbol("v8dbg_c", at(0), 5, WEAK),
    }


def test_find_symbols_sees_names_inside_of_other_names() -> None:
    elf = image(Sym("long_name", at(0), 8), Sym("name", at(8), 8), tail_merge=True)
    assert elf.find_symbols(re.compile(rb"name"))["name"].address == at(8)
    assert found(elf, 9) == "name"


def test_find_symbols_prefers_global_over_local() -> None:
    elf = image(Sym("f", at(0), 8, binding=LOCAL), Sym("f", at(8), 8))
    assert elf.find_symbols(re.compile(rb"f"))["f"].address == at(8)


def test_functions_end_at_their_size() -> None:
    elf = image(Sym("b", at(0x40), 8), Sym("a", at(0x10), 0x10))
    assert [found(elf, offset) for offset in (0xF, 0x10, 0x1F, 0x20, 0x40, 0x48)] == [
        *(None, "a", "a", None, "b", None),
    ]


def test_functions_without_size_reach_to_the_next_or_the_end_of_the_section() -> None:
    elf = image(Sym("a", at(0x10)), Sym("b", at(0x40)))
    assert found(elf, 0x3F) == "a"
    assert found(elf, TEXT_SIZE - 1) == "b"
    assert found(elf, TEXT_SIZE) is None
    symbol = elf.functions().find(at(0x20))
    assert symbol == Symbol("a", at(0x10), 0x30, FUNC)


def test_functions_without_size_in_a_stripped_file_may_end_anywhere() -> None:
    elf = image(dynsym=(Sym("a", at(0x10)), Sym("b", at(0x40), 8)))
    assert [found(elf, offset) for offset in (0x10, 0x3F, 0x47)] == [None, None, "b"]


def test_code_inside_of_a_larger_function() -> None:
    elf = image(Sym("outer", at(0), 0x100), Sym("inner", at(0x40), 0x10))
    assert [found(elf, offset) for offset in (0x3F, 0x45, 0x50, 0xFF)] == [
        *("outer", "inner", "outer", "outer"),
    ]


@pytest.mark.parametrize("reverse", [False, True])
def test_one_symbol_per_address(reverse: bool) -> None:
    symbols = [
        Sym("label", at(0), 0, NOTYPE),
        Sym("unsized", at(0), 0),
        Sym("weak", at(0), 8, binding=WEAK),
        Sym("global", at(0), 8),
        Sym("local", at(0), 8, binding=LOCAL),
    ]
    elf = image(*(reversed(symbols) if reverse else symbols))
    assert found(elf, 0) == "global"
    assert len(elf.functions()) == 1


def test_labels_count_only_where_no_function_is() -> None:
    elf = image(
        Sym("f", at(0), 0x20),
        Sym("inside", at(8), 0, NOTYPE),
        Sym("asm", at(0x40), 0, NOTYPE),
        Sym(".annobin", at(0x50), 0, NOTYPE),
        Sym("data", BSS_ADDRESS, 0, NOTYPE, section=2),
        Sym("table", at(0x60), 8, OBJECT),
    )
    assert found(elf, 8) == "f"
    assert found(elf, 0x64) == "asm"
    assert elf.functions().find(FileAddress(BSS_ADDRESS)) is None


def test_dynsym_alone_and_as_supplement() -> None:
    assert found(image(dynsym=(Sym("f", at(0), 8),)), 4) == "f"
    both = image(Sym("f", at(0), 8), dynsym=(Sym("f_alias", at(0), 8), Sym("g", at(8), 8)))
    assert [found(both, 4), found(both, 8)] == ["f", "g"]


def test_no_symbols() -> None:
    elf = ElfFile("test", build())
    assert len(elf.functions()) == 0
    assert elf.functions().find(at(0)) is None
    assert elf.find_symbols(re.compile(rb".*")) == {}


@pytest.mark.parametrize(
    "changed",
    [
        build(ident=b"\x7fELF\x01\x01\x01"),
        build(ident=b"\x7fELF\x02\x02\x01"),
        build(machine=183),
    ],
)
def test_other_machines_are_refused(changed: bytes) -> None:
    with pytest.raises(UnsupportedTarget):
        ElfFile("test", changed)


def test_what_is_not_elf(tmp_path: Path) -> None:
    with pytest.raises(MalformedData):
        ElfFile("test", b"#!/bin/sh\n".ljust(200))
    with pytest.raises(MalformedData):
        ElfFile("test", b"")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(MalformedData):  # and does not wait for a writer
        ElfFile.load(fifo)
    with pytest.raises(OSError, match="No such file"):
        ElfFile.load(tmp_path / "nothing")


def test_file_that_is_cut_short_while_open(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(build([Sym("f", at(0), 8)]))
    elf = ElfFile.load(path, name="shown")
    assert elf.name == "shown"
    os.truncate(path, 64)
    with pytest.raises(FaultError):
        elf.read(at(0), 8)
    with pytest.raises(MalformedData):
        elf.find_symbols(re.compile(rb"f"))
    elf.close()
    with pytest.raises(FaultError):
        elf.read(at(0), 8)


def test_derived_tables_are_cached_by_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(elf_module, "CACHE_FROM", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "file"
    path.write_bytes(build([Sym("f", at(0), 8), Sym("g", at(8))], build_id=b"1234"))
    cold = ElfFile.load(path)
    assert (found(cold, 4), found(cold, 9)) == ("f", "g")
    assert set(cold.find_symbols(re.compile(rb"[fg]"))) == {"f", "g"}

    def refuse(*_: object) -> None:
        raise AssertionError("scanned a symbol table")

    monkeypatch.setattr(ElfFile, "_build_functions", refuse)
    monkeypatch.setattr(ElfFile, "_scan_symbols", refuse)
    warm = ElfFile.load(path)
    assert warm.identity == cold.identity
    assert warm.functions().find(at(9)) == cold.functions().find(at(9))
    assert warm.find_symbols(re.compile(rb"[fg]")) == {
        "f": Symbol("f", at(0), 8, FUNC),
        "g": Symbol("g", at(8), 0, FUNC),
    }
    with pytest.raises(AssertionError):
        warm.find_symbols(re.compile(rb"other"))


def test_another_file_with_the_same_build_id_has_another_identity(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(build([Sym("f", at(0), 8)], build_id=b"1234"))
    (tmp_path / "b").write_bytes(build([Sym("g", at(0), 8)], build_id=b"1234"))
    a, b = ElfFile.load(tmp_path / "a"), ElfFile.load(tmp_path / "b")
    assert a.build_id == b.build_id
    assert a.identity != b.identity


def test_table_survives_encoding_and_damage_is_refused() -> None:
    elf = image(Sym("f", at(0), 8), Sym("g", at(0x20)))
    table = elf.functions()
    again = elf_module.FunctionTable.decode(elf, table.encode())
    assert again is not None
    assert [again.find(at(offset)) for offset in range(0, 64, 4)] == [
        table.find(at(offset)) for offset in range(0, 64, 4)
    ]
    assert elf_module.FunctionTable.decode(elf, table.encode()[:-1]) is None
    assert elf_module.FunctionTable.decode(elf, b"") is None


_VALID = build(
    [Sym("first", at(0), 8), Sym("second", at(0x20)), Sym("label", at(0x40), 0, NOTYPE)],
    (Sym("dynamic", at(0x80), 16),),
    build_id=b"abcdefgh",
)
_HEADERS = [*range(64 + 56 * 4), *range(len(_VALID) - 64 * 8 - 200, len(_VALID))]


@given(
    st.lists(st.tuples(st.sampled_from(_HEADERS), st.integers(0, 255)), min_size=1, max_size=12),
    st.integers(0, len(_VALID)),
)
def test_any_damage_ends_in_values_or_our_errors(changes: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(_VALID)
    for offset, value in changes:
        data[offset] = value
    for version in (bytes(data), bytes(data[:cut])):
        try:
            elf = ElfFile("damaged", version)
            elf.to_address(0x1000)
            elf.functions().find(at(0x20))
            elf.find_symbols(re.compile(rb"\w+"))
            elf.read(TEXT_ADDRESS, 8)
        except JsspyError:
            pass
