"""Decode the tables that map code and bytecode offsets to places in a script. Pure: bytes in.

Three tables exist. A *source position table* (of a BytecodeArray or of optimized code) maps
offsets to `SourcePosition` words. A *baseline table* maps machine code offsets to bytecode offsets.
Both become an `OffsetTable`: two parallel lists, searched by bisection. The third kind, frame
translations of the deoptimizer, is in `jsspy.v8.deopt`.

A return address belongs to the instruction before it: callers look up `offset - 1`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from jsspy.errors import MalformedData
from jsspy.v8.layout import PositionEncoding

MAX_TABLE_SIZE = 4 << 20
"""Bytes; no function comes near: a 1 MiB function body has a table of about 100 KiB."""

_MAX_VARINT_SHIFT = 63
"""V8 encodes at most 64-bit values, 7 bits per byte."""

_MAX_INLINING_DEPTH = 64
"""Guards against cycles; V8 stops at 50 (kMaxDepthForInlining in src/compiler/js-inlining.cc, the
same in five versions of the file, from FLAG_trace_turbo_inlining to today)."""

_FROM_0 = frozenset(
    {
        PositionEncoding.ZIGZAG_FROM_0,
        PositionEncoding.ZIGZAG_NO_EXTERNAL_BIT,
        PositionEncoding.ZIGZAG_PLAIN,
    }
)

PROLOGUE = -1
"""Bytecode offset of baseline code that runs before the first bytecode: kFunctionEntry."""


class OffsetTable(NamedTuple):
    """Values that hold from one offset to the next; `offsets` ascends."""

    offsets: Sequence[int]
    values: Sequence[int]

    def packed(self) -> OffsetTable:
        """Return the same in a fifth of the memory, to be kept.

        Raises:
            MalformedData: A number has more than 64 bits.
        """
        try:
            return OffsetTable(array("q", self.offsets), array("q", self.values))
        except OverflowError as err:
            raise MalformedData("position table", "a number of more than 64 bits") from err

    def find(self, offset: int) -> int | None:
        """Return the value of the last entry at or before `offset`."""
        index = bisect_right(self.offsets, offset) - 1
        return self.values[index] if index >= 0 else None


class InliningPosition(NamedTuple):
    """One inlined call: where it is, and which literal is the function that was called."""

    position: int
    """SourcePosition of the call, in the caller (which may be inlined, too)."""
    function: int
    """Index in the literal array of the deoptimization data; -1 is the code's own function."""


class InlinedOffset(NamedTuple):
    """A place in one of the functions that a code object holds."""

    function: int
    """As in `InliningPosition`."""
    position: int | None
    """Offset in the script, in UTF-16 units; None if V8 did not record one."""


def decode_varint(data: bytes, at: int) -> tuple[int, int]:
    """Decode an unsigned little-endian base-128 number at `at`; return it and where it ends.

    Raises:
        MalformedData: It is cut off or longer than 64 bits.

    Source: v8/src/base/vlq.h, VLQDecodeUnsigned, at 11.3.244.
    """
    value = shift = 0
    end = len(data)
    while at < end:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > _MAX_VARINT_SHIFT:
            raise MalformedData("varint", "longer than 64 bits")
    raise MalformedData("varint", "cut off")


def decode_varints(data: bytes) -> list[int]:
    """Decode all of `data` as unsigned varints.

    Raises:
        MalformedData: One is cut off or longer than 64 bits, or `data` is above `MAX_TABLE_SIZE`.
    """
    if len(data) > MAX_TABLE_SIZE:
        raise MalformedData("position table", f"{len(data)} bytes long")
    values: list[int] = []
    append = values.append
    value = shift = 0
    for byte in data:
        if byte < 0x80:
            append(value | byte << shift if shift else byte)
            value = shift = 0
        else:
            value |= (byte & 0x7F) << shift
            shift += 7
            if shift > _MAX_VARINT_SHIFT:
                raise MalformedData("varint", "longer than 64 bits")
    if shift:
        raise MalformedData("varint", "cut off")
    return values


