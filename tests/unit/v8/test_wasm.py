"""WebAssembly modules, and V8's tables of their code in made-up memory."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import LAYOUT, HeapBuilder
from jsspy.errors import MalformedData
from jsspy.model.units import FileAddress
from jsspy.target.elf import ElfFile, Symbol
from jsspy.target.process import V8Binary
from jsspy.v8 import wasm
from jsspy.v8.wasm import (
    CodeFields,
    ModuleNames,
    WasmFunction,
    WasmReader,
    decode_module,
    find_fields,
    url_of_script,
)
from wasm_module import NAMES, assemble, section, text, vector

MODULE = assemble()


def test_names_and_numbers_of_functions() -> None:
    assert decode_module(MODULE) == ModuleNames(1, 4, NAMES)


def test_imports_of_every_kind_are_counted() -> None:
    kinds = [
        b"\0\0",  # function
        b"\1\x70\1\1\x10",  # table of functions, with a maximum
        b"\1\x63\x70\0\1",  # table of (ref null func)
        b"\2\3\1\2",  # shared memory with a maximum
        b"\3\x7f\0",  # global
        b"\3\x64\x05\1",  # mutable global of a type of the module
        b"\4\0\0",  # tag
        b"\0\1",
    ]
    imports = section(2, vector(text("m") + text("x") + kind for kind in kinds))
    data = MODULE[:8] + imports + section(3, vector([b"\0"] * 3))
    assert decode_module(data) == ModuleNames(2, 5, {})


def test_a_damaged_name_section_has_what_was_before_the_damage() -> None:
    start = MODULE.index(b"leaf_loop")
    damaged = MODULE[: start - 1] + b"\x7f" + MODULE[start:]
    assert decode_module(damaged).names == {0: "env_back"}


@pytest.mark.parametrize("size", range(len(MODULE)))
def test_modules_that_are_cut_off(size: int) -> None:
    try:
        said = decode_module(MODULE[:size])
    except MalformedData:
        return
    assert said.functions <= 4


@given(st.binary(max_size=200))
def test_any_bytes_end_well(data: bytes) -> None:
    for start in (MODULE[:8], MODULE[:20], b""):
        try:
            decode_module(start + data)
        except MalformedData:
            continue


def test_urls_of_scripts() -> None:
    assert url_of_script("wasm://wasm/a-0123abcd", "") == "wasm://wasm/a-0123abcd"
    assert url_of_script("a-0123abcd", "wasm://wasm/a-0123abcd") == "wasm://wasm/a-0123abcd"
    assert url_of_script("wasm-0123abcd", "") == "wasm://wasm/0123abcd"
    for name in ("wasm-a.js", "/app/wasm-0123abcd", "", "wasm"):
        assert url_of_script(name, "") == ""


def test_versions_that_were_not_looked_at_are_not_known() -> None:
    assert find_fields((14, 6, 202, 34)) == CodeFields(0, 8, 32, 56)
    assert find_fields((12, 4, 254, 21)) == CodeFields(0, 8, 24, 44)
    assert find_fields((7, 8, 279, 23)) == CodeFields(48, 0, 8, 56)
    for version in ((12, 9, 0, 0), (10, 8, 0, 0), (7, 9, 0, 0), (6, 8, 0, 0), (15, 0, 0, 0)):
        assert find_fields(version) is None


STATE, CODE = 0x4000, 0x700000
SYMBOL = "_ZN2v88internal4wasm12_GLOBAL__N_117global_wasm_stateE"


class Binary:
    """What `WasmReader` uses of an ElfFile."""

    def find_symbols(self, pattern: re.Pattern[bytes]) -> dict[str, Symbol]:
        assert pattern.fullmatch(SYMBOL.encode())
        return {SYMBOL: Symbol(SYMBOL, FileAddress(STATE), 8, 1)}


class World(HeapBuilder):
    """V8's tables of code, as V8 13 has them."""

    def __init__(self) -> None:
        super().__init__(replace(LAYOUT, v8_version=(13, 6, 233, 17)))
        self.pages[STATE] = bytearray(4096)
        self.native = self.raw(wasm._MODULE_SIZE)
        self.data = self.raw(len(MODULE))
        self.write_bytes(self.data, MODULE)
        self.write(self.native + 0xF0, self.raw(32, self.data, len(MODULE)))
        self.now = 0.0

    def raw(self, size: int, *words: int) -> int:
        """Return the address of fresh memory that begins with some words."""
        address = self.allocate(size) - 1
        for number, word in enumerate(words):
            self.write(address + 8 * number, word)
        return address

    def code(self, start: int, size: int, index: int, native: int = 0) -> int:
        """Return a WasmCode."""
        made = self.raw(128, native or self.native, start)
        self.write_bytes(made + 32, struct.pack("<i", size))
        self.write_bytes(made + 56, struct.pack("<i", index))
        return made

    def put_map(self, header: int, items: Sequence[tuple[int, ...]]) -> None:
        """Write a std::map: a header, and nodes of key and value words."""

        def build(part: Sequence[tuple[int, ...]], parent: int) -> int:
            if not part:
                return 0
            middle = len(part) // 2
            node = self.raw(32 + 8 * 3, 1, parent)
            for number, word in enumerate(part[middle]):
                self.write(node + 32 + 8 * number, word)
            self.write(node + 16, build(part[:middle], node))
            self.write(node + 24, build(part[middle + 1 :], node))
            return node

        root = build(sorted(items), header)
        for number, word in enumerate((0, root, root, root, len(items))):
            self.write(header + 8 * number, word)

    def reader(self) -> WasmReader:
        state = self.raw(wasm._STATE_SIZE)
        self.write(STATE, state)
        regions = [(CODE - 0x9000, CODE - 0x8000, 8), (CODE, CODE + 0x1000, self.native)]
        self.put_map(state + 0x28, regions)
        binary = V8Binary(cast("ElfFile", Binary()), 0)
        return WasmReader(self, binary, self.heap(), lambda: self.now)

    def put_codes(self) -> list[int]:
        """Make code of functions 1, 2 and 3, and a wrapper; return the WasmCodes."""
        codes = [self.code(CODE + 0x100 * n, 0x80, n) for n in (1, 2, 3)]
        codes.append(self.code(CODE + 0x400, 0x80, -1))
        starts = [CODE + 0x100 * n for n in (1, 2, 3, 4)]
        self.put_map(self.native + 0x140, list(zip(starts, codes, strict=True)))
        return codes


