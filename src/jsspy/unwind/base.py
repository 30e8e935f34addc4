"""What an unwinder is, its limits, and which kind of code a pc lies in."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from jsspy.model.capture import RawFrame, StackSnapshot
from jsspy.model.stack import Truncation
from jsspy.model.units import FileAddress
from jsspy.target.elf import ElfFile
from jsspy.target.maps import Mapping
from jsspy.target.process import Target, V8Binary
from jsspy.v8.layout import Layout

MAX_FRAMES = 1 << 16
"""Physical frames per stack: V8's default stack limit (984 KiB) allows about 20,000."""

MAP_REFRESH_S = 0.25
"""Least time between two readings of the target's mappings: one takes 0.2-1 ms."""

MAP_GROWING_S = 0.01
"""The same after a reading that told what was asked: nothing is gained by waiting."""

_PAGE_BITS = 12
_USER_END = 1 << 47
_PAGE_CACHE_CAP = 1 << 16
"""Pages remembered: 256 MiB of code, far more than any process runs at a time."""


_COPY_PROBE = 64
_COPY_PAGES_CAP = 1 << 15
"""Pages of one mapping searched for a copy of the builtins: 128 MiB, V8's largest code range."""


class Region(Enum):
    """Kinds of code, by who made it."""

    NATIVE = "native"
    """Mapped from a file: node itself, shared libraries, addons, the vdso."""
    BUILTINS = "builtins"
    """V8's embedded builtins, in node's own text or where V8 mapped or copied them to."""
    GENERATED = "generated"
    """Everything that is not native: V8's JIT code, and pages too new for our list of mappings.

    Code ranges are not listed on purpose: each worker brings its own, they come and go, and V8
    before 11 toggles their permissions. What is found there is checked by type before use.
    """
    NOWHERE = "nowhere"
    """Not an address of code at all."""


@dataclass(slots=True, eq=False)
class CodeArea:
    """A stretch of addresses with one kind of code; a pc's FileAddress is pc - `bias`."""

    start: int
    end: int
    region: Region
    mapping: Mapping | None
    elf: ElfFile | None
    bias: int


_NOWHERE = CodeArea(0, 0, Region.NOWHERE, None, None, 0)
_UNLISTED = CodeArea(0, 0, Region.GENERATED, None, None, 0)


