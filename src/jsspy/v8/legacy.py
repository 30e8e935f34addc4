"""Where code of V8 before 7.1 (Node 0.10 to 11) is executing: positions and inlined functions.

Code that was made for one function alone has positions by code offset:

    full-codegen, V8 before 5.4   relocation info: a list that is written, and read, backwards,
                                  among whose records are positions in the script
    full-codegen, V8 5.4 to 5.8   a source position table, as bytecode has it

Optimized code (Crankshaft, early TurboFan) may hold the code of several functions. What it says of
itself is meant for the deoptimizer, which has to rebuild the frames of all of them where a call
returns to code that is not valid any more:

    return address ─► safepoint ─► deoptimization entry ─► translation: one record per function,
                                                           outermost first, with its
                                                           SharedFunctionInfo (or JSFunction) and
                                                           the place of the call in it

The place is a bytecode offset where the function has bytecode. In Crankshaft it is the id of a
node of the syntax tree, which the function's full-codegen code knows: its own deoptimization data
map ids to code offsets, and its relocation info maps those to positions.

So the answer is exact for a return address. Between calls nothing is known but the outermost
function; V8's own profilers of that time knew no more.

Source: src/assembler.cc (RelocIterator), src/safepoint-table.h and src/deoptimizer.cc
(TranslationIterator, Translation::NumberOfOperandsFor) at 3.14.5, 3.28.71, 4.5.103, 5.1.281,
6.2.414 and 6.8.275; checked on live processes of Node 0.10 to 11.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from jsspy.errors import FaultError, MalformedData
from jsspy.model.units import Address
from jsspy.v8.heap import smi_value
from jsspy.v8.layout import CodeKind, LegacyCodeLayout, RelocationEncoding
from jsspy.v8.positions import MAX_TABLE_SIZE, OffsetTable, decode_positions, script_offset

if TYPE_CHECKING:
    from jsspy.v8.code import CodeObject
    from jsspy.v8.function import FunctionReader
    from jsspy.v8.heap import Heap

MAX_SAFEPOINTS = 1 << 16
"""Calls in one piece of code: at 5 bytes each, more than code of the largest size holds."""

_MAX_FRAMES = 256
"""Frames of one translation: V8 inlines some levels deep, with stub frames between."""

_MAX_DEOPT_WORDS = 1 << 18
_MAX_UNOPTIMIZED = 1 << 12
"""Functions whose unoptimized code is remembered."""

_NO_DEOPTIMIZATION = 0xFFFFFF
"""Deoptimization index of a safepoint that has none; the index has 24 bits."""

_TRAMPOLINE_AT = 8
_NO_TRAMPOLINE = 0xFFFFFFFF
"""Where a safepoint has the offset of its trampoline, and what is there if it has none."""

SELF_LITERAL = -239
"""Stands for the frame's own JSFunction. Source: Translation::kSelfLiteralId at 3.14.5."""

_MAX_VARINT_SHIFT = 35

# Records of relocation info; the low bits of the first byte tell them apart. Source: the comment
# "Relocation information is written backwards in memory" in src/assembler.cc at 3.14.5 and 5.1.281.
_LONG_RECORD, _SHORT_DATA_RECORD = 3, 2
_POSITION_TAGS = (1, 2)
_EXTRA_PC_JUMP, _EXTRA_DATA, _EXTRA_POOL = 15, 14, 13


class _Modes(NamedTuple):
    """Numbers of RelocInfo::Mode that tell how a record goes on."""

    comment: int
    positions: tuple[int, int]
    with_int: tuple[int, ...]
    """Target with id, constant pool, veneer pool."""
    pc_jump: int


_MODES = {
    RelocationEncoding.MODES: _Modes(7, (8, 9), (1, 18, 19), 21),
    RelocationEncoding.MODES_OF_5_0: _Modes(6, (7, 8), (1, 16, 17), 19),
}
"""Source: src/assembler.h at 5.0.71 and 5.1.281, RelocInfo::Mode, by RelocModeName as compiled in
4.6.85, 5.0.71 and 5.1.281."""


