"""Source maps, revision 3: from a position in generated code to the position that was written.

Understands `sections` (index maps), `names` and `sourceRoot`. Segments are decoded once into sorted
arrays per generated line, so that a lookup is a bisection.

Source: ECMA-426, 1st edition (December 2024), sections "Source map format" and "VLQ decoding".
"""

from __future__ import annotations

import json
import posixpath
from array import array
from bisect import bisect_right
from typing import NamedTuple

from jsspy.errors import MalformedData

MAX_SECTIONS = 10_000
"""Parts of an index map; bundlers emit one per input file at most."""

MAX_LINES = 1 << 23
MAX_SEGMENTS = 1 << 24
"""Of generated code. A map of 60 MiB has about 10 million segments; what has nothing but
separators would take a hundred times its size."""

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_DIGIT = bytes(_BASE64.index(c) if c in _BASE64 else 0xFF for c in range(256))
"""Character -> base64 digit. Bit 5 of a digit says that another follows; 0xFF is no digit."""

_NO_SOURCE = -1
_MAX_SHIFT = 30
"""A VLQ holds a 32-bit number: at most 7 digits."""


class OriginalPosition(NamedTuple):
    """Where generated code comes from. 1-based."""

    source: str
    """Path or URL as the map names it, `sourceRoot` applied."""
    line: int
    column: int
    name: str | None
    """What the identifier at the segment's beginning was before it was renamed, if the map says."""


class _Line:
    """Segments of one generated line, sorted by generated column (0-based columns of arrays)."""

    __slots__ = ("column", "name", "original_column", "original_line", "source")

    def __init__(self) -> None:
        self.column = array("i")
        self.source = array("i")
        self.original_line = array("i")
        self.original_column = array("i")
        self.name = array("i")


class _Section(NamedTuple):
    line: int
    column: int
    sources: list[str]
    names: list[str]
    lines: list[_Line | None]


class SourceMap:
    """A decoded source map."""

    def __init__(self, sections: list[_Section]) -> None:
        self._sections = sections
        self._starts = [(section.line, section.column) for section in sections]

    @classmethod
    def decode(cls, data: bytes, where: str) -> SourceMap:
        """Decode the JSON of a source map.

        Args:
            data: The file, with or without the `)]}'` line that guards against inclusion.
            where: Its path or URL, for messages; sources are relative to it.

        Raises:
            MalformedData: It is not JSON, not version 3, or its mappings cannot be decoded.
        """
        if data.startswith(b")]}"):
            data = data.partition(b"\n")[2]
        try:
            tree = json.loads(data)
        except (ValueError, RecursionError) as err:
            raise MalformedData(where, "not JSON") from err
        if not isinstance(tree, dict) or tree.get("version") != 3:
            raise MalformedData(where, "not a source map of version 3")
        parts = tree.get("sections")
        inner_maps = (
            [part.get("map") for part in parts if isinstance(part, dict)]
            if isinstance(parts, list)
            else [tree]
        )
        texts = [it.get("mappings") for it in inner_maps if isinstance(it, dict)]
        _check_size([text for text in texts if isinstance(text, str)], where)
        if parts is None:
            return cls([_decode_section(tree, 0, 0, where)])
        if not isinstance(parts, list) or len(parts) > MAX_SECTIONS:
            raise MalformedData(where, "sections is not a list")
        sections = []
        for part in parts:
            offset = part.get("offset") if isinstance(part, dict) else None
            inner = part.get("map") if isinstance(part, dict) else None
            if not isinstance(offset, dict) or not isinstance(inner, dict):
                raise MalformedData(where, "a section has no offset or no map")
            line, column = offset.get("line"), offset.get("column")
            if not isinstance(line, int) or not isinstance(column, int):
                raise MalformedData(where, "a section's offset is not a position")
            sections.append(_decode_section(inner, line, column, where))
        sections.sort(key=lambda section: (section.line, section.column))
        return cls(sections)

    def find(self, line: int, column: int) -> OriginalPosition | None:
        """Return where the code at a generated position (1-based) comes from, or None."""
        return self._find(line, column, exactly=False)

    def find_start(self, line: int, column: int) -> OriginalPosition | None:
        """Return what `find` does if a segment begins exactly at the position, else None.

        Only there is `name` the name of what stands at the position: a segment reaches as far as
        the next one, over any number of other identifiers.
        """
        return self._find(line, column, exactly=True)

    def _find(self, line: int, column: int, *, exactly: bool) -> OriginalPosition | None:
        row, at = line - 1, column - 1
        index = bisect_right(self._starts, (row, at)) - 1
        if index < 0:
            return None
        section = self._sections[index]
        row -= section.line
        if row == 0:
            at -= section.column
        if not 0 <= row < len(section.lines):
            return None
        segments = section.lines[row]
        if segments is None:
            return None
        k = bisect_right(segments.column, at) - 1
        if k < 0 or segments.source[k] == _NO_SOURCE:
            return None
        if exactly and segments.column[k] != at:
            return None
        source, name = segments.source[k], segments.name[k]
        if not 0 <= source < len(section.sources):
            return None
        if segments.original_line[k] < 0 or segments.original_column[k] < 0:
            return None
        return OriginalPosition(
            section.sources[source],
            segments.original_line[k] + 1,
            segments.original_column[k] + 1,
            section.names[name] if 0 <= name < len(section.names) else None,
        )