class CodeMap:
    """Says what kind of code an address is, and re-reads the mappings when it does not know."""

    def __init__(
        self,
        target: Target,
        v8: V8Binary | None,
        layout: Layout | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._target = target
        self._v8 = v8
        self._blob = layout.embedded_blob if layout is not None else None
        self._clock = clock
        self._starts: list[int] = []
        self._areas: list[CodeArea] = []
        self._pages: dict[int, CodeArea] = {}
        self._next_refresh = 0.0
        self.generation = 0
        """Changes whenever an answer of `find` may have changed."""
        self.native_generation = 0
        """Changes whenever what is native or a builtin has changed."""
        self._natives: list[tuple[int, int, int, Mapping | None]] = []
        self._copies: dict[tuple[int, int], int] = {}
        self._refresh(again=False)
        # What the target read when it was opened may be older than its libraries.
        self._next_refresh = 0.0

    def find(self, pc: int) -> CodeArea:
        """Return the area that `pc` lies in."""
        page = pc >> _PAGE_BITS
        area = self._pages.get(page)
        if area is not None:
            return area
        if not 1 <= page < _USER_END >> _PAGE_BITS:
            return _NOWHERE
        area = self._lookup(pc)
        if area is None and self._clock() >= self._next_refresh:
            self._refresh(again=True)
            area = self._lookup(pc)
            if area is not None:
                # It is growing, as programs do while they start: look again as soon as need be.
                self._next_refresh = self._clock() + MAP_GROWING_S
        if area is None:
            return _UNLISTED
        first = page << _PAGE_BITS
        if area.start <= first and first + (1 << _PAGE_BITS) <= area.end:
            if len(self._pages) >= _PAGE_CACHE_CAP:
                self._pages.clear()
            self._pages[page] = area
        return area

    def refresh(self) -> None:
        """Forget what was known and read the target's mappings again."""
        self._refresh(again=True)

    def _lookup(self, pc: int) -> CodeArea | None:
        index = bisect_right(self._starts, pc) - 1
        if index < 0:
            return None
        area = self._areas[index]
        return area if pc < area.end else None

    def _refresh(self, *, again: bool) -> None:
        self._next_refresh = self._clock() + MAP_REFRESH_S
        self.generation += 1
        space = self._target.address_space(refresh=again)
        self._areas = [area for mapping in space.mappings for area in self._cut(mapping)]
        self._starts = [area.start for area in self._areas]
        natives = [
            (area.start, area.end, area.bias, area.mapping)
            for area in self._areas
            if area.region in (Region.NATIVE, Region.BUILTINS)
        ]
        if natives != self._natives:
            self._natives = natives
            self.native_generation += 1
        self._pages.clear()

    def _cut(self, mapping: Mapping) -> Iterator[CodeArea]:
        """Divide a mapping into areas; the embedded builtins lie in the middle of node's text."""
        start, end, path = mapping.start, mapping.end, mapping.path
        if not path or path.startswith("[anon"):
            # Permissions say nothing: V8 before 11 makes pages writable while it adds code to them.
            copy = self._find_copy(mapping)
            if copy is None or self._blob is None or self._v8 is None:
                yield CodeArea(start, end, Region.GENERATED, mapping, None, 0)
                return
            bias = copy - self._blob[0]
            yield from _split(mapping, Region.GENERATED, (self._blob, bias), self._v8.elf)
            return
        if "x" not in mapping.permissions:
            yield CodeArea(start, end, Region.NOWHERE, mapping, None, 0)
            return
        elf = self._target.elf(mapping)
        linked = elf.to_address(mapping.offset) if elf is not None else None
        if elf is None or linked is None:
            yield CodeArea(start, end, Region.NATIVE, mapping, None, 0)
            return
        bias = start - linked
        if self._v8 is None or self._blob is None or elf.identity != self._v8.elf.identity:
            yield CodeArea(start, end, Region.NATIVE, mapping, elf, bias)
            return
        # The same file may be mapped twice: V8 11 and later map their builtins once more, near
        # the code range, so that calls from JIT code are short.
        yield from _split(mapping, Region.NATIVE, (self._blob, bias), elf)

    def _find_copy(self, mapping: Mapping) -> int | None:
        """Return where in an anonymous mapping V8 has copied its embedded builtins to.

        Source: `Isolate::MaybeRemapEmbeddedBuiltinsIntoCodeRange` and
        `CodeRange::RemapEmbeddedBuiltins` in src/heap/code-range.cc, at 11.3.244: a page-aligned
        copy of the whole blob, made read-only and executable, where the file cannot be mapped.
        """
        if self._v8 is None or self._blob is None or mapping.permissions[:3] != "r-x":
            return None
        size = self._blob[1] - self._blob[0]
        if mapping.end - mapping.start < size:
            return None
        key = (mapping.start, mapping.end)
        known = self._copies.get(key)
        if known is not None:
            return known or None
        wanted = self._v8.elf.read(FileAddress(self._blob[0]), _COPY_PROBE)
        pages = range(mapping.start, mapping.end - size + 1, 1 << _PAGE_BITS)[:_COPY_PAGES_CAP]
        found = 0
        probes = self._target.memory.read_many([(page, _COPY_PROBE) for page in pages])
        for page, data in zip(pages, probes, strict=True):
            if data == wanted:
                found = page
                break
        self._copies[key] = found
        return found or None


def _split(
    mapping: Mapping, around: Region, blob: tuple[tuple[int, int], int], elf: ElfFile
) -> Iterator[CodeArea]:
    """Yield what lies before, in and after the embedded builtins."""
    (blob_start, blob_end), bias = blob
    first = min(max(blob_start + bias, mapping.start), mapping.end)
    last = min(max(blob_end + bias, mapping.start), mapping.end)
    outside = elf if around is Region.NATIVE else None
    outside_bias = bias if around is Region.NATIVE else 0
    if mapping.start < first:
        yield CodeArea(mapping.start, first, around, mapping, outside, outside_bias)
    if first < last:
        yield CodeArea(first, last, Region.BUILTINS, mapping, elf, bias)
    if last < mapping.end:
        yield CodeArea(last, mapping.end, around, mapping, outside, outside_bias)


class Unwinder(Protocol):
    """Turns a copied stack into physical frames."""

    def unwind(self, snapshot: StackSnapshot) -> tuple[list[RawFrame], Truncation | None]:
        """Return the frames, leaf first, and why they do not reach the thread's start."""
        ...
