"""Code objects in memory that is made up: search, cache, positions, and bytes around a pc."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import FaultError
from jsspy.model.units import Address
from jsspy.target.maps import Mapping
from jsspy.v8.code import (
    MAX_CODE_SIZE,
    CodeObject,
    CodeReader,
    InlinedPosition,
    frame_push_offset,
    return_address_offset,
    returns_after_call,
)
from jsspy.v8.function import FunctionReader
from jsspy.v8.heap import Heap
from jsspy.v8.layout import (
    CodeKind,
    CodeLayout,
    FrameLayout,
    IsolateLayout,
    Layout,
    MarkerScheme,
    ObjectLayout,
    PositionEncoding,
    StringLayout,
    TypeLayout,
)

CODE_PAGES = 0x100000
CODE_PAGES_SIZE = 0x80000
HEAP = 0x900000
ISOLATE = 0xA00000
SIZES = bytes([1, 1, 1, 1, 1, 2, 3] * 3)
KINDS = {
    1: CodeKind.BASELINE,
    2: CodeKind.MAGLEV,
    3: CodeKind.TURBOFAN,
    4: CodeKind.REGEXP,
}

MAP_TYPE, CODE_TYPE, STREAM_TYPE, SFI_TYPE, BYTECODE_TYPE, BYTES_TYPE, WRAPPER_TYPE = range(10, 17)


class SparseMemory:
    """Zeroes, in a few regions, that can be written."""

    def __init__(self) -> None:
        self.regions = {
            CODE_PAGES: bytearray(CODE_PAGES_SIZE),
            HEAP: bytearray(0x10000),
            ISOLATE: bytearray(0x3000),
        }
        self.reads = 0

    def read(self, address: Address, size: int) -> bytes:
        self.reads += 1
        for start, data in self.regions.items():
            if start <= address and address + size <= start + len(data):
                return bytes(data[address - start : address - start + size])
        raise FaultError(address, size)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        reads = self.reads
        result: list[bytes | None] = []
        for address, size in ranges:
            try:
                result.append(self.read(Address(address), size))
            except FaultError:
                result.append(None)
        self.reads = reads + 1
        return result

    def write(self, address: int, data: bytes) -> None:
        for start, region in self.regions.items():
            if start <= address < start + len(region):
                region[address - start : address - start + len(data)] = data
                return
        raise AssertionError(hex(address))

    def write_word(self, address: int, word: int) -> None:
        self.write(address, word.to_bytes(8, "little"))


def make_layout(*, split: bool) -> Layout:
    """Code and InstructionStream in two objects, as in V8 13, or in one, as in V8 7."""
    code = CodeLayout(
        deoptimization_data=8,
        position_table=16,
        flags=48,
        instruction_size=52,
        instruction_start=40 if split else 64,
        instruction_start_is_pointer=split,
        instruction_stream_header=32 if split else None,
        kind_shift=0,
        kind_mask=15,
        kinds=KINDS,
        position_encoding=PositionEncoding.ZIGZAG_FROM_MINUS_1,
        bytecode_length=8,
        bytecode_positions=24,
        bytecode_data=64,
        bytecode_sizes=SIZES,
        translation_operand_counts=(),
        maglev_positions_empty=False,
        deopt_inlined_function_count=1,
        deopt_literal_array=2,
        deopt_shared_function_info=6,
        deopt_inlining_positions=7,
        deopt_first_entry=11,
    )
    types: dict[str, Any] = dict.fromkeys(TypeLayout.__dataclass_fields__, -1)
    types |= {
        "map": MAP_TYPE,
        "code": CODE_TYPE,
        "instruction_stream": STREAM_TYPE if split else -1,
        "shared_function_info": SFI_TYPE,
        "shared_function_info_wrapper": WRAPPER_TYPE,
        "bytecode_array": BYTECODE_TYPE,
        "byte_array": BYTES_TYPE,
    }
    # What code.py does not read is 0.
    objects: dict[str, Any] = dict.fromkeys(ObjectLayout.__dataclass_fields__, 0)
    objects |= {
        "map_instance_type": 12,
        "map_instance_type_size": 2,
        "fixed_array_length": 8,
        "fixed_array_data": 16,
    }
    strings: dict[str, Any] = dict.fromkeys(StringLayout.__dataclass_fields__, 0)
    return Layout(
        v8_version=(13, 0, 0, 0),
        frame=FrameLayout(-8, -16, -32, -40, MarkerScheme.TYPE_SHL_1, {}, -64, None, None),
        isolate=IsolateLayout(0, 8, None, None, None, None, 128),
        types=TypeLayout(**types),
        objects=ObjectLayout(**objects),
        strings=StringLayout(**strings),
        code=code,
        isolate_tls_offset=None,
        isolate_key_address=None,
        embedded_blob=None,
    )


class World:
    """A heap with an isolate, and a reader of it."""

    def __init__(self, *, split: bool = True) -> None:
        self.memory = SparseMemory()
        self.split = split
        self.layout = make_layout(split=split)
        self.now = 0.0
        self._top = HEAP
        self._meta_map = HEAP + 1
        self.make_map(MAP_TYPE)
        self.maps = {
            kind: self.make_map(kind)
            for kind in (CODE_TYPE, STREAM_TYPE, SFI_TYPE, BYTECODE_TYPE, BYTES_TYPE, WRAPPER_TYPE)
        }
        for index, word in enumerate(self.maps.values()):
            self.memory.write_word(ISOLATE + 0x800 + 8 * index, word)
        heap = Heap(self.memory, self.layout)
        self.beliefs = heap.beliefs
        self.reader = CodeReader(heap, FunctionReader(heap), clock=lambda: self.now)
        self.reader.learn_isolate(ISOLATE)
        self.mapping = Mapping(
            Address(CODE_PAGES), Address(CODE_PAGES + CODE_PAGES_SIZE), "rwxp", 0, 0, ""
        )

    def allocate(self, size: int) -> int:
        address = self._top
        self._top += size + 15 & ~15
        return address + 1

    def make_map(self, kind: int) -> int:
        word = self.allocate(32)
        self.memory.write_word(word - 1, self._meta_map)
        self.memory.write(word - 1 + 12, kind.to_bytes(2, "little"))
        return word

    def new(self, kind: int, *words: int) -> int:
        """Allocate an object of a map and words."""
        obj = self.allocate(8 + 8 * len(words))
        for index, word in enumerate((self.maps.get(kind, 0), *words)):
            self.memory.write_word(obj - 1 + 8 * index, word)
        return obj

    def new_bytes(self, data: bytes) -> int:
        obj = self.allocate(16 + len(data))
        self.memory.write_word(obj - 1, self.maps[BYTES_TYPE])
        self.memory.write_word(obj - 1 + 8, len(data) << 32)
        self.memory.write(obj - 1 + 16, data)
        return obj

    def new_bytecode(self, bytecodes: bytes, positions: bytes) -> int:
        table = self.new_bytes(positions)
        obj = self.allocate(64 + len(bytecodes))
        self.memory.write_word(obj - 1, self.maps[BYTECODE_TYPE])
        self.memory.write_word(obj - 1 + 8, len(bytecodes) << 32)
        self.memory.write_word(obj - 1 + 24, table)
        self.memory.write(obj - 1 + 64, bytecodes)
        return obj

    def new_code(
        self, at: int, size: int, kind: int = 3, *, deopt: int = 0, positions: int = 0
    ) -> int:
        """Write a code object whose header is at `at`; return where its instructions begin."""
        if self.split:
            code = self.allocate(64)
            start = at + 32
            self.memory.write_word(at, self.maps[STREAM_TYPE])
            self.memory.write_word(at + 8, code)
            self.memory.write_word(code - 1 + 40, start)
        else:
            code, start = at + 1, at + 64
        self.memory.write_word(code - 1, self.maps[CODE_TYPE])
        self.memory.write_word(code - 1 + 8, deopt)
        self.memory.write_word(code - 1 + 16, positions)
        self.memory.write(code - 1 + 48, kind.to_bytes(4, "little") + size.to_bytes(4, "little"))
        return start

    def find(self, pc: int) -> CodeObject | None:
        """Find code as for a stack: once more if what is known has changed."""
        code = self.reader.find_code(pc, self.mapping)
        return code if self.beliefs.confirm() else self.find(pc)


both = pytest.mark.parametrize("split", [True, False], ids=["V8 13", "V8 7"])


@both
@pytest.mark.parametrize("size", [64, 4096, 0x7000, 0x30000])
@pytest.mark.parametrize("at", [CODE_PAGES, CODE_PAGES + 0x12FE8, CODE_PAGES + 0x12FF8])
def test_code_is_found_from_any_pc_in_it(split: bool, size: int, at: int) -> None:
    world = World(split=split)
    start = world.new_code(at, size)
    after = world.new_code(start + size + 40 & ~7, 64)
    for pc in (start, start + 1, start + size // 2, start + size - 1, start + size):
        world.reader._drop(start)
        code = world.find(pc)
        assert code is not None
        assert (code.start, code.size, code.kind) == (start, size, CodeKind.TURBOFAN)
    found = world.find(after)
    assert found is not None
    assert found.start == after


@both
def test_an_isolate_may_take_the_place_of_another(split: bool) -> None:
    world = World(split=split)
    start = world.new_code(CODE_PAGES, 0x100)
    kind = STREAM_TYPE if split else CODE_TYPE
    slot = ISOLATE + 0x800 + 8 * list(world.maps).index(kind)
    reads = world.memory.reads
    world.reader.learn_isolate(ISOLATE)
    assert world.memory.reads == reads
    assert world.beliefs.confirm()
    world.memory.write_word(slot, 0)
    world.reader.learn_isolate(ISOLATE)
    assert not world.beliefs.confirm()
    world.reader.learn_isolate(ISOLATE)
    assert world.find(start) is None
    world.maps[kind] = world.make_map(kind)
    world.memory.write_word(slot, world.maps[kind])
    start = world.new_code(CODE_PAGES + 0x200, 0x100)
    world.reader.learn_isolate(ISOLATE)
    assert world.find(start) is None  # it was not there a moment ago
    world.now += 1
    world.reader.learn_isolate(ISOLATE)
    code = world.find(start)
    assert code is not None
    assert code.start == start


@both
def test_a_map_word_in_or_before_the_code_does_not_mislead(split: bool) -> None:
    world = World(split=split)
    at = CODE_PAGES + 0x2000
    start = world.new_code(at, 0x800)
    word = world.maps[STREAM_TYPE if split else CODE_TYPE]
    world.memory.write_word(start + 0x400, word)  # aligned, as a dead object would leave it
    world.memory.write(start + 0x483, word.to_bytes(8, "little"))  # in an instruction
    code = world.find(start + 0x600)
    assert code is not None
    assert code.start == start


def test_a_dead_stream_is_no_code() -> None:
    world = World()
    start = world.new_code(CODE_PAGES, 0x800)
    code = world.find(start)
    assert code is not None
    world.memory.write_word(code.address + 40, start + 0x100)  # its Code object has moved on
    assert world.find(start) is None


def test_memory_without_code_is_remembered_for_a_short_time() -> None:
    world = World()
    pc = CODE_PAGES + 0x41234
    assert world.find(pc) is None
    reads = world.memory.reads
    assert world.find(pc) is None
    assert world.find(pc - 0x400) is None
    assert world.memory.reads == reads
    assert world.find(pc + 0x400) is None  # only what is new is read
    assert world.memory.reads == reads + 1
    start = world.new_code(CODE_PAGES + 0x41000, 0x800)
    assert world.find(pc) is None
    world.now += 1
    code = world.find(pc)
    assert code is not None
    assert code.start == start


def test_code_above_empty_memory_is_found() -> None:
    world = World()
    assert world.find(CODE_PAGES + 0x2000) is None
    start = world.new_code(CODE_PAGES + 0x2008, 0x100)
    code = world.find(start + 0x80)
    assert code is not None
    assert code.start == start


def test_the_search_is_bounded() -> None:
    world = World()
    world.new_code(CODE_PAGES, 64)
    pc = CODE_PAGES + CODE_PAGES_SIZE - 1
    reads = world.memory.reads
    assert world.find(pc) is None
    assert world.memory.reads - reads <= MAX_CODE_SIZE // 0x10000 + 8
    # Never outside of the mapping, even if there is memory.
    small = world.mapping._replace(start=Address(CODE_PAGES + 0x1000))
    start = world.new_code(CODE_PAGES + 0xF00, 0x800)
    assert world.reader.find_code(start + 0x700, small) is None


def test_a_fault_is_no_code() -> None:
    world = World()
    mapping = world.mapping._replace(start=Address(0x50000))
    assert world.reader.find_code(CODE_PAGES + 8, mapping) is None


@both
def test_cached_code_is_read_again(split: bool) -> None:
    world = World(split=split)
    at = CODE_PAGES + 0x3000
    start = world.new_code(at, 0x400)
    code = world.find(start + 4)
    reads = world.memory.reads
    assert world.find(start + 8) is code
    assert world.memory.reads == reads + 1
    world.new_code(at, 0x200)
    other = world.find(start + 8)
    assert other is not None
    assert other.size == 0x200
    world.memory.write(at, bytes(0x100))
    assert world.find(start + 8) is None


@both
def test_known_code_is_believed_until_it_is_looked_at(split: bool) -> None:
    world = World(split=split)
    starts = [world.new_code(CODE_PAGES + 0x1000 * i, 0x100) for i in range(5)]
    codes = [world.find(start) for start in starts]
    world.memory.write(starts[2] - (32 if split else 64), bytes(16))
    reads = world.memory.reads
    assert [world.reader.find_code(start + 3, world.mapping) for start in starts] == codes
    assert world.memory.reads == reads
    assert not world.beliefs.confirm()
    assert world.memory.reads == reads + 1
    assert [code.gone for code in codes if code] == [False, False, True, False, False]
    assert [world.find(start) for start in starts[:1]] == codes[:1]
    assert world.beliefs.confirm()  # there is nothing to look at
    assert world.memory.reads == reads + 2
    assert world.find(starts[2]) is None


def test_new_code_drives_out_what_lay_in_its_place() -> None:
    world = World()
    old = [world.new_code(CODE_PAGES + 0x1000 + 0x100 * i, 0x80) for i in range(3)]
    for start in old:
        assert world.find(start) is not None
    start = world.new_code(CODE_PAGES + 0x10C0, 0x300)
    world.memory.write(start, bytes(0x300))
    for pc in old[1:]:
        code = world.find(pc)
        assert code is not None
        assert code.start == start
    assert world.reader._starts == sorted(world.reader._codes) == [old[0], start]


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), max_size=12))
def test_the_cache_answers_with_what_is_there(writes: list[tuple[int, int]]) -> None:
    world = World()
    live: dict[int, int] = {}
    for index, size in writes:
        start, end = CODE_PAGES + 64 * index + 32, CODE_PAGES + 64 * index + 32 + 16 * size
        for old in [at for at, old_end in live.items() if at - 32 < end and start - 32 < old_end]:
            # As the sweeper does: what is free begins with the map of a filler.
            world.memory.write(old - 32, bytes(32))
            del live[old]
        assert world.new_code(start - 32, 16 * size) == start
        live[start] = end
        world.now += 1
        for pc in range(CODE_PAGES, CODE_PAGES + 0x1200, 64):
            found = world.find(pc)
            expected = [at for at, at_end in live.items() if at <= pc <= at_end]
            assert [found.start] == expected if found else not expected


def position(offset: int, inlining: int = 0) -> int:
    return (offset + 1) << 1 | inlining << 31


def table(*entries: tuple[int, int]) -> bytes:
    """Write (offset, SourcePosition) as statements."""
    data = b""
    last_offset, last_position = -1, 0
    for offset, value in entries:
        for delta in (offset - last_offset, value - last_position):
            number = delta << 1 if delta >= 0 else (-delta << 1) - 1
            while number > 0x7F:
                data += bytes([number & 0x7F | 0x80])
                number >>= 7
            data += bytes([number])
        last_offset, last_position = offset, value
    return data


def make_inlining(world: World, *, wrapped: bool = False) -> tuple[CodeObject, int, int, int]:
    """Code of an outer function with one inlined at 0x40-0x80; returns literals, too."""
    outer, inner = world.new(SFI_TYPE, 0), world.new(SFI_TYPE, 0)
    literals = world.new(0, 2 << 32, inner | 2, outer | 2)
    calls = world.new_bytes(position(500).to_bytes(8, "little") + bytes(8))
    shared = world.new(WRAPPER_TYPE, outer) if wrapped else outer
    deopt = world.new(0, 12 << 32, 0, 1 << 32, literals, 0, 0, 0, shared, calls, 0, 0, 0, 0)
    positions = world.new_bytes(
        table((0, position(400)), (0x40, position(600, 1)), (0x80, position(700)))
    )
    start = world.new_code(CODE_PAGES, 0x100, deopt=deopt, positions=positions)
    code = world.find(start)
    assert code is not None
    return code, outer, inner, literals


@pytest.mark.parametrize("wrapped", [True, False])
def test_optimized_code_expands_what_it_inlined(wrapped: bool) -> None:
    world = World()
    code, outer, inner, _ = make_inlining(world, wrapped=wrapped)

    def at(offset: int, *, is_return_address: bool = False) -> list[InlinedPosition]:
        return world.reader.positions(
            code, code.start + offset, is_return_address=is_return_address
        )

    assert at(0x10) == [(outer, 400, None)]
    assert at(0x40) == [(inner, 600, None), (outer, 500, None)]
    assert at(0x40, is_return_address=True) == [(outer, 400, None)]
    assert at(0x80, is_return_address=True) == [(inner, 600, None), (outer, 500, None)]
    reads = world.memory.reads
    assert at(0x80) == [(outer, 700, None)]
    assert world.memory.reads == reads


def test_a_function_that_moves_makes_its_code_unknown() -> None:
    world = World()
    code, _, _, literals = make_inlining(world)
    world.reader.positions(code, code.start + 0x40, is_return_address=False)
    moved = world.new(SFI_TYPE, 0)
    world.memory.write_word(literals - 1 + 16, moved | 2)
    again = world.find(code.start)
    assert again is not None
    assert again is not code
    found = world.reader.positions(again, code.start + 0x40, is_return_address=False)
    assert found[0].shared == moved


def test_code_without_deoptimization_data_names_nobody() -> None:
    world = World()
    empty = world.new(0, 0)
    positions = world.new_bytes(table((0, position(7))))
    start = world.new_code(CODE_PAGES, 64, deopt=empty, positions=positions)
    code = world.find(start)
    assert code is not None
    found = world.reader.positions(code, start, is_return_address=False)
    assert found == [(0, 7, None)]


@pytest.mark.parametrize("broken", ["deopt", "positions", "length"])
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_unreadable_tables_leave_the_position_open(broken: str, kind: int) -> None:
    world = World()
    shared = world.new(SFI_TYPE, 0)
    deopt = world.new(0, 12 << 32, *[0] * 12)
    positions = world.new_bytes(table((0, position(7))))
    if broken == "length":
        world.memory.write_word(positions - 1 + 8, 1 << 62)
    start = world.new_code(
        CODE_PAGES,
        64,
        kind,
        deopt=0xDEAD01 if broken == "deopt" else deopt,
        positions=0xDEAD01 if broken == "positions" else positions,
    )
    code = world.find(start)
    assert code is not None
    found = world.reader.positions(code, start, is_return_address=False, shared=shared)
    assert found == [(shared, None, None)]
    assert not code.lookups


@pytest.mark.parametrize("kind", [4, 9])
def test_other_code_has_no_functions(kind: int) -> None:
    world = World()
    start = world.new_code(CODE_PAGES, 64, kind)
    code = world.find(start)
    assert code is not None
    assert world.reader.positions(code, start, is_return_address=False) == []


def test_baseline_code_goes_through_the_bytecode() -> None:
    world = World()
    array = world.new_bytecode(
        bytes([4, 5, 0, 6, 0, 0]), table((-1, position(10)), (1, position(20)), (3, position(30)))
    )
    positions = world.new_bytes(bytes([40, 10, 20, 30]))
    start = world.new_code(CODE_PAGES, 100, 1, positions=positions)
    code = world.find(start)
    assert code is not None

    def at(offset: int, *, is_return_address: bool = False) -> tuple[int | None, int | None]:
        (found,) = world.reader.positions(
            code,
            start + offset,
            is_return_address=is_return_address,
            bytecode_array=array,
            shared=77,
        )
        assert found.shared == 77
        return found.bytecode_offset, found.position

    assert at(0) == (-1, 10)
    assert at(40) == (0, 10)
    assert at(50) == (1, 20)
    assert at(50, is_return_address=True) == (0, 10)
    assert at(99) == (3, 30)
    assert world.reader.baseline_offset(code, array, start + 70, is_return_address=True) == 1


def test_bytecode_positions_follow_the_array() -> None:
    world = World()
    array = world.new_bytecode(bytes(6), table((0, position(10)), (4, position(20))))
    assert [world.reader.bytecode_position(array, at) for at in (-1, 0, 3, 4)] == [
        None, 10, 10, 20,
    ]  # fmt: skip
    reads = world.memory.reads
    assert world.reader.bytecode_position(array, 5) == 20
    assert world.memory.reads == reads
    world.memory.write_word(array - 1 + 24, world.new_bytes(table((0, position(99)))))
    assert not world.beliefs.confirm()
    assert world.reader.bytecode_position(array, 5) == 99
    assert world.reader.bytecode_position(world.new(SFI_TYPE, 0, 0, 0), 0) is None
    assert world.reader.bytecode_position(0xDEAD01, 0) is None


CALLS = [
    "e800000000",  # call rel32
    "ffd0",  # call rax
    "41ffd2",  # call r10
    "ff10",  # call [rax]
    "ff1424",  # call [rsp]
    "ff142500000000",  # call [disp32]
    "ff1500000000",  # call [rip + disp32]
    "ff5040",  # call [rax + 0x40]
    "41ff5540",  # call [r13 + 0x40]
    "ff542440",  # call [rsp + 0x40]
    "ff9040000000",  # call [rax + disp32]
    "41ff9500400000",  # call [r13 + disp32], as V8 calls builtins
    "ff942440000000",  # call [rsp + disp32]
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("before", ["", "90909090909090"])
def test_calls(call: str, before: str) -> None:
    assert returns_after_call(bytes.fromhex(before + call))


@pytest.mark.parametrize(
    "code",
    [
        "",
        "90909090909090",
        "90909090ffe0",  # jmp rax
        "90909090ff20",  # jmp [rax]
        "9090909090ff",
        "9090ff15000000",  # one byte short
        "909090ff1500",
        "90909090909014",
        "e9000000009090",
        "90e90000000090",
    ],
)
def test_no_calls(code: str) -> None:
    assert not returns_after_call(bytes.fromhex(code))


@given(st.binary(max_size=16))
def test_any_bytes_may_be_asked_about(data: bytes) -> None:
    assert returns_after_call(data) in (True, False)
    assert returns_after_call(data) == returns_after_call(data[-7:])


@pytest.mark.parametrize(
    ("before", "at", "expected"),
    [
        ("", "554889e556", 0),
        ("55", "4889e556", 8),
        ("90", "4889e556", None),
        ("554889e5", "56504883", None),
        ("5d", "c3", 0),
        ("5d", "c21000", 0),
        ("", "", None),
    ],
)
def test_return_address_of_code_without_frame(before: str, at: str, expected: int | None) -> None:
    assert return_address_offset(bytes.fromhex(before), bytes.fromhex(at)) == expected


def test_a_frame_is_pushed_behind_the_entry_test() -> None:
    assert frame_push_offset(bytes.fromhex("554889e556")) == 0
    assert frame_push_offset(bytes.fromhex("8b59d0f6431f01740f1f40 00554889e556")) == 12
    assert frame_push_offset(bytes.fromhex("f64320017505") + b"\x90" * 10) is None
