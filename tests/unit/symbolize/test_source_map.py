from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.errors import MalformedData
from jsspy.symbolize import source_map
from jsspy.symbolize.source_map import OriginalPosition, SourceMap
from maps import Segment, encode


def make(mappings: str, **fields: object) -> SourceMap:
    tree = {"version": 3, "sources": ["a.ts", "b.ts"], "names": ["x", "y"], "mappings": mappings}
    return SourceMap.decode(json.dumps(tree | fields).encode(), "test.map")


def test_finds_the_segment_at_or_before_a_position() -> None:
    found = make(encode([[(0, 0, 0, 0, None), (10, 1, 4, 2, 1)], [], [(5, 0, 7, 0, 0)]]))
    assert found.find(1, 1) == OriginalPosition("a.ts", 1, 1, None)
    assert found.find(1, 10) == OriginalPosition("a.ts", 1, 1, None)
    assert found.find(1, 11) == OriginalPosition("b.ts", 5, 3, "y")
    assert found.find(1, 5000) == OriginalPosition("b.ts", 5, 3, "y")
    assert found.find(2, 1) is None
    assert found.find(3, 5) is None
    assert found.find(3, 6) == OriginalPosition("a.ts", 8, 1, "x")
    assert found.find(4, 1) is None


def test_only_at_its_beginning_a_segment_names_what_is_there() -> None:
    found = make(encode([[(0, 0, 0, 0, None), (10, 1, 4, 2, 1)]]))
    assert found.find_start(1, 11) == OriginalPosition("b.ts", 5, 3, "y")
    assert found.find_start(1, 10) is None
    assert found.find_start(1, 12) is None


def test_a_segment_of_one_field_belongs_to_no_source() -> None:
    found = make("AAAA,U,UAAA")
    assert found.find(1, 11) is None
    assert found.find(1, 21) == OriginalPosition("a.ts", 1, 1, None)


def test_sections_shift_lines_and_the_first_lines_columns() -> None:
    inner = {"version": 3, "sources": ["s.ts"], "names": [], "mappings": "AAAA;AACA"}
    tree = {
        "version": 3,
        "sections": [
            {"offset": {"line": 2, "column": 4}, "map": inner},
            {"offset": {"line": 0, "column": 0}, "map": inner},
        ],
    }
    found = SourceMap.decode(json.dumps(tree).encode(), "index.map")
    assert found.find(1, 1) == OriginalPosition("s.ts", 1, 1, None)
    assert found.find(2, 1) == OriginalPosition("s.ts", 2, 1, None)
    assert found.find(3, 4) is None
    assert found.find(3, 5) == OriginalPosition("s.ts", 1, 1, None)
    assert found.find(4, 1) == OriginalPosition("s.ts", 2, 1, None)


def test_source_root_and_guard_line() -> None:
    tree = {
        "version": 3,
        "sources": ["a.ts", "/b.ts"],
        "sourceRoot": "src",
        "mappings": "AAAA,UCAA",
    }
    found = SourceMap.decode(b")]}'\n" + json.dumps(tree).encode(), "guarded.map")
    first, second = found.find(1, 1), found.find(1, 11)
    assert first is not None
    assert second is not None
    assert (first.source, second.source) == ("src/a.ts", "/b.ts")


def test_segments_out_of_order_are_sorted() -> None:
    found = make(encode([[(20, 0, 2, 0, None), (0, 0, 1, 0, None)]]))
    assert found.find(1, 1) == OriginalPosition("a.ts", 2, 1, None)
    assert found.find(1, 21) == OriginalPosition("a.ts", 3, 1, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version": 2, "mappings": ""}',
        b'{"version": 3}',
        b'{"version": 3, "mappings": 5}',
        b'{"version": 3, "mappings": "A*AA"}',
        b'{"version": 3, "mappings": "AA"}',
        b'{"version": 3, "mappings": "AAAg"}',
        b'{"version": 3, "mappings": "gggggggggggA"}',
        b'{"version": 3, "sections": {}}',
        b'{"version": 3, "sections": [{}]}',
    ],
)
def test_what_is_not_a_map_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedData):
        SourceMap.decode(data, "bad.map")


@pytest.mark.parametrize("separator", [";", ","])
@pytest.mark.parametrize("sections", [False, True])
def test_nothing_but_separators_is_refused(
    separator: str, sections: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_map, "MAX_LINES", 1000)
    monkeypatch.setattr(source_map, "MAX_SEGMENTS", 1000)
    half = {"version": 3, "sources": [], "names": [], "mappings": separator * 600}
    part = {"offset": {"line": 0, "column": 0}, "map": half}
    tree = {"version": 3, "sections": [part, part]} if sections else half
    tree = tree | ({} if sections else {"mappings": separator * 1000})
    with pytest.raises(MalformedData, match="too many"):
        SourceMap.decode(json.dumps(tree).encode(), "bomb.map")
    SourceMap.decode(json.dumps(half).encode(), "large.map")


def test_a_byte_order_mark_is_no_part_of_the_json() -> None:
    tree = {"version": 3, "sources": ["a.ts"], "names": [], "mappings": "AAAA"}
    data = json.dumps(tree).encode("utf-8-sig")
    assert SourceMap.decode(data, "bom.map").find(1, 1) == OriginalPosition("a.ts", 1, 1, None)


@pytest.mark.parametrize(
    "segment", [(0, 2, 0, 0, None), (0, -1, 0, 0, None), (0, 0, -1, 0, None), (0, 0, 0, -1, None)]
)
def test_positions_that_are_nowhere_are_none(segment: Segment) -> None:
    assert make(encode([[segment]])).find(1, 1) is None


def test_a_name_that_is_none_of_the_maps_is_none() -> None:
    assert make(encode([[(0, 0, 0, 0, 9)]])).find(1, 1) == OriginalPosition("a.ts", 1, 1, None)


columns = st.integers(0, 1 << 20)
segments = st.tuples(
    columns, st.integers(0, 1), columns, columns, st.one_of(st.none(), st.integers(0, 1))
)


@given(st.lists(st.lists(segments, max_size=8, unique_by=lambda s: s[0]).map(sorted), max_size=8))
def test_decoding_inverts_encoding(lines: list[list[Segment]]) -> None:
    found = make(encode(lines))
    for row, line in enumerate(lines):
        for at, source, original_line, original_column, name in line:
            assert found.find(row + 1, at + 1) == OriginalPosition(
                ("a.ts", "b.ts")[source],
                original_line + 1,
                original_column + 1,
                None if name is None else ("x", "y")[name],
            )


@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_map_or_a_refusal(data: bytes) -> None:
    text = data.decode("latin-1")
    with contextlib.suppress(MalformedData):
        make(text).find(1, 1)
