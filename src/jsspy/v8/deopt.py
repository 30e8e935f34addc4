"""Decode what V8's deoptimizer needs to rebuild interpreter frames: function and bytecode offset.

The position table of Maglev code is of little use: in V8 13 it is empty, and in V8 14 the peeled
copy of a loop body, the one that runs from the second round on, has the position of the loop's end
throughout. But optimized code always says exactly where it is, because it must be able to
deoptimize there. Three tables are joined:

    return address --safepoint table--> deopt index
    deopt index --deoptimization data--> translation index
    translation index --frame translation--> (function literal, bytecode offset) of each frame

A pc between two calls has no safepoint, but Maglev guards what it assumes with conditional jumps to
deopt exits, and each exit belongs to one deopt index: the last guard or call before the pc tells
where the code is. So for a top pc the place is that of the last check, never later than the truth.
And a guard takes execution back to the last place behind which nothing was written: in a loop that
only computes, every guard leads to the head of the loop, and no table knows more.

Pure: bytes in, values out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from jsspy.errors import MalformedData
from jsspy.v8.positions import OffsetTable, decode_varint

MAX_SAFEPOINTS = 1 << 16
"""A code object has one per call; V8 gives up on functions long before."""

SAFEPOINT_HEADER_SIZE = 16

_JUMP = re.compile(rb"\x0f[\x80-\x8f]|\xe9")
"""jcc rel32 or jmp rel32; what merely looks like one has no deopt exit as target."""


class TranslationOpcodes(NamedTuple):
    """The opcodes of a frame translation that matter here."""

    operand_counts: tuple[int, ...]
    begin: int
    """BEGIN_WITHOUT_FEEDBACK; BEGIN_WITH_FEEDBACK follows it."""
    frame: int
    """INTERPRETED_FRAME_WITH_RETURN; WITHOUT_RETURN and the two JavaScript builtin
    continuations follow it."""


class TranslatedFrame(NamedTuple):
    """One JS frame that a deoptimization would build."""

    literal: int
    """Index of the SharedFunctionInfo in the literal array."""
    bytecode_offset: int | None
    """None for the continuation of a builtin (`Array.prototype.map` ...)."""


class SafepointHeader(NamedTuple):
    """How the entries of a Maglev safepoint table are packed."""

    entry_count: int
    pc_size: int
    deopt_index_size: int
    """0 if the code has no deoptimization data."""
    entry_size: int

    @property
    def table_size(self) -> int:
        """Bytes of the table without its header."""
        return self.entry_count * self.entry_size


def find_opcodes(operand_counts: tuple[int, ...]) -> TranslationOpcodes | None:
    """Tell the roles of translation opcodes by their operand counts.

    The numbers of the opcodes change with every V8; their neighbourhood does not, from 11.3 to
    14.6: BEGIN_WITHOUT_FEEDBACK, BEGIN_WITH_FEEDBACK (3, 3) follow an opcode without operands
    (ARGUMENTS_LENGTH or REST_LENGTH), and INTERPRETED_FRAME_WITH_RETURN has the most operands of
    all. The last opcode is MATCH_PREVIOUS_TRANSLATION (1).

    Source: v8/src/deoptimizer/translation-opcode.h, at 11.3.244, 12.4.254 and 13.6.233.
    """
    counts = operand_counts
    if not 8 <= len(counts) <= 128 or counts[-1] != 1 or not all(0 <= n <= 8 for n in counts):
        return None
    begins = [i for i in range(1, len(counts) - 1) if counts[i - 1 : i + 2] == (0, 3, 3)]
    most = max(counts)
    frames = [i for i in range(len(counts) - 3) if counts[i] == most]
    if len(begins) != 1 or len(frames) != 1 or most < 5:
        return None
    frame = frames[0]
    if counts[frame + 1 : frame + 4] != (most - 2, 3, 3):
        return None
    return TranslationOpcodes(counts, begins[0], frame)


def decode_translation(
    stream: bytes, index: int, opcodes: TranslationOpcodes
) -> list[TranslatedFrame]:
    """Decode the frame translation at `index`.

    Returns:
        JS frames, outermost first.

    Raises:
        MalformedData: `index` is no translation, an operand is cut off, or what it is based on
            does not exist.

    Source: v8/src/deoptimizer/frame-translation-builder.cc and translated-state.cc, at 13.6.233;
    MATCH_PREVIOUS_TRANSLATION copies instructions from the same places of the basis translation,
    which is always written in full.
    """
    lookback, frame_count, at = _begin(stream, index, opcodes)
    basis: list[TranslatedFrame | None] = []
    if lookback:
        if lookback > index:
            raise MalformedData("translation", "its basis lies before the stream")
        basis_lookback, _, basis_at = _begin(stream, index - lookback, opcodes)
        if basis_lookback:
            raise MalformedData("translation", "its basis has a basis")
        basis = _instructions(stream, basis_at, opcodes, [])
    frames = [x for x in _instructions(stream, at, opcodes, basis) if x is not None]
    if len(frames) != frame_count:
        raise MalformedData("translation", f"{len(frames)} JS frames instead of {frame_count}")
    return frames


def _begin(stream: bytes, index: int, opcodes: TranslationOpcodes) -> tuple[int, int, int]:
    """Return lookback and number of JS frames of the translation at `index`, and where it goes on.

    Operands of BEGIN: lookback (unsigned), frames and JS frames (signed: magnitude << 1 | sign).
    """
    if not 0 <= index < len(stream) or stream[index] - opcodes.begin not in (0, 1):
        raise MalformedData("translation", f"none at {index}")
    lookback, at = decode_varint(stream, index + 1)
    _, at = decode_varint(stream, at)
    js_frames, at = decode_varint(stream, at)
    return lookback, js_frames >> 1, at


def _instructions(
    stream: bytes, at: int, opcodes: TranslationOpcodes, basis: list[TranslatedFrame | None]
) -> list[TranslatedFrame | None]:
    """Return the instructions from `at` to the next BEGIN; None for all that begin no JS frame."""
    counts, begin, frame = opcodes
    match_previous = len(counts) - 1
    result: list[TranslatedFrame | None] = []
    append = result.append
    end = len(stream)
    while at < end:
        opcode = stream[at]
        at += 1
        if opcode >= match_previous:
            # Short matches are encoded in the opcode byte itself.
            matched = opcode - len(counts)
            if opcode == match_previous:
                matched, at = decode_varint(stream, at)
            done = len(result)
            if done + matched > len(basis):
                raise MalformedData("translation", "copies more than its basis has")
            result += basis[done : done + matched]
        elif begin <= opcode <= begin + 1:
            break
        elif frame <= opcode <= frame + 3:
            offset, at = decode_varint(stream, at)
            literal, at = decode_varint(stream, at)
            for _ in range(counts[opcode] - 2):
                _, at = decode_varint(stream, at)
            bytecode_offset = -(offset >> 1) if offset & 1 else offset >> 1
            append(TranslatedFrame(literal >> 1, bytecode_offset if opcode <= frame + 1 else None))
        else:
            for _ in range(counts[opcode]):
                while at < end and stream[at] >= 0x80:
                    at += 1
                at += 1
            append(None)
    return result


def decode_safepoint_header(header: bytes) -> SafepointHeader:
    """Decode the header of a Maglev safepoint table, which begins where the instructions end.

    Args:
        header: `SAFEPOINT_HEADER_SIZE` bytes: u32 stack slots, count, configuration, tagged slots.

    Raises:
        MalformedData: It is cut off or cannot be true.

    Source: v8/src/codegen/maglev-safepoint-table.h, at 13.6.233: configuration bit 0 has deopt
    data, then 3 bits each: bytes of register indexes, pc, deopt index. Without the stack slots in
    V8 11 and 12, whose official Node builds have no Maglev ("Maglev is not enabled").
    """
    if len(header) < SAFEPOINT_HEADER_SIZE:
        raise MalformedData("safepoint table", "header cut off")
    count = int.from_bytes(header[4:8], "little")
    configuration = int.from_bytes(header[8:12], "little")
    registers = configuration >> 1 & 7
    pc_size = configuration >> 4 & 7
    deopt_index_size = configuration >> 7 & 7
    has_deopt = configuration & 1
    if count > MAX_SAFEPOINTS or configuration >> 10 or max(registers, pc_size) > 4:
        raise MalformedData("safepoint table", f"{count} entries of configuration {configuration}")
    if count and (not pc_size or deopt_index_size > 4):
        raise MalformedData("safepoint table", f"configuration {configuration}")
    entry_size = pc_size + (pc_size + deopt_index_size if has_deopt else 0) + 1 + registers
    return SafepointHeader(count, pc_size, deopt_index_size if has_deopt else 0, entry_size)


def decode_safepoints(table: bytes, header: SafepointHeader) -> dict[int, int]:
    """Decode the entries of a Maglev safepoint table.

    Returns:
        Return address, as offset in the code -> deopt index, -1 where a call cannot deoptimize. So
        is a trampoline, which V8 puts in place of the return address of a frame that is to be
        deoptimized when it is returned to.

    Raises:
        MalformedData: The table is cut off, or return addresses do not ascend.

    Entry: pc, deopt index + 1, trampoline pc + 1, extra spill slots (1 byte), register indexes.
    """
    count, pc_size, deopt_index_size, entry_size = header
    if len(table) < header.table_size:
        raise MalformedData("safepoint table", "cut off")
    result: dict[int, int] = {}
    last = -1
    for at in range(0, count * entry_size, entry_size):
        pc = int.from_bytes(table[at : at + pc_size], "little")
        if pc <= last:
            raise MalformedData("safepoint table", "return addresses do not ascend")
        deopt = int.from_bytes(table[at + pc_size : at + pc_size + deopt_index_size], "little")
        result[pc] = deopt - 1
        if deopt_index_size:
            first = at + pc_size + deopt_index_size
            trampoline = int.from_bytes(table[first : first + pc_size], "little")
            if trampoline:
                result[trampoline - 1] = deopt - 1
        last = pc
    return result


def find_checks(
    code: bytes, exits: Mapping[int, int], safepoints: Mapping[int, int]
) -> OffsetTable:
    """Find where in optimized code each deopt index takes effect.

    Args:
        code: The instructions.
        exits: Offset of a deopt exit in `code` -> deopt index.
        safepoints: As `decode_safepoints` returns them.

    Returns:
        Code offset -> deopt index, from the guards that jump to a deopt exit and from the calls
        that may deoptimize, which count from their last byte on.

    The scan is by pattern, not by disassembly. What looks like a jump but is not one can only
    matter if its four bytes happen to be the distance to a deopt exit.

    Slow paths behind the main code are in the order of their code, too. Taking instead what is in
    force where they are jumped from was tried on 24.15 and 26.10: it is no nearer to the next mark
    inside of them than this.
    """
    marks = [
        (return_offset - 1, deopt) for return_offset, deopt in safepoints.items() if deopt >= 0
    ]
    for match in _JUMP.finditer(code):
        start, end = match.span()
        end += 4
        distance = int.from_bytes(code[end - 4 : end], "little", signed=True)
        deopt = exits.get(end + distance, -1)
        if deopt >= 0 and end <= len(code):
            marks.append((start, deopt))
    marks.sort()
    return OffsetTable([offset for offset, _ in marks], [deopt for _, deopt in marks])