class TranslatedFrame(NamedTuple):
    """A JavaScript frame of a translation."""

    literal: int
    """Index in the literal array of its SharedFunctionInfo or JSFunction, or `SELF_LITERAL`."""
    place: int
    """Bytecode offset, or the id of a syntax tree node."""
    has_bytecode: bool


class _Backwards:
    """Reads bytes from the end to the beginning."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = len(data)

    def byte(self) -> int:
        if self.at == 0:
            raise MalformedData("relocation info", "ends within a record")
        self.at -= 1
        return self.data[self.at]

    def integer(self, size: int) -> int:
        """Return a signed number whose lowest byte comes first."""
        return int.from_bytes(bytes(self.byte() for _ in range(size)), "little", signed=True)

    def jump(self) -> int:
        """Return a variable-length distance: 7 bits per byte, lowest first, bit 0 ends it."""
        value = shift = 0
        while True:
            byte = self.byte()
            value |= byte >> 1 << shift
            if byte & 1:
                return value << 6
            shift += 7
            if shift > _MAX_VARINT_SHIFT:
                raise MalformedData("relocation info", "a distance is too long")


def decode_relocation(data: bytes, encoding: RelocationEncoding, code_size: int) -> OffsetTable:
    """Decode the positions in the relocation info of full-codegen code.

    Args:
        data: The ByteArray's payload.
        encoding: Which of V8's encodings it has.
        code_size: Bytes of instructions: what no offset may exceed.

    Returns:
        Code offset -> offset in the script. Where several positions have the same code offset, the
        largest one holds, as it does for V8 (Code::SourcePosition).

    Raises:
        MalformedData: It ends within a record, or an offset lies outside of the code.
    """
    reader = _Backwards(data)
    pc = position = 0
    table: dict[int, int] = {}
    while reader.at:
        head = reader.byte()
        tag = head & 3
        if tag == _SHORT_DATA_RECORD:
            pc += head >> 2
            short = reader.integer(1)
            delta = short >> 2 if short & 3 in _POSITION_TAGS else None
        elif tag != _LONG_RECORD:
            pc += head >> 2
            delta = None
        elif encoding is RelocationEncoding.SHORT_TAGS:
            distance, delta = _read_short_tagged(reader, head >> 2)
            pc += distance
        else:
            distance, delta = _read_mode(reader, head >> 2, _MODES[encoding])
            pc += distance
        if pc > code_size:
            raise MalformedData("relocation info", "it goes beyond the code")
        if delta is not None:
            position += delta
            table[pc] = max(position, table.get(pc, position))
    return OffsetTable(list(table), list(table.values()))


def _read_short_tagged(reader: _Backwards, bits: int) -> tuple[int, int | None]:
    """Read a long record of V8 before 4.6; return its distance, and the delta of a position."""
    extra, top = bits & 15, bits >> 4
    if extra == _EXTRA_PC_JUMP and top == 1:
        return reader.jump(), None
    if extra == _EXTRA_DATA:
        if top in _POSITION_TAGS:
            return 0, reader.integer(4)
        reader.integer(8 if top == 3 else 4)
        return 0, None
    if extra == _EXTRA_POOL:
        reader.integer(4)
        return 0, None
    return reader.byte(), None


def _read_mode(reader: _Backwards, mode: int, modes: _Modes) -> tuple[int, int | None]:
    """Read a long record of V8 4.6 to 5.3; return its distance, and the delta of a position."""
    if mode == modes.pc_jump:
        return reader.jump(), None
    distance = reader.byte()
    if mode in modes.positions:
        return distance, reader.integer(4)
    if mode == modes.comment:
        reader.integer(8)
    elif mode in modes.with_int:
        reader.integer(4)
    return distance, None


def decode_safepoints(data: bytes, entry_size: int) -> dict[int, int]:
    """Decode the entries of a safepoint table.

    Args:
        data: The entries, without the two numbers in front of them.
        entry_size: Bytes of one.

    Returns:
        Offset of a return address -> index of the deoptimization entry. Calls that cannot
        deoptimize are left out. Where a frame is to be deoptimized as soon as it is returned to, V8
        puts the address of a trampoline in place of the return address: it is of the same entry.
        Source: `ActivationsFinder::VisitThread` in src/deoptimizer.cc at 6.8.
    """
    result: dict[int, int] = {}
    for at in range(0, len(data) - entry_size + 1, entry_size):
        pc, info = struct.unpack_from("<II", data, at)
        index = info & _NO_DEOPTIMIZATION
        if index != _NO_DEOPTIMIZATION:
            result[pc] = index
            if entry_size > _TRAMPOLINE_AT:
                (trampoline,) = struct.unpack_from("<I", data, at + _TRAMPOLINE_AT)
                if trampoline != _NO_TRAMPOLINE:
                    result[trampoline] = index
    return result


def decode_translation(
    data: bytes, start: int, opcodes: tuple[tuple[str, int], ...]
) -> list[TranslatedFrame]:
    """Decode the JavaScript frames of a translation.

    Args:
        data: All translations of the code.
        start: Where this one begins.
        opcodes: Name and number of operands, by opcode.

    Returns:
        Outermost first.

    Raises:
        MalformedData: It has an unknown opcode, ends early, or has not the frames it announces.
    """
    at = start
    end = len(data)

    def number() -> int:
        """Read a varint: bit 0 of a byte says that there are more, bit 0 of the whole is a sign."""
        nonlocal at
        value = shift = 0
        while True:
            if not 0 <= at < end:
                raise MalformedData("translation", "it is cut off")
            byte = data[at]
            at += 1
            value |= byte >> 1 << shift
            if not byte & 1:
                return -(value >> 1) if value & 1 else value >> 1
            shift += 7
            if shift > _MAX_VARINT_SHIFT:
                raise MalformedData("translation", "a number is too long")

    if number() != 0:
        raise MalformedData("translation", "it does not begin here")
    counts = [number() for _ in range(opcodes[0][1])]
    left, js_frames = counts[:2]
    if not 0 < left <= _MAX_FRAMES:
        raise MalformedData("translation", f"{left} frames")
    frames: list[TranslatedFrame] = []
    while left:
        opcode = number()
        if not 0 < opcode < len(opcodes):
            raise MalformedData("translation", f"unknown opcode {opcode}")
        name, count = opcodes[opcode]
        operands = [number() for _ in range(count)]
        if not name.endswith("_FRAME"):
            continue
        left -= 1
        if name in _JS_FRAMES:
            frames.append(TranslatedFrame(operands[1], operands[0], name != "JS_FRAME"))
    if len(frames) != js_frames:
        raise MalformedData("translation", f"{len(frames)} frames instead of {js_frames}")
    return frames


_JS_FRAMES = frozenset(
    {
        "JS_FRAME",
        "INTERPRETED_FRAME",
        "JAVA_SCRIPT_BUILTIN_CONTINUATION_FRAME",
        "JAVA_SCRIPT_BUILTIN_CONTINUATION_WITH_CATCH_FRAME",
    }
)


def decode_node_offsets(words: tuple[int, ...]) -> dict[int, int]:
    """Decode the deoptimization data of full-codegen code.

    Args:
        words: Of the FixedArray: pairs of Smis.

    Returns:
        Id of a syntax tree node -> code offset behind it.

    Source: DeoptimizationOutputData in src/objects.h and FullCodeGenerator::PcField (above the one
    bit of the state) in src/full-codegen.h, at 3.14.5 and 5.1.281.
    """
    return {words[at] >> 32: words[at + 1] >> 33 & 0x7FFFFFFF for at in range(0, len(words) - 1, 2)}


@dataclass(slots=True)
class LegacyTables:
    """What a piece of code says of itself; None is what has not been read yet."""

    positions: OffsetTable | None = None
    """Code offset -> offset in the script."""
    node_offsets: dict[int, int] | None = None
    safepoints: dict[int, int] | None = None
    entries: tuple[int, ...] = ()
    """Words of the deoptimization data."""
    translations: bytes = b""
    own: int | None = None
    """SharedFunctionInfo of the code's own function; 0 where it does not say."""


