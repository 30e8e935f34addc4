"""The code that V8 has generated, as a perf map lists it: address, size, name.

Code objects say what they are, but not all say whose they are:

    TurboFan, Maglev    their deoptimization data name the SharedFunctionInfo
    baseline            nothing leads from it to its function: the SharedFunctionInfos are searched
                        for the one that leads to it
    regular expressions the object that holds pattern, flags and code is searched for

So the heap is searched, once, for words that are the map of SharedFunctionInfos, or a piece of such
code: 4 ms for each MiB. Names are spelled as V8 spells them with --perf-basic-prof. Interpreted
functions have no code of their own, so no map can name them: they all run in the interpreter's
trampoline, which is part of node.

WebAssembly is not in the list: its pages hold no objects. Nor is code whose function is not found,
and what V8 before 7 had for builtins: code objects without a name. A regular expression whose
pattern is not found is `RegExp:(unknown)`.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jsspy.errors import FaultError, MalformedData
from jsspy.model.names import clean
from jsspy.model.units import Address
from jsspy.target.maps import Mapping
from jsspy.target.process import Target, V8Binary
from jsspy.unwind.base import CodeMap, Region
from jsspy.v8.builtins import BuiltinTable
from jsspy.v8.code import CodeObject, CodeReader
from jsspy.v8.function import FunctionReader, SharedFunctionInfo
from jsspy.v8.heap import Heap, is_smi, smi_value
from jsspy.v8.isolates import ThreadFinder
from jsspy.v8.layout import CodeKind, Layout
from jsspy.v8.strings import read_string

_MARKS = {CodeKind.BASELINE: "^", CodeKind.MAGLEV: "+", CodeKind.TURBOFAN: "*"}
_SEARCHED_BYTES = 1 << 20
_PAGE_BYTES = 4096
_MAX_HEAP_BYTES = 8 << 30
"""Searched at most: half a minute."""
_MAX_CODES = 1 << 17
_MAX_PATTERN = 200
_REGEXP_WORDS = 10
"""How far before its code the pattern of a regular expression is: 2 words up to V8 12, 6 since."""
_MAX_FLAGS = 1 << 12
_CODE_WORDS = 5
"""Among which in a Code its wrapper is."""


class MapEntry(NamedTuple):
    """One line of a perf map."""

    start: int
    size: int
    name: str

    @property
    def end(self) -> int:
        """Address after the last byte."""
        return self.start + self.size


class CodeLister:
    """Lists the generated code of one process, again and again; names are found once."""

    def __init__(self, target: Target, v8: V8Binary, layout: Layout) -> None:
        self._target = target
        self._layout = layout
        self._builtins = v8.elf.derive(BuiltinTable, layout.embedded_blob or (0, 0))
        self._renew_readers()
        self._finder = ThreadFinder(target, v8, layout)
        self._code_map = CodeMap(target, v8, layout)
        self._names: dict[tuple[int, int], tuple[dict[int, bytes], str]] = {}
        """(start, size) -> guards, and the name; "" if it was searched for and not found."""
        self._function_maps: dict[int, int] = {}
        """Isolate -> map of SharedFunctionInfos."""

    def _renew_readers(self) -> None:
        """Forget what the readers believe: it may be a second old."""
        self._heap = Heap(self._target.memory, self._layout)
        self._functions = FunctionReader(self._heap)
        self._codes = CodeReader(self._heap, self._functions)

    def entries(self) -> list[MapEntry]:
        """Return what there is now, by address.

        Raises:
            ProcessExited: The process is gone.
        """
        self._renew_readers()
        for plan in self._finder.find():
            self._codes.learn_isolate(plan.isolate)
            if plan.isolate not in self._function_maps:
                wanted = self._layout.types.shared_function_info
                if (found := self._codes.find_map(plan.isolate, wanted)) is not None:
                    self._function_maps[plan.isolate] = found[1]
        self._code_map.refresh()
        mappings = self._target.address_space().mappings
        found_codes: list[CodeObject] = []
        result: list[MapEntry] = []
        for mapping in mappings:
            if not mapping.is_executable or mapping.is_file:
                continue
            for code in self._codes.iter_codes(mapping):
                found_codes.append(code)
                if len(found_codes) >= _MAX_CODES:
                    break
            result.extend(self._copied_builtins(mapping))
        result.extend(self._name_all(found_codes, mappings))
        return sorted(result)

    def _copied_builtins(self, mapping: Mapping) -> Iterator[MapEntry]:
        """Yield the builtins that V8 has copied into a mapping without a file."""
        at: int = mapping.start
        while at < mapping.end:
            area = self._code_map.find(at)
            if area.region is Region.BUILTINS:
                for builtin in self._builtins:
                    start = builtin.start + area.bias
                    if area.start <= start < area.end:
                        name = f"Builtin:{builtin.name}"
                        if builtin.is_handler:
                            name = f"BytecodeHandler:{builtin.name.removesuffix('Handler')}"
                        yield MapEntry(start, builtin.end - builtin.start, name)
            at = max(area.end, at + _PAGE_BYTES)

    def _name_all(self, codes: list[CodeObject], mappings: Iterable[Mapping]) -> list[MapEntry]:
        """Name code objects; those whose owner must be searched for, by one search for all."""
        names: dict[tuple[int, int], tuple[dict[int, bytes], str]] = {}
        unnamed: dict[int, CodeObject] = {}
        for code in codes:
            key = (code.start, code.size)
            known = self._names.get(key)
            if known is not None and known[0] == code.guards:
                names[key] = known
                continue
            guards = dict(code.guards)
            shared = self._own_function(code)
            if shared is not None:
                names[key] = guards, self._function_name(code, shared)
            elif code.kind in _SEARCHED:
                unnamed[code.address + 1] = code
                if code.kind is CodeKind.REGEXP and (wrapper := self._wrapper_of(code)):
                    unnamed[wrapper] = code
        if unnamed:
            guards_of = {word: dict(code.guards) for word, code in unnamed.items()}
            found = dict(self._search(unnamed, mappings))
            for word, code in unnamed.items():
                unknown = "RegExp:(unknown)" if code.kind is CodeKind.REGEXP else ""
                key = code.start, code.size
                if word in found or key not in names:
                    names[key] = guards_of[word], found.get(word, unknown)
        self._names = names
        return [MapEntry(start, size, name) for (start, size), (_, name) in names.items() if name]

    def _own_function(self, code: CodeObject) -> SharedFunctionInfo | None:
        """Return the function of optimized code."""
        if code.kind not in _OPTIMIZED:
            return None
        # Before the first instruction nothing is inlined: the one place is the function itself.
        places = self._codes.positions(code, code.end, is_return_address=False)
        if not places or not places[-1].shared:
            return None
        return self._functions.read_shared(places[-1].shared)

    def _wrapper_of(self, code: CodeObject) -> int:
        """Return the CodeWrapper that objects outside of the trusted space refer to code by; or 0.

        V8 12. Source: src/objects/code.h at 12.4.254.
        """
        try:
            for word in self._heap.read_words(code.address + 1, 8, _CODE_WORDS):
                if word & 3 != 1 or self._heap.read_field(word, 8) != code.address + 1:
                    continue
                if self._heap.instance_type(word) != self._layout.types.instruction_stream:
                    return word
        except FaultError:
            pass
        return 0

    def _function_name(self, code: CodeObject, info: SharedFunctionInfo) -> str:
        """Return what V8 calls the code of a function: `JS:*name url:line:column`."""
        place = ""
        if info.script is not None:
            place = f" {info.script.url}"
            at = info.script.line_column(info.start) if info.start >= 0 else None
            if at is not None:
                place += f":{at[0]}:{at[1]}"
        mark = _MARKS.get(code.kind, "*" if code.kind is CodeKind.LEGACY_OPTIMIZED else "~")
        return clean(f"JS:{mark}{info.name}{place}")

    # Searching the heap

    def _search(
        self, codes: dict[int, CodeObject], mappings: Iterable[Mapping]
    ) -> Iterator[tuple[int, str]]:
        """Yield (tagged code, name) of the code whose owner is found.

        Args:
            codes: By tagged pointer.
            mappings: Where objects may be.
        """
        memory = self._target.memory
        regexps = {word for word, code in codes.items() if code.kind in _REGEXPS}
        functions = codes.keys() - regexps
        wanted = regexps | (set(self._function_maps.values()) if functions else set())
        left = _MAX_HEAP_BYTES
        for mapping in mappings:
            if mapping.is_file or mapping.permissions[:2] != "rw" or mapping.path == "[stack]":
                continue
            at: int = mapping.start
            while at < mapping.end and left > 0:
                size = min(_SEARCHED_BYTES, mapping.end - at)
                left -= size
                try:
                    data = memory.read(Address(at), size)
                except FaultError:
                    at += _PAGE_BYTES
                    continue
                words = array("Q", data[: size & ~7])
                for hit in wanted.intersection(words):
                    for index in _indexes(words, hit):
                        where = at + 8 * index
                        if hit in regexps:
                            pattern = self._pattern_before(where)
                            if pattern is not None:
                                yield hit, f"RegExp:{pattern}"
                        else:
                            yield from self._code_of(where + 1, functions, codes)
                at += size

    def _code_of(
        self, shared: int, wanted: Iterable[int], codes: dict[int, CodeObject]
    ) -> Iterator[tuple[int, str]]:
        """Yield the code that a SharedFunctionInfo leads to, if it is wanted."""
        heap, objects, types = self._heap, self._layout.objects, self._layout.types
        slots = [objects.sfi_function_data, objects.sfi_untrusted_function_data, objects.sfi_code]
        try:
            fields = [heap.read_field(shared, slot) for slot in slots if slot is not None]
            for field in list(fields):
                # V8 9: BaselineData holds code and bytecode.
                if types.baseline_data != -1 and heap.instance_type(field) == types.baseline_data:
                    fields += heap.read_words(field, 8, 2)
        except FaultError:
            return
        for field in set(fields).intersection(wanted):
            info = self._functions.read_shared(shared)
            if info is not None:
                yield field, self._function_name(codes[field], info)

    def _pattern_before(self, where: int) -> str | None:
        """Return the pattern of a regular expression whose code's slot is at `where`.

        Up to V8 12 that is in a FixedArray (tag, source, flags, code, ...), since in a RegExpData
        (type, source, flags, wrapper, bytecode twice, code twice): the source is a String that is
        followed by flags. Source: src/objects/js-regexp.h at 11.3.244; js-regexp.tq at 13.6.233.
        """
        heap = self._heap
        try:
            data = self._target.memory.read(Address(where - 8 * _REGEXP_WORDS), 8 * _REGEXP_WORDS)
        except FaultError:
            return None
        words = array("Q", data)
        for source, flags in zip(words[-2::-1], words[:0:-1], strict=False):
            if not is_smi(flags) or not 0 <= smi_value(flags) < _MAX_FLAGS or source & 3 != 1:
                continue
            kind = heap.instance_type(source)
            if kind is not None and kind < self._layout.types.first_nonstring:
                try:
                    return clean(read_string(heap, source)[:_MAX_PATTERN])
                except (FaultError, MalformedData):
                    return None
        return None


_OPTIMIZED = frozenset({CodeKind.TURBOFAN, CodeKind.MAGLEV, CodeKind.LEGACY_OPTIMIZED})
_REGEXPS = frozenset({CodeKind.REGEXP, CodeKind.BUILTIN_OR_REGEXP})
_SEARCHED = frozenset({CodeKind.BASELINE, CodeKind.FULL_CODEGEN}) | _REGEXPS


def _indexes(words: array[int], word: int) -> Iterator[int]:
    """Yield where a word stands."""
    index = -1
    try:
        while True:
            index = words.index(word, index + 1)
            yield index
    except ValueError:
        return


def format_map(entries: Iterable[MapEntry]) -> bytes:
    """Return the text of a perf map. Source: tools/perf/Documentation/jit-interface.txt, v6.12."""
    return "".join(f"{e.start:x} {e.size:x} {e.name}\n" for e in entries).encode()


_LINE = re.compile(rb"(?:0x)?([0-9a-fA-F]{1,16}) (?:0x)?([0-9a-fA-F]{1,16}) (.+)")
_MAX_LINES = 1 << 22


def decode_map(data: bytes) -> EntryTable:
    """Decode a perf map; where entries overlap the last one in the file is right.

    Raises:
        MalformedData: A line is not an entry (the last one may be cut off).
    """
    table = EntryTable()
    table.add_lines(data)
    return table


class EntryTable:
    """Entries, no two of which overlap: what comes takes the place of what was there."""

    def __init__(self, entries: Iterable[MapEntry] = ()) -> None:
        self._starts: list[int] = []
        self._entries: dict[int, MapEntry] = {}
        for entry in sorted(entries):
            self._add(entry)

    def add_lines(self, data: bytes) -> int:
        """Add the lines of a perf map; return how many bytes they are, without half a line.

        Raises:
            MalformedData: A line is not an entry.
        """
        lines = data.split(b"\n")
        rest = lines.pop()  # empty, or half of a line that is being written
        if len(lines) > _MAX_LINES:
            raise MalformedData("perf map", f"{len(lines)} lines")
        for number, line in enumerate(lines, 1):
            match = _LINE.fullmatch(line)
            if match is None:
                raise MalformedData("perf map", f"line {number}: not `START SIZE NAME`")
            name = clean(match[3].decode("utf-8", "replace"))
            self._add(MapEntry(int(match[1], 16), int(match[2], 16), name))
        return len(data) - len(rest)

    def _add(self, entry: MapEntry) -> None:
        starts, entries = self._starts, self._entries
        if not entry.size:
            return
        first = bisect_left(starts, entry.start)
        if first and entries[starts[first - 1]].end > entry.start:
            first -= 1
        last = max(bisect_left(starts, entry.end), first)
        for gone in starts[first:last]:
            del entries[gone]
        starts[first:last] = [entry.start]
        entries[entry.start] = entry

    def entries(self) -> list[MapEntry]:
        """Return what there is, by address."""
        return [self._entries[start] for start in self._starts]

    def find(self, address: int) -> MapEntry | None:
        """Return the entry that contains `address`."""
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        entry = self._entries[self._starts[index]]
        return entry if address < entry.end else None


def keep_old(entries: Iterable[MapEntry], older: Iterable[MapEntry]) -> list[MapEntry]:
    """Return entries together with older ones in whose place there is nothing newer.

    Samples were taken while that code was there. The list cannot grow without bounds: no two
    entries overlap.
    """
    current = sorted(entries)
    result = list(current)
    index = 0
    for old in sorted(older):
        while index < len(current) and current[index].end <= old.start:
            index += 1
        if index == len(current) or old.end <= current[index].start:
            result.append(old)
    return sorted(result)