def _check_size(mappings: list[str], where: str) -> None:
    """Refuse what would take far more memory than its file.

    Raises:
        MalformedData: It does.
    """
    lines = sum(text.count(";") for text in mappings)
    segments = sum(text.count(",") for text in mappings)
    if lines >= MAX_LINES or segments >= MAX_SEGMENTS:
        raise MalformedData(where, "too many lines or segments")


def _decode_section(tree: dict[str, object], line: int, column: int, where: str) -> _Section:
    mappings = tree.get("mappings")
    if not isinstance(mappings, str):
        raise MalformedData(where, "mappings is not a string")
    root = tree.get("sourceRoot")
    prefix = root if isinstance(root, str) else ""
    sources = tree.get("sources")
    names = tree.get("names")
    return _Section(
        line,
        column,
        [_source_url(s, prefix) for s in sources] if isinstance(sources, list) else [],
        [n if isinstance(n, str) else "" for n in names] if isinstance(names, list) else [],
        _decode_mappings(mappings.encode("latin-1", "replace"), where),
    )


def _source_url(source: object, root: str) -> str:
    if not isinstance(source, str):
        return ""
    if not root or "://" in source or source.startswith("/"):
        return source
    return posixpath.join(root, source)


def _decode_mappings(text: bytes, where: str) -> list[_Line | None]:
    """Decode the `mappings` string into one `_Line` per generated line (None: no segment).

    All fields but the generated column continue from the segment before, across lines.
    """
    digit = _DIGIT
    lines: list[_Line | None] = []
    source = original_line = original_column = name = 0
    for encoded in text.split(b";"):
        if not encoded:
            lines.append(None)
            continue
        line = _Line()
        column = 0
        in_order = True
        for segment in encoded.split(b","):
            if not segment:
                continue
            fields: list[int] = []
            value = shift = 0
            for character in segment:
                d = digit[character]
                if d == 0xFF or shift > _MAX_SHIFT:
                    raise MalformedData(where, f"bad character or number in {segment[:20]!r}")
                value |= (d & 31) << shift
                if d & 32:
                    shift += 5
                else:
                    fields.append(-(value >> 1) if value & 1 else value >> 1)
                    value = shift = 0
            if shift or len(fields) not in {1, 4, 5}:
                raise MalformedData(where, f"segment {segment[:20]!r} is cut off")
            column += fields[0]
            if line.column and column < line.column[-1]:
                in_order = False
            named = -1
            if len(fields) == 1:
                here = _NO_SOURCE
            else:
                source += fields[1]
                original_line += fields[2]
                original_column += fields[3]
                here = source
                if len(fields) == 5:
                    name += fields[4]
                    named = name
            try:
                line.column.append(column)
                line.source.append(here)
                line.original_line.append(original_line)
                line.original_column.append(original_column)
                line.name.append(named)
            except OverflowError as err:
                raise MalformedData(where, "a number exceeds 32 bits") from err
        lines.append(line if in_order else _sorted(line))
    return lines


def _sorted(line: _Line) -> _Line:
    """Return the segments in the order of their columns, which the format only recommends."""
    order = sorted(range(len(line.column)), key=line.column.__getitem__)
    result = _Line()
    for field in _Line.__slots__:
        column = getattr(line, field)
        setattr(result, field, array("i", [column[i] for i in order]))
    return result
