"""Positions and inlined functions of code before V8 7.1, from made-up tables."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import MalformedData
from jsspy.v8.layout import RelocationEncoding
from jsspy.v8.legacy import (
    SELF_LITERAL,
    TranslatedFrame,
    decode_node_offsets,
    decode_relocation,
    decode_safepoints,
    decode_translation,
)

SHORT, MODES = RelocationEncoding.SHORT_TAGS, RelocationEncoding.MODES
CODE_SIZE = 1 << 20

OPCODES = (
    ("BEGIN", 2),
    ("JS_FRAME", 3),
    ("INTERPRETED_FRAME", 3),
    ("ARGUMENTS_ADAPTOR_FRAME", 2),
    ("VALUE", 1),
)


def jump(distance: int) -> bytes:
    """Return the bytes that say a multiple of 64, in the order in which they are read."""
    value = distance >> 6
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    return bytes(group << 1 for group in groups[:-1]) + bytes([groups[-1] << 1 | 1])


def relocation(entries: list[tuple[int, int]], encoding: RelocationEncoding) -> bytes:
    """Write (code offset, position), ascending by offset, as V8 does: backwards."""
    data = b""
    pc = position = 0
    for next_pc, next_position in entries:
        distance, delta = next_pc - pc, next_position - position
        if distance >= 64:
            jumps = {SHORT: 1 << 4 | 15, MODES: 21, RelocationEncoding.MODES_OF_5_0: 19}
            head = jumps[encoding] << 2 | 3
            data += bytes([head]) + jump(distance)
            distance &= 63
        if -32 <= delta < 32:
            data += bytes([distance << 2 | 2, delta << 2 & 0xFF | 1 + next_pc % 2])
        elif encoding is SHORT:
            data += bytes([distance << 2, 1 + next_pc % 2 << 6 | 14 << 2 | 3])
            data += struct.pack("<i", delta)
        else:
            first = 8 if encoding is MODES else 7
            data += bytes([first + next_pc % 2 << 2 | 3, distance]) + struct.pack("<i", delta)
        pc, position = next_pc, next_position
    return data[::-1]


@given(
    st.dictionaries(st.integers(0, CODE_SIZE), st.integers(0, 1 << 30), max_size=40),
    st.sampled_from(RelocationEncoding),
)
def test_relocation_info_is_read_as_written(
    table: dict[int, int], encoding: RelocationEncoding
) -> None:
    entries = sorted(table.items())
    found = decode_relocation(relocation(entries, encoding), encoding, CODE_SIZE)
    assert list(zip(found.offsets, found.values, strict=True)) == entries


def test_the_largest_of_several_positions_holds() -> None:
    data = relocation([(8, 100), (8, 90), (20, 95)], SHORT)
    assert decode_relocation(data, SHORT, 100) == ([8, 20], [100, 95])


@pytest.mark.parametrize(
    ("encoding", "record"),
    [
        (SHORT, bytes([14 << 2 | 3]) + bytes(4)),
        (SHORT, bytes([3 << 6 | 14 << 2 | 3]) + bytes(8)),
        (SHORT, bytes([13 << 2 | 3]) + bytes(4)),
        (SHORT, bytes([5 << 2 | 3, 0])),
        (MODES, bytes([7 << 2 | 3, 0]) + bytes(8)),
        (MODES, bytes([18 << 2 | 3, 0]) + bytes(4)),
        (MODES, bytes([4 << 2 | 3, 0])),
        (SHORT, bytes([0])),
        (MODES, bytes([1])),
    ],
)
def test_records_that_are_no_positions_are_skipped(
    encoding: RelocationEncoding, record: bytes
) -> None:
    data = relocation([(70, 5)], encoding) + record[::-1]
    assert decode_relocation(data, encoding, 100) == ([70], [5])


def test_relocation_info_beyond_the_code_is_refused() -> None:
    with pytest.raises(MalformedData):
        decode_relocation(relocation([(200, 5)], SHORT), SHORT, 199)


@given(st.binary(max_size=300), st.sampled_from(RelocationEncoding))
def test_any_bytes_are_relocation_info_or_malformed(
    data: bytes, encoding: RelocationEncoding
) -> None:
    try:
        table = decode_relocation(data, encoding, CODE_SIZE)
    except MalformedData:
        return
    assert len(table.offsets) == len(table.values) <= len(data)
    assert table.offsets == sorted(table.offsets)


def test_safepoints_without_deoptimization_are_left_out() -> None:
    rows = struct.pack("<6I", 10, 7, 20, 0xFFFFFF, 30, 3 << 24 | 8)
    assert decode_safepoints(rows, 8) == {10: 7, 30: 8}
    wide = struct.pack("<6I", 10, 7, 0xFFFFFFFF, 20, 0xFFFFFF, 0xFFFFFFFF)
    assert decode_safepoints(wide, 12) == {10: 7}


def test_a_trampoline_has_the_place_of_its_call() -> None:
    assert decode_safepoints(struct.pack("<3I", 10, 7, 99), 12) == {10: 7, 99: 7}


def numbers(*values: int) -> bytes:
    """Write signed varints as V8's TranslationBuffer does."""
    data = b""
    for value in values:
        bits = abs(value) << 1 | (value < 0)
        while bits >= 128:
            data += bytes([(bits & 127) << 1 | 1])
            bits >>= 7
        data += bytes([bits << 1])
    return data


def test_frames_of_a_translation() -> None:
    data = numbers(4, 9) + numbers(0, 3, 2, 1, 500, SELF_LITERAL, 4, 4, -8, 3, 1, 2, 2, 17, 3, 0)
    assert decode_translation(data, 2, OPCODES) == [
        TranslatedFrame(SELF_LITERAL, 500, has_bytecode=False),
        TranslatedFrame(3, 17, has_bytecode=True),
    ]


@pytest.mark.parametrize(
    "values",
    [
        (4, 1),  # begins with another opcode
        (0, 1, 2, 1, 1, 1, 1),  # announces a frame more than it has
        (0, 1, 1, 9),  # unknown opcode
        (0, 1, 1, 0),  # begins twice
        (0, 1, 1, 1, 5),  # ends within a frame
        (0, 0, 0),  # no frames
        (0, 1 << 20, 1),
        (),
    ],
)
def test_translations_that_contradict_themselves(values: tuple[int, ...]) -> None:
    with pytest.raises(MalformedData):
        decode_translation(numbers(*values), 0, OPCODES)


@given(st.binary(max_size=300), st.integers(-5, 300))
def test_any_bytes_are_a_translation_or_malformed(data: bytes, start: int) -> None:
    try:
        frames = decode_translation(data, start, OPCODES)
    except MalformedData:
        return
    assert len(frames) <= len(data)


def test_offsets_of_syntax_tree_nodes() -> None:
    # The lowest bit of the second number is the state.
    words = (5 << 32, (0x40 << 1 | 1) << 32, 9 << 32, 0x80 << 33)
    assert decode_node_offsets(words) == {5: 0x40, 9: 0x80}