class Place(NamedTuple):
    """A function that is executing, and where."""

    shared: int
    """SharedFunctionInfo."""
    position: int | None
    """Offset in the script; None if not known."""


class LegacyCodeReader:
    """Reads the tables of one V8's code. Code objects keep what was read (`CodeObject.legacy`)."""

    def __init__(
        self,
        heap: Heap,
        functions: FunctionReader,
        bytecode_position: Callable[[int, int], int | None],
    ) -> None:
        layout = heap.layout.code
        if layout.legacy is None:
            raise ValueError("this V8 has other tables")
        self._heap = heap
        self._functions = functions
        self._bytecode_position = bytecode_position
        self._code = layout
        self._layout = layout.legacy
        self._unoptimized: dict[int, tuple[bytes, LegacyTables]] = {}

    def position(self, code: CodeObject, offset: int) -> int | None:
        """Return where in the script full-codegen code is at an offset; None if it does not say.

        Raises:
            FaultError: Its table cannot be read.
            MalformedData: Its table does not make sense.
        """
        tables = _tables(code)
        if tables.positions is None:
            tables.positions = self._read_positions(code.position_table, code.size)
        return tables.positions.find(offset)

    def own_function(self, code: CodeObject) -> int:
        """Return the SharedFunctionInfo that optimized code was made of; 0 if it does not say.

        Raises:
            FaultError: Its deoptimization data cannot be read.
            MalformedData: They do not make sense.
        """
        index = self._code.deopt_shared_function_info
        tables = _tables(code)
        if tables.own is None:
            tables.own = 0
            entries = self._read_entries(code)
            if 0 <= index < len(entries):
                word = entries[index]
                types = self._heap.layout.types
                if self._heap.instance_type(word) != types.shared_function_info:
                    raise MalformedData("deoptimization data", f"{word:#x} is not a function")
                slots = code.deoptimization_data - 1 + self._heap.layout.objects.fixed_array_data
                code.guards[slots + 8 * index] = word.to_bytes(8, "little")
                tables.own = word
        return tables.own

    def inlined(self, code: CodeObject, offset: int, shared: int) -> list[Place]:
        """Return the functions that are in a call which returns to optimized code.

        Args:
            code: Optimized code.
            offset: Of the return address.
            shared: SharedFunctionInfo of the frame's function; 0 if not known.

        Returns:
            Innermost first; the last one is the frame's function.

        Raises:
            FaultError: A table cannot be read.
            MalformedData: A table does not make sense.
        """
        own = self.own_function(code) or shared
        tables = _tables(code)
        if tables.safepoints is None:
            tables.safepoints = self._read_safepoints(code)
        index = tables.safepoints.get(offset)
        if index is None or not tables.entries:
            return [Place(own, None)]
        at = self._code.deopt_first_entry + self._layout.deopt_entry_size * index + 1
        if at >= len(tables.entries):
            raise MalformedData("deoptimization data", f"no entry {index}")
        if not tables.translations:
            tables.translations = self._heap.read_byte_array(
                tables.entries[self._layout.deopt_translations], MAX_TABLE_SIZE
            )
        start = smi_value(tables.entries[at])
        frames = decode_translation(tables.translations, start, self._layout.opcodes)
        places = [self._place(code, frame, own) for frame in reversed(frames)]
        if not places:
            return [Place(own, None)]
        return places

    def _place(self, code: CodeObject, frame: TranslatedFrame, own: int) -> Place:
        shared = own
        if frame.literal != SELF_LITERAL:
            shared = self._read_literal(code, frame.literal)
        if not frame.has_bytecode:
            return Place(shared, self._node_position(shared, frame.place))
        function = self._functions.read_shared(shared)
        if function is None or function.bytecode_array is None:
            return Place(shared, None)
        return Place(shared, self._bytecode_position(function.bytecode_array, frame.place))

    def _read_literal(self, code: CodeObject, index: int) -> int:
        """Return the SharedFunctionInfo that a literal is or, being a JSFunction, has."""
        heap = self._heap
        objects, types = heap.layout.objects, heap.layout.types
        array = _tables(code).entries[self._code.deopt_literal_array]
        count = smi_value(heap.read_field(array, objects.fixed_array_length))
        if not 0 <= index < count:
            raise MalformedData("deoptimization data", f"no literal {index}")
        address = array - 1 + objects.fixed_array_data + 8 * index
        word = heap.read_word(address)
        code.guards[address] = word.to_bytes(8, "little")
        if heap.is_js_function(word):
            word = heap.read_field(word, objects.js_function_shared)
        if heap.instance_type(word) != types.shared_function_info:
            raise MalformedData("deoptimization data", f"literal {index} is not a function")
        return word

    def _node_position(self, shared: int, node: int) -> int | None:
        """Return where in the script a node of the syntax tree is, as a call returns to it.

        The function's full-codegen code knows; if that is gone, or was made anew since and numbers
        its nodes in another way, nothing does.
        """
        slot = self._heap.layout.objects.sfi_code
        if slot is None:
            return None
        try:
            tables = self._read_unoptimized(self._heap.read_field(shared, slot))
        except (FaultError, MalformedData):
            return None
        if tables.node_offsets is None or tables.positions is None:
            return None
        offset = tables.node_offsets.get(node)
        return None if offset is None else tables.positions.find(offset - 1)

    def _read_unoptimized(self, word: int) -> LegacyTables:
        heap, layout = self._heap, self._code
        header = heap.memory.read(Address(word - 1), layout.flags + 4)
        known = self._unoptimized.get(word)
        if known is not None and known[0] == header:
            return known[1]
        if heap.map_type(_word(header, 0)) != heap.layout.types.code:
            raise MalformedData("function", "its code is something else")
        flags = int.from_bytes(header[layout.flags : layout.flags + 4], "little")
        kind = layout.kinds.get(flags >> layout.kind_shift & layout.kind_mask)
        if kind is not CodeKind.FULL_CODEGEN:
            raise MalformedData("function", "its code is not full-codegen code")
        size = int.from_bytes(
            header[layout.instruction_size : layout.instruction_size + 4], "little"
        )
        data = _word(header, layout.deoptimization_data)
        tables = LegacyTables(
            self._read_positions(_word(header, layout.position_table), size),
            decode_node_offsets(heap.read_fixed_array(data, _MAX_DEOPT_WORDS)),
        )
        if len(self._unoptimized) >= _MAX_UNOPTIMIZED:
            self._unoptimized.clear()
        self._unoptimized[word] = header, tables
        return tables

    def _read_positions(self, array: int, code_size: int) -> OffsetTable:
        data = self._heap.read_byte_array(array, MAX_TABLE_SIZE)
        encoding = self._layout.relocation_encoding
        if encoding is not None:
            return decode_relocation(data, encoding, code_size)
        offsets, values = decode_positions(data, self._code.position_encoding)
        places = [script_offset(value) for value in values]
        return OffsetTable(offsets, [-1 if place is None else place for place in places])

    def _read_entries(self, code: CodeObject) -> tuple[int, ...]:
        """Return the words of the deoptimization data; none where code cannot deoptimize."""
        tables = _tables(code)
        if not tables.entries:
            data = code.deoptimization_data
            if self._heap.instance_type(data) != self._heap.layout.types.fixed_array:
                raise MalformedData("deoptimization data", f"{data:#x}")
            tables.entries = self._heap.read_fixed_array(data, _MAX_DEOPT_WORDS)
        return tables.entries

    def _read_safepoints(self, code: CodeObject) -> dict[int, int]:
        layout, memory = self._layout, self._heap.memory
        self._read_entries(code)
        field = memory.read(Address(code.address + layout.safepoint_table_offset), 4)
        start = safepoint_table_start(int.from_bytes(field, "little"), layout)
        if not 0 < start < code.size:
            raise MalformedData("safepoint table", f"{start} bytes from the start")
        (count,) = struct.unpack("<I", memory.read(Address(code.start + start), 4))
        size = count * layout.safepoint_entry_size
        if count > MAX_SAFEPOINTS or start + 8 + size > code.size:
            raise MalformedData("safepoint table", f"{count} entries")
        data = memory.read(Address(code.start + start + 8), size)
        return decode_safepoints(data, layout.safepoint_entry_size)


def _tables(code: CodeObject) -> LegacyTables:
    if code.legacy is None:
        code.legacy = LegacyTables()
    return code.legacy


def _word(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 8], "little")


def safepoint_table_start(word: int, layout: LegacyCodeLayout) -> int:
    """Return where a safepoint table is, from the first instruction on, by the word in Code."""
    return word >> layout.safepoint_table_shift & (1 << layout.safepoint_table_bits) - 1