def test_code_in_the_map() -> None:
    world = World()
    world.put_codes()
    reader = world.reader()
    assert reader.find(CODE + 0x100) == WasmFunction(1, "leaf_loop", "")
    assert reader.find(CODE + 0x27F) == WasmFunction(2, "middle", "")
    assert reader.find(CODE + 0x310) == WasmFunction(3, "", "")
    for pc in (CODE + 0x280, CODE + 0x410, CODE + 0x50, CODE + 0x2000, CODE - 0x8800, 5):
        assert reader.find(pc) is None, hex(pc)


def test_code_that_is_not_in_the_map_yet() -> None:
    world = World()
    fresh = [world.code(CODE + 0x700, 0x40, 2), world.code(CODE + 0x600, 0x40, 1)]
    vector_at = world.raw(64, *fresh)
    for number, word in enumerate((vector_at, vector_at + 16, vector_at + 64)):
        world.write(world.native + 0x168 + 8 * number, word)
    reader = world.reader()
    assert reader.find(CODE + 0x610) == WasmFunction(1, "leaf_loop", "")
    assert reader.find(CODE + 0x710) == WasmFunction(2, "middle", "")
    assert reader.find(CODE + 0x750) is None


def test_code_that_was_freed_is_looked_for_again() -> None:
    world = World()
    codes = world.put_codes()
    reader = world.reader()
    assert reader.find(CODE + 0x110) == WasmFunction(1, "leaf_loop", "")
    # The C library writes over what is freed; the new tenant of the place is another function.
    world.write(codes[0], 0x1234)
    assert reader.find(CODE + 0x110) is None
    world.put_map(world.native + 0x140, [(CODE + 0x100, world.code(CODE + 0x100, 0x80, 2))])
    assert reader.find(CODE + 0x110) is None
    world.now += 1
    assert reader.find(CODE + 0x110) == WasmFunction(2, "middle", "")


def test_another_module_in_the_place_of_a_dead_one() -> None:
    world = World()
    world.put_codes()
    reader = world.reader()
    assert reader.find(CODE + 0x110) == WasmFunction(1, "leaf_loop", "")
    other = assemble("other", {1: "renamed"})
    data = world.raw(len(other))
    world.write_bytes(data, other)
    world.write(world.native + 0xF0, world.raw(32, data, len(other)))
    assert reader.find(CODE + 0x110) == WasmFunction(1, "renamed", "")


def test_the_url_is_the_script_that_the_instance_leads_to() -> None:
    world = World()
    world.put_codes()
    script = world.script(world.undefined, world.string("wasm://wasm/sampled-12345678"))
    plain = world.script(world.undefined, world.string("/app/a.js"))
    module = world.array(plain, script, *[0] * 20)
    instance = world.array(world.array(*[0] * 20), module, *[0] * 60)
    reader = world.reader()
    assert reader.find(CODE + 0x110, world.undefined) == WasmFunction(1, "leaf_loop", "")
    url = "wasm://wasm/sampled-12345678"
    assert reader.find(CODE + 0x110, instance) == WasmFunction(1, "leaf_loop", url)
    # From then on the module is known.
    assert reader.find(CODE + 0x210) == WasmFunction(2, "middle", url)


def test_circles_in_a_tree_end() -> None:
    world = World()
    world.put_codes()
    reader = world.reader()
    root = world.heap().read_word(world.native + 0x140 + 8)
    world.write(root + 16, root)
    world.write(root + 24, root)
    assert reader.find(CODE + 0x110) is None


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 0x2000), st.integers(0, 2**64 - 1)), max_size=12))
def test_damaged_tables_end_well(damage: list[tuple[int, int]]) -> None:
    world = World()
    world.put_codes()
    reader = world.reader()
    for at, word in damage:
        place = world.native + at // 8 * 8
        if place + 8 <= world.top:
            world.write(place, word)
    for pc in range(CODE, CODE + 0x500, 0x80):
        found = reader.find(pc)
        assert found is None or 1 <= found.number <= 3
