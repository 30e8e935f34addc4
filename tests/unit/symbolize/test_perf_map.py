"""The text of perf maps, and what becomes of entries that are gone."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import MalformedData
from jsspy.symbolize.perf_map import EntryTable, MapEntry, decode_map, format_map, keep_old


def test_format() -> None:
    entries = [MapEntry(0x7FC59AFE46C0, 0x378, "JS:*hot /app/a b.js:3:13"), MapEntry(16, 1, "x")]
    assert format_map(entries) == b"7fc59afe46c0 378 JS:*hot /app/a b.js:3:13\n10 1 x\n"


def test_old_entries_stay_where_there_is_nothing_new() -> None:
    old = [MapEntry(0, 10, "a"), MapEntry(10, 10, "b"), MapEntry(40, 10, "c"), MapEntry(60, 1, "d")]
    new = [MapEntry(5, 5, "e"), MapEntry(20, 20, "f"), MapEntry(49, 2, "g")]
    assert [entry.name for entry in keep_old(new, old)] == ["e", "b", "f", "g", "d"]


def test_what_is_there_still_is_there_once() -> None:
    entries = [MapEntry(0, 10, "a"), MapEntry(10, 10, "b")]
    assert keep_old(entries, entries) == entries


def _disjoint(numbers: list[int]) -> list[MapEntry]:
    """Return entries between every other pair of distinct numbers."""
    ordered = sorted(set(numbers))
    pairs = zip(ordered[::2], ordered[1::2], strict=False)
    return [MapEntry(start, end - start, f"{start}") for start, end in pairs]


@given(st.lists(st.integers(0, 60)), st.lists(st.integers(0, 60)))
def test_it_never_overlaps(new: list[int], old: list[int]) -> None:
    entries, older = _disjoint(new), _disjoint(old)
    kept = keep_old(entries, older)
    assert set(entries) <= set(kept) <= {*entries, *older}
    assert all(a.end <= b.start for a, b in pairwise(kept))
    for entry in {*older} - {*kept}:
        assert any(entry.start < e.end and e.start < entry.end for e in entries)


@given(st.lists(st.integers(1, 60)))
def test_decode_inverts_format(numbers: list[int]) -> None:
    entries = _disjoint(numbers)
    assert decode_map(format_map(entries)).entries() == entries


def test_the_last_of_overlapping_entries_is_right() -> None:
    text = b"10 10 a\n30 10 b\n18 8 c d\n0x28 0xA e\n50 1 half"
    assert [entry.name for entry in decode_map(text).entries()] == ["c d", "e"]
    table = decode_map(text)
    assert [table.find(at) is None for at in (0x17, 0x18, 0x1F, 0x20, 0x31, 0x32)] == [
        True, False, False, True, False, True,
    ]  # fmt: skip


def test_what_was_covered_once_is_gone() -> None:
    text = b"10 10 a\n18 10 b\n20 8 c\n"
    assert [entry.name for entry in decode_map(text).entries()] == ["c"]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12))))
def test_the_table_is_what_a_memory_would_hold(pieces: list[tuple[int, int]]) -> None:
    table = EntryTable()
    memory: dict[int, str] = {}
    for number, (start, size) in enumerate(pieces):
        assert table.add_lines(f"{start:x} {size:x} {number}\nhalf".encode()) > 0
        hit = {memory[at] for at in range(start, start + size) if at in memory}
        memory = {at: name for at, name in memory.items() if name not in hit}
        memory |= dict.fromkeys(range(start, start + size), str(number))
    for at in range(60):
        found = table.find(at)
        assert (found.name if found else None) == memory.get(at)


@pytest.mark.parametrize("text", [b"x\n", b"10 10\n", b"10 zz a\n", b"-1 5 a\n"])
def test_what_is_no_map_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedData):
        decode_map(text)


@given(st.binary(max_size=200))
def test_any_bytes_end(data: bytes) -> None:
    with suppress(MalformedData):
        decode_map(data)
