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
from dataclasses import dataclass
from typing import NamedTuple

from jsspy.errors import MalformedData
from jsspy.v8.layout import LegacyCodeLayout, RelocationEncoding
from jsspy.v8.positions import OffsetTable

MAX_SAFEPOINTS = 1 << 16
"""Calls in one piece of code: at 5 bytes each, more than code of the largest size holds."""

_MAX_FRAMES = 256
"""Frames of one translation: V8 inlines some levels deep, with stub frames between."""

_NO_DEOPTIMIZATION = 0xFFFFFF
"""Deoptimization index of a safepoint that has none; the index has 24 bits."""

SELF_LITERAL = -239
"""Stands for the frame's own JSFunction. Source: Translation::kSelfLiteralId at 3.14.5."""

_MAX_VARINT_SHIFT = 35

# Records of relocation info; the low bits of the first byte tell them apart. Source: the comment
# "Relocation information is written backwards in memory" in src/assembler.cc at 3.14.5 and 5.1.281.
_LONG_RECORD, _SHORT_DATA_RECORD = 3, 2
_POSITION_TAGS = (1, 2)
_EXTRA_PC_JUMP, _EXTRA_DATA, _EXTRA_POOL = 15, 14, 13
_MODE_PC_JUMP = 21
_MODES_OF_POSITIONS = (8, 9)
_MODE_COMMENT = 7
_MODES_WITH_INT = (1, 18, 19)


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
            distance, delta = _read_mode(reader, head >> 2)
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


def _read_mode(reader: _Backwards, mode: int) -> tuple[int, int | None]:
    """Read a long record of V8 4.6 to 5.3; return its distance, and the delta of a position."""
    if mode == _MODE_PC_JUMP:
        return reader.jump(), None
    distance = reader.byte()
    if mode in _MODES_OF_POSITIONS:
        return distance, reader.integer(4)
    if mode == _MODE_COMMENT:
        reader.integer(8)
    elif mode in _MODES_WITH_INT:
        reader.integer(4)
    return distance, None


def decode_safepoints(data: bytes, entry_size: int) -> dict[int, int]:
    """Decode the entries of a safepoint table.

    Args:
        data: The entries, without the two numbers in front of them.
        entry_size: Bytes of one.

    Returns:
        Offset of a return address -> index of the deoptimization entry. Calls that cannot
        deoptimize are left out.
    """
    result = {}
    for at in range(0, len(data) - entry_size + 1, entry_size):
        pc, info = struct.unpack_from("<II", data, at)
        index = info & _NO_DEOPTIMIZATION
        if index != _NO_DEOPTIMIZATION:
            result[pc] = index
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
    """What a piece of code says of itself, read once."""

    positions: OffsetTable | None = None
    """Full-codegen: code offset -> offset in the script."""
    node_offsets: dict[int, int] | None = None
    safepoints: dict[int, int] | None = None
    entries: tuple[int, ...] = ()
    """Words of the deoptimization data."""
    translations: bytes = b""


def safepoint_table_start(word: int, layout: LegacyCodeLayout) -> int:
    """Return where a safepoint table is, from the first instruction on, by the word in Code."""
    return word >> layout.safepoint_table_shift & (1 << layout.safepoint_table_bits) - 1
