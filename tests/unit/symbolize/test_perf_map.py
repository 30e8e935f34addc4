"""The text of perf maps, and what becomes of entries that are gone."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from jsspy.symbolize.perf_map import MapEntry, format_map, keep_old


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
