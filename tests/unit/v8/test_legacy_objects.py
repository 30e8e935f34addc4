"""Functions and code of V8 before 7.1, in heaps that are made up."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from builders import LAYOUT, OLD_LAYOUT, HeapBuilder, smi
from jsspy.errors import MalformedData
from jsspy.model.units import Address
from jsspy.target.maps import Mapping
from jsspy.v8.code import CodeObject, CodeReader
from jsspy.v8.frames import FrameDecoder
from jsspy.v8.function import FunctionReader, find_line_ends
from jsspy.v8.heap import Heap
from jsspy.v8.layout import (
    CodeKind,
    LegacyCodeLayout,
    MarkerScheme,
    PositionEncoding,
    RelocationEncoding,
)
from jsspy.v8.legacy import SELF_LITERAL

SOURCE = "var a;\nfunction outer() {\n  return inner();\n}\n"

OBJECTS = replace(
    OLD_LAYOUT.objects,
    sfi_inferred_name=40,
    sfi_start=52,
    sfi_start_shift=2,
    sfi_end=48,
    sfi_end_shift=1,
    sfi_code=56,
    script_type=88,
    scope_info_first_vars=4,
    scope_info_parameter_count=1,
    scope_info_stack_local_count=2,
    scope_info_context_local_count=3,
    only_newline_ends_line=True,
)
LEGACY = replace(
    OLD_LAYOUT,
    objects=OBJECTS,
    code=replace(
        OLD_LAYOUT.code,
        deoptimization_data=16,
        position_table=8,
        flags=44,
        instruction_size=40,
        instruction_start=64,
        instruction_start_is_pointer=False,
        kind_shift=0,
        kind_mask=15,
        kinds={0: CodeKind.FULL_CODEGEN, 1: CodeKind.LEGACY_OPTIMIZED},
        deopt_literal_array=1,
        deopt_shared_function_info=-1,
        deopt_first_entry=2,
        legacy=LegacyCodeLayout(
            relocation_encoding=RelocationEncoding.SHORT_TAGS,
            safepoint_table_offset=48,
            safepoint_table_shift=1,
            safepoint_table_bits=24,
            safepoint_entry_size=8,
            deopt_translations=0,
            deopt_entry_size=4,
            opcodes=(("BEGIN", 2), ("JS_FRAME", 3), ("VALUE", 1)),
        ),
    ),
)


def positions(start: int, end: int) -> int:
    """Return the word in which a SharedFunctionInfo packs its positions."""
    return start << 2 << 32 | end << 1


def make_shared(
    builder: HeapBuilder, name: int, *, inferred: int = 0, start: int = 5, code: int = 0
) -> int:
    script = builder.script(builder.string(SOURCE), builder.string("/f.js"))
    shared = builder.shared(name, script, builder.undefined)
    builder.set(shared, OBJECTS.sfi_inferred_name or 0, inferred)
    builder.set(shared, OBJECTS.sfi_end, positions(start, 40))
    builder.set(shared, OBJECTS.sfi_code or 0, code)
    return shared


def test_positions_and_names_are_in_the_function_itself() -> None:
    builder = HeapBuilder(LEGACY)
    reader = FunctionReader(Heap(builder, LEGACY))
    inferred = builder.string("o.f")
    for name, expected in ((builder.string("f"), "f"), (0, "o.f")):
        info = reader.read_shared(make_shared(builder, name, inferred=inferred))
        assert info is not None
        assert (info.name, info.start, info.end) == (expected, 5, 40)
        assert info.script is not None
        assert not info.builtin
        assert not info.script.is_native
    nameless = reader.read_shared(make_shared(builder, smi(0), inferred=smi(3)))
    assert nameless is not None
    assert nameless.name == ""


def test_scripts_of_v8_itself() -> None:
    builder = HeapBuilder(LEGACY)
    shared = make_shared(builder, builder.string("forEach"))
    script = builder.heap().read_field(shared, LEGACY.objects.sfi_script)
    builder.set(script, LEGACY.objects.script_type or 0, smi(0))
    info = FunctionReader(Heap(builder, LEGACY)).read_shared(shared)
    assert info is not None
    assert info.script is not None
    assert info.script.is_native


def test_a_builtin_has_no_script_and_no_code() -> None:
    builder = HeapBuilder(LEGACY)
    shared = builder.shared(builder.string("parse"), builder.undefined, builder.undefined)
    info = FunctionReader(Heap(builder, LEGACY)).read_shared(shared)
    assert info is not None
    assert info.builtin


@pytest.mark.parametrize("receiver", [(), (smi(9),)])
@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("counts", [(0, 0, 0), (2, 0, 0), (0, 1, 3), (3, 2, 1)])
def test_name_in_a_scope_info_with_parameters(
    counts: tuple[int, int, int], named: bool, receiver: tuple[int, ...]
) -> None:
    builder = HeapBuilder(LEGACY)
    parameters, stack, context = counts
    word = builder.string("variable")
    slots = [smi(7), smi(parameters), smi(stack), smi(context)]
    slots += [word] * parameters + [smi(4)] + [word] * (stack + context) + [smi(1)] * context
    slots += [*receiver, *([builder.string("f"), smi(2)] if named else [])]
    slots += [builder.string("o.f"), smi(5), smi(40), builder.undefined]
    first = OBJECTS.scope_info_first_slot
    fields = {first + 8 * index: slot for index, slot in enumerate(slots)}
    scope = builder.object(LEGACY.types.scope_info, first + 8 * len(slots), fields)
    info = FunctionReader(Heap(builder, LEGACY)).read_shared(make_shared(builder, scope))
    assert info is not None
    assert info.name == ("f" if named else "o.f")


def test_a_scope_info_of_another_function_is_refused() -> None:
    builder = HeapBuilder(LEGACY)
    slots = [smi(7), smi(0), smi(0), smi(0), smi(4), builder.string("o.f"), smi(6), smi(40)]
    first = OBJECTS.scope_info_first_slot
    fields = {first + 8 * index: slot for index, slot in enumerate(slots)}
    scope = builder.object(LEGACY.types.scope_info, 256, fields)
    assert FunctionReader(Heap(builder, LEGACY)).read_shared(make_shared(builder, scope)) is None


def test_only_newlines_end_lines_in_v8_3() -> None:
    text = "a\rb\r\nc\u2028d\n"
    wide = find_line_ends(text.encode("utf-16-le"), one_byte=False, only_newline=True)
    assert wide.tolist() == [4, 8, 9]
    assert find_line_ends(b"a\rb\nc", one_byte=True, only_newline=True).tolist() == [3, 5]


def test_markers_where_later_versions_have_them() -> None:
    decoder = FrameDecoder(replace(LAYOUT.frame, marker_scheme=MarkerScheme.SMI_AT_FUNCTION))
    stack = bytearray(96)

    def kind(context: int, function: int) -> str | None:
        struct.pack_into("<2Q", stack, 48, function, context)
        found = decoder.find_type(decoder.decode(bytes(stack), 64))
        return found.name if found is not None else None

    assert kind(0x1234_5679, 1 << 32) == "Entry"
    # An arguments adaptor has its function besides; an exit frame its code and stack pointer.
    assert kind(14 << 32, 0x1234_5679) == "Interpreted"
    assert kind(0x7FFF_1234_5678, 0x1234_5679) == "Exit"
    assert kind(0, 0x1234_5679) == "Exit"
    assert kind(0x1234_5679, 0x1234_5681) is None
    assert kind(0x1234_5679, 5) is None


def byte_array(builder: HeapBuilder, data: bytes) -> int:
    obj = builder.object(LEGACY.types.byte_array, 16 + len(data), {8: smi(len(data))})
    builder.write_bytes(obj - 1 + 16, data)
    return obj


class World:
    """A made-up heap with full-codegen and optimized code."""

    def __init__(self) -> None:
        self.builder = HeapBuilder(LEGACY)
        self.heap = Heap(self.builder, LEGACY)
        self.reader = CodeReader(self.heap, FunctionReader(self.heap))

    def code(self, kind: int, tables: int, deopt: int, instructions: bytes) -> int:
        builder = self.builder
        obj = builder.object(LEGACY.types.code, 64 + len(instructions), {8: tables, 16: deopt})
        builder.write_bytes(obj - 1 + 40, struct.pack("<II", len(instructions), kind))
        builder.write_bytes(obj - 1 + 64, instructions)
        return obj

    def full_codegen(self, table: list[tuple[int, int]], nodes: dict[int, int]) -> int:
        data = b""
        pc = position = 0
        for next_pc, next_position in table:
            data += bytes([next_pc - pc << 2 | 2, next_position - position << 2 & 255 | 1])
            pc, position = next_pc, next_position
        words = [word for node, at in nodes.items() for word in (smi(node), smi(at << 1 | 1))]
        deopt = self.builder.array(*words)
        return self.code(0, byte_array(self.builder, data[::-1]), deopt, bytes(100))

    def object(self, address: int) -> CodeObject:
        header = self.builder.read(address - 1, LEGACY.code.flags + 4)
        start = address - 1 + LEGACY.code.instruction_start
        mapping = Mapping(Address(0), Address(1 << 40), "rwxp", 0, 0, "")
        code = self.reader._make_code(address - 1, start, {address - 1: header}, start, mapping)
        assert code is not None
        return code


def test_full_codegen_tells_positions() -> None:
    world = World()
    shared = make_shared(world.builder, world.builder.string("f"))
    code = world.object(world.full_codegen([(8, 10), (20, 25)], {}))
    for offset, is_return, expected in ((7, False, None), (8, False, 10), (20, True, 10)):
        places = world.reader.positions(
            code, code.start + offset, is_return_address=is_return, shared=shared
        )
        assert [(place.shared, place.position) for place in places] == [(shared, expected)]


def test_optimized_code_tells_inlined_functions_where_calls_return_to() -> None:
    world = World()
    builder = world.builder
    inner_code = world.full_codegen([(8, 10), (20, 25)], {3: 21})
    outer_code = world.full_codegen([(4, 7), (30, 31)], {6: 34, 9: 35})
    inner = make_shared(builder, builder.string("inner"), code=inner_code)
    outer = make_shared(builder, builder.string("outer"), code=outer_code)

    def varints(*values: int) -> bytes:
        # Each fits into two bytes: 7 bits of (value << 1 | sign) above the bit that says "more".
        data = b""
        for value in values:
            bits = abs(value) << 1 | (value < 0)
            data += (
                bytes([(bits & 127) << 1 | (bits > 127)]) + bytes([bits >> 7 << 1])[: bits > 127]
            )
        return data

    stream = varints(0, 2, 2, 1, 6, SELF_LITERAL, 2, 2, 5, 1, 3, 0, 1, 2, 7)
    literals = builder.array(builder.function(inner))
    deopt = builder.array(byte_array(builder, stream), literals, smi(0), smi(0), smi(0), smi(0))
    # Safepoints behind 40 bytes of instructions: of the call that returns to 16, and of another.
    table = struct.pack("<6I", 2, 0, 16, 0, 24, 0xFFFFFF)
    optimized = world.code(1, 0, deopt, bytes(40) + table)
    builder.write_bytes(optimized - 1 + 48, struct.pack("<I", 40 << 1))
    code = world.object(optimized)

    def places(offset: int, *, is_return: bool) -> list[tuple[int, int | None]]:
        found = world.reader.positions(
            code, code.start + offset, is_return_address=is_return, shared=outer
        )
        return [(place.shared, place.position) for place in found]

    assert places(16, is_return=True) == [(inner, 25), (outer, 31)]
    assert places(24, is_return=True) == [(outer, None)]
    assert places(20, is_return=True) == [(outer, None)]
    assert places(16, is_return=False) == [(outer, None)]
    # The unoptimized code may be gone meanwhile.
    builder.set(inner, OBJECTS.sfi_code or 0, builder.undefined)
    code.lookups.clear()
    assert places(16, is_return=True) == [(inner, None), (outer, 31)]


def test_tables_that_do_not_fit_tell_nothing() -> None:
    world = World()
    shared = make_shared(world.builder, world.builder.string("f"))
    deopt = world.builder.array(smi(0), smi(0))
    optimized = world.code(1, 0, deopt, bytes(40))
    world.builder.write_bytes(optimized - 1 + 48, struct.pack("<I", 4000 << 1))
    code = world.object(optimized)
    places = world.reader.positions(code, code.start + 8, is_return_address=True, shared=shared)
    assert [(place.shared, place.position) for place in places] == [(shared, None)]


def test_a_layout_with_other_tables_has_no_legacy_reader() -> None:
    from jsspy.v8.legacy import LegacyCodeReader

    heap = Heap(HeapBuilder(LAYOUT), LAYOUT)
    with pytest.raises(ValueError, match="other tables"):
        LegacyCodeReader(heap, FunctionReader(heap), lambda _array, _offset: None)


@pytest.mark.parametrize("encoding", PositionEncoding)
def test_source_position_tables_serve_full_codegen_too(encoding: PositionEncoding) -> None:
    if encoding is not PositionEncoding.ZIGZAG_PLAIN:
        return
    world = World()
    legacy = replace(LEGACY.code.legacy, relocation_encoding=None) if LEGACY.code.legacy else None
    layout = replace(LEGACY, code=replace(LEGACY.code, legacy=legacy, position_encoding=encoding))
    heap = Heap(world.builder, layout)
    reader = CodeReader(heap, FunctionReader(heap))
    # Zig-zag: (offset 8, position 10), then (12 more, 15 more).
    table = byte_array(world.builder, bytes([16, 20, 24, 30]))
    code = world.object(world.code(0, table, world.builder.array(), bytes(64)))
    places = reader.positions(code, code.start + 20, is_return_address=False, shared=1)
    assert [place.position for place in places] == [25]


def test_malformed_positions_are_none() -> None:
    world = World()
    code = world.object(world.code(0, world.builder.undefined, 0, bytes(64)))
    places = world.reader.positions(code, code.start + 20, is_return_address=False, shared=1)
    assert [place.position for place in places] == [None]
    with pytest.raises(MalformedData):
        world.heap.read_byte_array(world.builder.array(smi(1) + (1 << 63)), cap=0)
