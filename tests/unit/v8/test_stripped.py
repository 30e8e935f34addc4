"""Builtins and variables of V8 in files without symbols."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elf_builder import TEXT_ADDRESS, Sym, build
from jsspy.target.elf import ElfFile
from jsspy.v8.stripped import (
    _find_rows,
    builtin_symbols,
    find_bytecode_sizes,
    find_isolate_tls,
)

COUNT = 600
FIRST = 40
ENTRIES = [(TEXT_ADDRESS + 256 * (FIRST + i), 192) for i in range(3)]


def load(tmp_path: Path, content: bytes) -> ElfFile:
    path = tmp_path / "node"
    path.write_bytes(content)
    return ElfFile.load(path)


def table(row_words: int, lengths: list[int], *, before: int = 0) -> bytes:
    """Return rows of builtins that lie 256 bytes apart."""
    rows = b"".join(
        struct.pack(f"<{row_words}I", 256 * index, length, *(7,) * (row_words - 2))
        for index, length in enumerate(lengths)
    )
    return b"\x09\0\0\0" * before + rows


def lengths() -> list[int]:
    return [192 if FIRST <= index < FIRST + 3 else 200 for index in range(COUNT)]


@given(st.integers(2, 8), st.integers(0, 9))
def test_rows_of_any_size_are_found_wherever_they_begin(row_words: int, before: int) -> None:
    found = _find_rows(table(row_words, lengths(), before=before), FIRST, COUNT, ENTRIES)
    assert found == [(256 * index, length) for index, length in enumerate(lengths())]


@pytest.mark.parametrize("index", [0, FIRST + 1, COUNT - 2])
def test_rows_with_a_gap_or_an_overlap_are_not_believed(index: int) -> None:
    for wrong in (20, 300):
        spoiled = lengths()
        spoiled[index] = wrong
        assert _find_rows(table(3, spoiled), FIRST, COUNT, ENTRIES) == []


@given(st.binary(max_size=4096))
def test_other_data_has_no_rows(data: bytes) -> None:
    assert _find_rows(data, FIRST, COUNT, ENTRIES) == []


def test_a_table_that_is_cut_off_is_not_believed() -> None:
    assert _find_rows(table(3, lengths())[:-12], FIRST, COUNT, ENTRIES) == []


def test_the_variable_of_the_isolate_is_read_from_what_returns_it(tmp_path: Path) -> None:
    code = b"\x55\x48\x89\xe5\x64\x48\x8b\x04\x25" + struct.pack("<i", -160) + b"\x5d\xc3"
    symbol = Sym("_ZN2v87Isolate13TryGetCurrentEv", TEXT_ADDRESS, len(code))
    assert find_isolate_tls(load(tmp_path, build(dynsym=[symbol], text=code))) == -160


def test_a_file_without_any_of_it_says_so(tmp_path: Path) -> None:
    elf = load(tmp_path, build(symtab=[Sym("main", TEXT_ADDRESS, 8)]))
    assert builtin_symbols(elf) == {}
    assert find_isolate_tls(elf) is None
    assert find_bytecode_sizes(elf) == b""


def test_symbols_that_are_there_are_taken_as_they_are(tmp_path: Path) -> None:
    elf = load(tmp_path, build(symtab=[Sym("Builtins_JSEntry", TEXT_ADDRESS, 192)]))
    assert list(builtin_symbols(elf)) == ["Builtins_JSEntry"]