def decode_positions(table: bytes, encoding: PositionEncoding) -> OffsetTable:
    """Decode a source position table.

    Args:
        table: The ByteArray's payload, without its header.
        encoding: Which of V8's encodings it has.

    Returns:
        Offset in bytes -> raw SourcePosition (see `script_offset` and `inlining_id`).

    Raises:
        MalformedData: A varint is cut off or too long, or the table ends within an entry.

    Every entry is (offset delta, position delta), the latter zig-zag. Offsets cannot go backwards:
    the sign of a zig-zag offset delta is a flag ("is a statement"), v < 0 meaning -(v + 1).

    Values of V8 before 7 are given as later ones would be.

    Source: v8/src/codegen/source-position-table.cc, DecodeEntry, at 7.8.279, 11.3.244, 14.6.202;
    v8/src/source-position.h at 6.2.414 and v8/src/source-position-table.cc at 5.5.372.
    """
    numbers = decode_varints(table)
    if len(numbers) & 1:
        raise MalformedData("position table", "ends within an entry")
    # Before V8 8.0 the offsets of a table begin at 0; later at kFunctionEntryBytecodeOffset.
    offset = 0 if encoding in _FROM_0 else -1
    # Zig-zag n is delta n >> 1 whether it is positive, n = 2v, or flagged, n = 2(v + 1) - 1.
    shift = 2 if encoding is PositionEncoding.UNSIGNED_FLAGS else 1
    position = 0
    offsets: list[int] = []
    values: list[int] = []
    for index in range(0, len(numbers), 2):
        offset += numbers[index] >> shift
        delta = numbers[index + 1]
        position += (delta >> 1) ^ -(delta & 1)
        offsets.append(offset)
        values.append(position)
    if encoding is PositionEncoding.ZIGZAG_NO_EXTERNAL_BIT:
        values = [value << 1 for value in values]
    elif encoding is PositionEncoding.ZIGZAG_PLAIN:
        values = [value + 1 << 1 for value in values]
    return OffsetTable(offsets, values)


def script_offset(position: int) -> int | None:
    """Return the script offset of a raw SourcePosition; None if it has none in a script.

    Bit 0: a position in V8's own C++ sources. Bits 1-30: script offset + 1. Bits 31-46: inlining
    id. Source: v8/src/codegen/source-position.h, at 7.8.279 and 14.6.202.
    """
    if position & 1:
        return None
    offset = (position >> 1) & 0x3FFFFFFF
    return offset - 1 if offset else None


def inlining_id(position: int) -> int:
    """Return the inlining id of a raw SourcePosition: 0, or 1 + index in InliningPositions."""
    return (position >> 31) & 0xFFFF


def decode_inlining_positions(data: bytes) -> list[InliningPosition]:
    """Decode a PodArray<InliningPosition>; a rest of less than 16 bytes is ignored.

    Source: v8/src/codegen/source-position.h, InliningPosition (int64 + int, padded to 16 bytes),
    at 11.3.244.
    """
    return [
        InliningPosition(
            int.from_bytes(data[at : at + 8], "little"),
            int.from_bytes(data[at + 8 : at + 12], "little", signed=True),
        )
        for at in range(0, len(data) - 15, 16)
    ]


def expand_inlining(position: int, inlined: list[InliningPosition]) -> list[InlinedOffset]:
    """Follow a raw SourcePosition out through the calls it was inlined from.

    Returns:
        Innermost function first; the last one is the code's own function.

    Raises:
        MalformedData: An inlining id has no entry, or the chain does not end.
    """
    result: list[InlinedOffset] = []
    for _ in range(_MAX_INLINING_DEPTH):
        inlining = inlining_id(position)
        if inlining == 0:
            result.append(InlinedOffset(-1, script_offset(position)))
            return result
        if inlining > len(inlined):
            raise MalformedData("inlining positions", f"no entry {inlining}")
        call = inlined[inlining - 1]
        result.append(InlinedOffset(call.function, script_offset(position)))
        position = call.position
    raise MalformedData("inlining positions", "chain does not end")


def decode_baseline_offsets(table: bytes, bytecodes: bytes, sizes: bytes) -> OffsetTable:
    """Decode the table of baseline (Sparkplug) code.

    Args:
        table: One unsigned varint per piece of code, its length in bytes. The first piece is the
            prologue; every further one is the next bytecode.
        bytecodes: The function's bytecodes, without header.
        sizes: kBytecodeSizes: the size of each bytecode at operand scales 1, 2, 4.

    Returns:
        Code offset -> bytecode offset, `PROLOGUE` first.

    Raises:
        MalformedData: A varint is cut off, a bytecode is unknown, or there are more pieces than
            bytecodes.

    Source: v8/src/baseline/bytecode-offset-iterator.h and v8/src/interpreter/bytecodes.h
    (kBytecodeSizes; Wide, ExtraWide and their debug-break twins are bytecodes 0-3), at 11.3.244.
    """
    count = len(sizes) // 3
    scaled = {0: count, 1: 2 * count, 2: count, 3: 2 * count}
    code_offset = bytecode_offset = 0
    end = len(bytecodes)
    offsets: list[int] = [0]
    values: list[int] = [PROLOGUE]
    for index, length in enumerate(decode_varints(table)):
        code_offset += length
        if index:
            opcode = bytecodes[bytecode_offset]
            base = scaled.get(opcode)
            if base is None:
                base, size = 0, 0
            else:
                if bytecode_offset + 1 >= end:
                    raise MalformedData("bytecodes", "prefix at the end")
                opcode, size = bytecodes[bytecode_offset + 1], 1
            if opcode >= count or not sizes[base + opcode]:
                raise MalformedData("bytecodes", f"unknown bytecode {opcode}")
            bytecode_offset += size + sizes[base + opcode]
        if bytecode_offset >= end:
            # What the last piece ends is the code of the last bytecode.
            break
        offsets.append(code_offset)
        values.append(bytecode_offset)
    return OffsetTable(offsets, values)
