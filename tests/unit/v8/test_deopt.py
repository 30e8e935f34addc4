"""Frame translations, Maglev safepoint tables, and the search for checks in machine code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import MalformedData
from jsspy.v8.deopt import (
    SAFEPOINT_HEADER_SIZE,
    TranslatedFrame,
    TranslationOpcodes,
    decode_safepoint_header,
    decode_safepoints,
    decode_translation,
    find_checks,
    find_opcodes,
)

# TranslationOpcodeOperandCount's table, as read from the official builds.
COUNTS_16 = (2, 1, 0, 3, 1, 1, 3, 1, 3, *[1] * 9, 5, 3, 3, 4, 1, 1, 1, 1, 1, 2)
COUNTS_20 = (
    1, 0, 3, 3, 1, 1, 3, 1, 3, 1, 1, 1, 1, 1, 2, *[1] * 8, 5, 3, 3, 3, 4, 0, 1, 1, 1, 1, 1, 2, 1,
)  # fmt: skip
COUNTS_22 = (5, 3, 3, 3, 2, 1, 3, 4, 3, 2, 1, 0, 3, 3, *[1] * 18, 0, 1, 1, 1, 1, 1, 2, 1)
COUNTS_24 = (
    6, 4, 3, 3, 2, 1, 3, 4, 3, 3, 3, 1, 0, 0, 3, 3, 1, 1, 1, 0, *[1] * 17, 0, 1, 1, 1, 1, 1, 2, 1,
)  # fmt: skip

OPCODES = TranslationOpcodes(COUNTS_24, begin=14, frame=0)
CONSTRUCT_STUB, CONTINUATION, ONE_OPERAND, MATCH = 4, 2, 16, 44


def begin(lookback: int, js_frames: int) -> bytes:
    assert lookback < 0x80
    return bytes([14, lookback, js_frames << 1, js_frames << 1])


def frame(offset: int, literal: int) -> bytes:
    """INTERPRETED_FRAME_WITHOUT_RETURN."""
    return bytes([1, offset << 1 if offset >= 0 else -offset << 1 | 1, literal << 1, 0, 0])


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        (COUNTS_20, (2, 23)),
        (COUNTS_22, (12, 0)),
        (COUNTS_24, (14, 0)),
        (COUNTS_16, None),  # no pair of BEGINs: V8 before 11
        ((), None),
        ((*COUNTS_24[:-1], 0), None),
        ((7, *COUNTS_24[1:]), None),
    ],
)
def test_opcodes_are_told_by_their_operands(
    counts: tuple[int, ...], expected: tuple[int, int] | None
) -> None:
    found = find_opcodes(counts)
    assert (found and (found.begin, found.frame)) == expected


def test_frames_come_outermost_first() -> None:
    stream = (
        b"junk"
        + begin(0, 3)
        + frame(33, 9)
        + bytes([ONE_OPERAND, 0x81, 0x01])  # an operand of two bytes
        + bytes([CONSTRUCT_STUB, 2, 2])
        + bytes([CONTINUATION, 0, 6 << 1, 0])
        + frame(-1, 2)
        + begin(0, 1)
        + frame(5, 5)
    )
    assert decode_translation(stream, 4, OPCODES) == [
        TranslatedFrame(9, 33),
        TranslatedFrame(6, None),
        TranslatedFrame(2, -1),
    ]


@pytest.mark.parametrize("match", [bytes([MATCH, 3]), bytes([45 + 3])])
def test_instructions_are_copied_from_the_basis(match: bytes) -> None:
    basis = begin(0, 2) + frame(10, 1) + bytes([ONE_OPERAND, 7]) + frame(20, 2)
    basis += bytes([ONE_OPERAND, 7])
    stream = basis + begin(len(basis), 2) + frame(11, 1) + match[:-1] + bytes([match[-1] - 2])
    stream += frame(21, 2) + (bytes([45 + 1]))
    assert decode_translation(stream, 0, OPCODES) == [(1, 10), (2, 20)]
    assert decode_translation(stream, len(basis), OPCODES) == [(1, 11), (2, 21)]


@pytest.mark.parametrize(
    ("stream", "index"),
    [
        (b"", 0),
        (begin(0, 0), -1),
        (begin(0, 0), 4),
        (b"\x00" + begin(0, 0), 0),  # no BEGIN there
        (begin(0, 1), 0),  # fewer frames than announced
        (begin(0, 1) + frame(1, 1) * 2, 0),  # more
        (begin(0, 1) + frame(1, 1)[:-2], 0),  # cut off
        (begin(0, 1) + b"\x01\xff\xff", 0),
        (begin(9, 1), 0),  # basis before the stream
        (begin(0, 0) + begin(4, 1) + bytes([45 + 1]), 4),  # copies more than there is
        (begin(0, 0) + begin(4, 0) + begin(4, 0), 8),  # the basis has a basis
    ],
)
def test_malformed_translations(stream: bytes, index: int) -> None:
    with pytest.raises(MalformedData):
        decode_translation(stream, index, OPCODES)


@given(st.binary(max_size=200), st.integers(-5, 205))
def test_any_bytes_are_a_translation_or_malformed(data: bytes, index: int) -> None:
    try:
        frames = decode_translation(b"\x0e\x00\x02\x02" + data, index, OPCODES)
    except MalformedData:
        return
    assert len(frames) <= len(data) + 4


def safepoints(entries: list[tuple[int, int]], *, count: int | None = None) -> bytes:
    """A table as V8 13 writes it, with 2-byte pcs, 1-byte deopt indexes, 2 bytes of registers."""
    configuration = 1 | 2 << 1 | 2 << 4 | 1 << 7
    words = (9, len(entries) if count is None else count, configuration, 4)
    data = b"".join(word.to_bytes(4, "little") for word in words)
    for pc, deopt in entries:
        data += pc.to_bytes(2, "little") + bytes([deopt + 1]) + b"\0\0" + b"\x07" + b"\xaa\xbb"
    return data


def test_safepoints() -> None:
    data = safepoints([(40, 3), (300, -1), (301, 0)])
    header = decode_safepoint_header(data[:SAFEPOINT_HEADER_SIZE])
    assert header.entry_size == 8
    assert header.table_size == len(data) - SAFEPOINT_HEADER_SIZE
    found = decode_safepoints(data[SAFEPOINT_HEADER_SIZE:], header)
    assert found == {40: 3, 300: -1, 301: 0}


def test_safepoints_without_deopt_data() -> None:
    data = b"".join(word.to_bytes(4, "little") for word in (0, 2, 1 << 4, 0)) + bytes([5, 0, 8, 0])
    header = decode_safepoint_header(data)
    assert decode_safepoints(data[16:], header) == {5: -1, 8: -1}


@pytest.mark.parametrize(
    "header",
    [
        b"\0" * 15,
        safepoints([], count=1 << 20)[:16],
        b"\0\0\0\0" + b"\1\0\0\0" + b"\xff\xff\xff\xff" + b"\0\0\0\0",
        b"\0\0\0\0" + b"\1\0\0\0" + b"\0\0\0\0" + b"\0\0\0\0",  # pcs of no bytes
    ],
)
def test_impossible_safepoint_headers(header: bytes) -> None:
    with pytest.raises(MalformedData):
        decode_safepoint_header(header)


def test_safepoints_must_ascend_and_be_whole() -> None:
    data = safepoints([(40, 3), (40, 4)])
    with pytest.raises(MalformedData, match="ascend"):
        decode_safepoints(data[16:], decode_safepoint_header(data))
    with pytest.raises(MalformedData, match="cut off"):
        decode_safepoints(data[16:-1], decode_safepoint_header(data))


@given(st.binary(min_size=16, max_size=16), st.binary(max_size=300))
def test_any_safepoint_table_ends(header: bytes, table: bytes) -> None:
    try:
        found = decode_safepoints(table, decode_safepoint_header(header))
    except MalformedData:
        return
    assert len(found) <= len(table)


def jump(at: int, target: int, opcode: bytes = b"\x0f\x84") -> bytes:
    return opcode + (target - at - len(opcode) - 4).to_bytes(4, "little", signed=True)


def test_guards_and_calls_mark_their_place() -> None:
    code = bytearray(b"\x90" * 200)
    code[20:26] = jump(20, 150)
    code[60:65] = jump(60, 160, b"\xe9")
    code[100:106] = jump(100, 151)  # not an exit
    table = find_checks(bytes(code), {150: 0, 160: 1}, {45: 2, 80: -1})
    assert list(zip(*table, strict=True)) == [(20, 0), (44, 2), (60, 1)]


@given(st.binary(max_size=500), st.dictionaries(st.integers(-1, 500), st.integers(0, 9)))
def test_any_code_can_be_searched(code: bytes, exits: dict[int, int]) -> None:
    table = find_checks(code, exits, exits)
    assert table.offsets == sorted(table.offsets)
    assert set(table.values) <= set(exits.values())
