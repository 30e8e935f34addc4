"""Source position tables, inlining positions and baseline tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import MalformedData
from jsspy.v8.layout import PositionEncoding
from jsspy.v8.positions import (
    MAX_TABLE_SIZE,
    InlinedOffset,
    InliningPosition,
    OffsetTable,
    decode_baseline_offsets,
    decode_inlining_positions,
    decode_positions,
    decode_varint,
    decode_varints,
    expand_inlining,
    inlining_id,
    script_offset,
)

SIZES = bytes([1, 1, 1, 1, 1, 2, 3, 1, 1, 1, 1, 1, 3, 5, 1, 1, 1, 1, 1, 5, 9])
"""Bytecodes 0-3 are prefixes; 4, 5 and 6 have 0, 1 and 2 operands."""


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*data, value])


def zigzag(value: int) -> bytes:
    return varint(value << 1 if value >= 0 else (-value << 1) - 1)


FROM_0 = (
    PositionEncoding.ZIGZAG_FROM_0,
    PositionEncoding.ZIGZAG_NO_EXTERNAL_BIT,
    PositionEncoding.ZIGZAG_PLAIN,
)


def encode(entries: list[tuple[int, int, bool]], encoding: PositionEncoding) -> bytes:
    """Write (offset, position, is statement) as V8 does."""
    data = b""
    offset = 0 if encoding in FROM_0 else -1
    position = 0
    for next_offset, plain_position, statement in entries:
        next_position = plain_position
        if encoding is PositionEncoding.ZIGZAG_NO_EXTERNAL_BIT:
            next_position >>= 1
        elif encoding is PositionEncoding.ZIGZAG_PLAIN:
            next_position = (next_position >> 1) - 1
        delta = next_offset - offset
        if encoding is PositionEncoding.UNSIGNED_FLAGS:
            data += varint(delta << 2 | 2 | statement)
        else:
            data += zigzag(delta if statement else -delta - 1)
        data += zigzag(next_position - position)
        offset, position = next_offset, next_position
    return data


def source_position(offset: int, inlining: int = 0) -> int:
    return (offset + 1) << 1 | inlining << 31


entries_strategy = st.lists(
    st.tuples(st.integers(0, 1 << 20), st.integers(0, (1 << 47) - 1), st.booleans()), max_size=50
).map(lambda entries: sorted(entries, key=lambda entry: entry[0]))


@given(st.lists(st.integers(-5, 1 << 40)), st.integers(-6, 1 << 40))
def test_packed_tables_find_the_same(offsets: list[int], offset: int) -> None:
    table = OffsetTable(sorted(offsets), [hash(it) for it in offsets])
    assert table.packed().find(offset) == table.find(offset)


def test_numbers_beyond_64_bits_are_malformed() -> None:
    with pytest.raises(MalformedData):
        OffsetTable([1], [1 << 63]).packed()


@given(entries_strategy, st.sampled_from(PositionEncoding))
def test_decode_inverts_encode(
    entries: list[tuple[int, int, bool]], encoding: PositionEncoding
) -> None:
    table = decode_positions(encode(entries, encoding), encoding)
    assert table.offsets == [offset for offset, _, _ in entries]
    # Positions of V8 before 7 have no bit 0: they are never external.
    has_bit = encoding not in FROM_0[1:]
    assert table.values == [position if has_bit else position & ~1 for _, position, _ in entries]


@given(st.binary(max_size=400), st.sampled_from(PositionEncoding))
def test_any_bytes_are_a_table_or_malformed(data: bytes, encoding: PositionEncoding) -> None:
    try:
        table = decode_positions(data, encoding)
    except MalformedData:
        return
    assert len(table.offsets) == len(table.values) <= len(data) // 2
    assert table.offsets == sorted(table.offsets)


@pytest.mark.parametrize(
    ("encoding", "table", "offsets"),
    [
        (PositionEncoding.ZIGZAG_FROM_0, "0138025815540b270b07066c", [0, 1, 11, 16, 21, 24]),
        (PositionEncoding.ZIGZAG_FROM_MINUS_1, "01380258115409270b07066c", [-1, 0, 8, 12, 17, 20]),
        (PositionEncoding.UNSIGNED_FLAGS, "023807582254122716070f6c", [-1, 0, 8, 12, 17, 20]),
    ],
    ids=["node 12", "node 24", "node 26"],
)
def test_tables_of_v8(encoding: PositionEncoding, table: str, offsets: list[int]) -> None:
    # Read from a process that runs `function step(value, expected) { return 1 + mid(value + 1,
    # expected); }`; the places are those that --print-bytecode shows: function, return statement,
    # value + 1, call, 1 + ..., end.
    decoded = decode_positions(bytes.fromhex(table), encoding)
    assert decoded.offsets == offsets
    assert [script_offset(value) for value in decoded.values] == [13, 35, 56, 46, 44, 71]


@pytest.mark.parametrize("data", [b"\x80", b"\x01\xff", b"\x02\x02\x02"])
def test_a_cut_table_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedData):
        decode_positions(data, PositionEncoding.UNSIGNED_FLAGS)


def test_a_long_table_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(MalformedData, match="bytes long"):
        decode_varints(bytes(MAX_TABLE_SIZE + 1))


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=20))
def test_varints_round_trip(values: list[int]) -> None:
    data = b"".join(map(varint, values))
    assert decode_varints(data) == values
    at = 0
    for value in values:
        found, at = decode_varint(data, at)
        assert found == value
    assert at == len(data)


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x80" * 10 + b"\x01"])
def test_bad_varint(data: bytes) -> None:
    with pytest.raises(MalformedData):
        decode_varint(data, 0)


@pytest.mark.parametrize(("offset", "expected"), [(0, None), (3, 10), (4, 10), (7, 20), (1000, 20)])
def test_find_takes_the_last_entry_at_or_before(offset: int, expected: int | None) -> None:
    assert OffsetTable([3, 7], [10, 20]).find(offset) == expected


def test_of_entries_at_one_offset_the_last_holds() -> None:
    assert OffsetTable([3, 3, 7], [10, 11, 20]).find(3) == 11


@pytest.mark.parametrize(
    ("position", "offset", "inlining"),
    [
        (source_position(0), 0, 0),
        (source_position(1234), 1234, 0),
        (source_position(1234, 5), 1234, 5),
        (source_position((1 << 30) - 2, 0xFFFF), (1 << 30) - 2, 0xFFFF),
        (0, None, 0),  # kNoSourcePosition
        (1 | 77 << 1, None, 0),  # line of a C++ file
        (1 << 47 | source_position(9), 9, 0),
    ],
)
def test_source_position_fields(position: int, offset: int | None, inlining: int) -> None:
    assert script_offset(position) == offset
    assert inlining_id(position) == inlining


def test_inlined_calls_expand_innermost_first() -> None:
    calls = [
        InliningPosition(source_position(100), 0),  # id 1: function 0, called from the outside
        InliningPosition(source_position(200, 1), 1),  # id 2: function 1, called from id 1
        InliningPosition(source_position(300, 2), -1),  # id 3: recursion, called from id 2
    ]
    assert expand_inlining(source_position(400, 3), calls) == [
        InlinedOffset(-1, 400),
        InlinedOffset(1, 300),
        InlinedOffset(0, 200),
        InlinedOffset(-1, 100),
    ]
    assert expand_inlining(source_position(5), calls) == [InlinedOffset(-1, 5)]


def test_an_inlining_id_without_entry_is_malformed() -> None:
    with pytest.raises(MalformedData, match="no entry 2"):
        expand_inlining(source_position(1, 2), [InliningPosition(0, 0)])


def test_a_circle_of_inlining_ids_is_malformed() -> None:
    with pytest.raises(MalformedData, match="does not end"):
        expand_inlining(source_position(1, 1), [InliningPosition(source_position(2, 1), 0)])


def test_inlining_positions_are_padded_to_16_bytes() -> None:
    data = b"".join(
        position.to_bytes(8, "little") + function.to_bytes(4, "little", signed=True) + b"\xee" * 4
        for position, function in [(source_position(3), 2), (source_position(4, 1), -1)]
    )
    assert decode_inlining_positions(data + b"rest") == [
        InliningPosition(source_position(3), 2),
        InliningPosition(source_position(4, 1), -1),
    ]


def test_the_first_baseline_entry_is_the_prologue() -> None:
    # bytecodes 4 | 5 x | 6 x y; code of 40, 10, 20 and 30 bytes
    table = decode_baseline_offsets(bytes([40, 10, 20, 30]), bytes([4, 5, 0, 6, 0, 0]), SIZES)
    assert [table.find(at) for at in (0, 39, 40, 49, 50, 69, 70, 99, 5000)] == [
        -1, -1, 0, 0, 1, 1, 3, 3, 3,
    ]  # fmt: skip


@pytest.mark.parametrize(("prefix", "size"), [(0, 1 + 3), (1, 1 + 5), (2, 1 + 3), (3, 1 + 5)])
def test_prefixed_bytecodes(prefix: int, size: int) -> None:
    bytecodes = bytes([prefix, 5]) + bytes(size - 2) + bytes([4, 4])
    table = decode_baseline_offsets(bytes([1, 1, 1, 1]), bytecodes, SIZES)
    assert table.values == [-1, 0, size, size + 1]


@pytest.mark.parametrize("bytecodes", [b"\x07\x00\x00", b"\x00", b"\x00\x50\x00"])
def test_unknown_bytecodes_are_malformed(bytecodes: bytes) -> None:
    with pytest.raises(MalformedData):
        decode_baseline_offsets(bytes([1, 1, 1]), bytecodes, SIZES)


@given(st.binary(max_size=100), st.binary(max_size=100), st.binary(max_size=60))
def test_any_baseline_table_ends(table: bytes, bytecodes: bytes, sizes: bytes) -> None:
    try:
        decoded = decode_baseline_offsets(table, bytecodes, sizes)
    except MalformedData:
        return
    assert len(decoded.offsets) == len(decoded.values) <= len(table) + 1
    assert decoded.values == sorted(decoded.values)
    assert decoded.values[-1] < max(len(bytecodes), 1)
