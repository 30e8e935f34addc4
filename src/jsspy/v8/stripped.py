"""What symbols would have said of the V8 in a binary that was stripped.

`strip` leaves the metadata for post-mortem debuggers, which is exported, and takes the names of
V8's builtins. But V8 itself knows them, and where they are:

    builtin_metadata   one entry of 24 bytes for each: its name, its kind, ...
    embedded blob      one row for each, in the same order: offset, length, ...; code at the offset

Neither table is where anything says that it is. The first is found by what points to the string
"JSEntry", followed by the two other ways into JavaScript; the second by the distances between these
three, whose code is like no other. Then every row must lie behind another without a gap that is
more than padding. What does not come out so is not used.

Source: src/builtins/builtins.cc at 7.8.279 and 13.6.233, BuiltinMetadata; src/snapshot/embedded/
embedded-data.h at 7.8.279, 9.4.146, 10.2.154 and 13.6.233, EmbeddedData::LayoutDescription.
"""

from __future__ import annotations

import json
import re
import struct
from array import array
from itertools import pairwise
from weakref import WeakKeyDictionary

from jsspy.errors import FaultError, MalformedData
from jsspy.model.units import FileAddress
from jsspy.target import cache
from jsspy.target.elf import ElfFile, Section, Symbol

PREFIX = "Builtins_"
_SYMBOLS = re.compile(rb"Builtins_[A-Za-z0-9_]+")
_CACHE_KIND = "builtins-1"

_STT_FUNC = 2
_R_RELATIVE = 8
_RELOCATION_SIZE = 24
_MAX_SECTION = 1 << 28
_MAX_RELOCATIONS = 1 << 22

_ENTRIES = ("JSEntry", "JSConstructEntry", "JSRunMicrotasksEntry")
"""In this order in all versions, and alike except for one constant."""

_METADATA_SIZE = 24
_MAX_KIND = 16
"""Of builtins: 7 in V8 7.8, 9 in 14.6. The second word of an entry."""
_MAX_BUILTINS = 1 << 14
_MIN_BUILTINS = 500
_MAX_NAME = 128
_NAME = re.compile(rb"([A-Za-z_]\w*)\0", re.ASCII)

_ENTRY_CODE = re.compile(
    # push rbp; mov rbp, rsp; pushes; mov r13, rdi; push [r13+d]
    rb"\x55\x48\x89\xe5(?:\x6a.|\x48\x83\xec\x08|\x41[\x50-\x57]|[\x50-\x57]){6,12}"
    rb"(?:\x48\xc7.{6})?(?:\x49\x89\xfd|\x4c\x8b\xef).{0,32}?\x41\xff\xb5",
    re.DOTALL,
)
_PADDING = b"\xcc"
_ALIGNMENT = 32
"""Bytes: of builtins, 64 in later versions."""
_MAX_GAP = 128
_MAX_ROW = 8
"""Words of a row."""
_BEFORE_CODE = 1 << 17
"""Bytes: before V8 8.5 the rows are right in front of the code."""

_TLS_LOAD = re.compile(rb"\x64\x48\x8b\x04\x25(....)", re.DOTALL)
"""mov rax, fs:[d]"""
_CURRENT = ("_ZN2v87Isolate13TryGetCurrentEv", "_ZN2v87Isolate10GetCurrentEv")
"""Of V8's public interface, so never stripped."""
_CURRENT_SIZE = 48

_BYTECODE_SIZES = tuple(
    # Wide, ExtraWide, two for debugging, then DebugBreak0 to 4 with as many registers.
    bytes([1, 1, 1, 1, *(1 + scale * count for count in range(5))])
    for scale in (1, 2, 4)
)
_BYTECODES = (100, 256)


_known: WeakKeyDictionary[ElfFile, dict[str, Symbol]] = WeakKeyDictionary()


def builtin_symbols(elf: ElfFile) -> dict[str, Symbol]:
    """Return V8's embedded builtins by symbol, `Builtins_…`; none before V8 7.

    Reads up to 100 MB the first time if the symbols were stripped; later answers come from a cache.
    """
    if elf not in _known:
        _known[elf] = elf.find_symbols(_SYMBOLS) or _load_builtins(elf)
    return _known[elf]


def _load_builtins(elf: ElfFile) -> dict[str, Symbol]:
    data = cache.load(elf.identity, _CACHE_KIND)
    if data is None:
        try:
            found = _find_builtins(elf)
        except (FaultError, MalformedData):
            found = []
        data = json.dumps(found, separators=(",", ":")).encode()
        cache.store(elf.identity, _CACHE_KIND, data)
    rows: list[tuple[str, int, int]] = json.loads(data)
    return {
        PREFIX + name: Symbol(PREFIX + name, FileAddress(address), size, _STT_FUNC)
        for name, address, size in rows
    }


def find_isolate_tls(elf: ElfFile) -> int | None:
    """Return where the current isolate is relative to fs_base; None if that is not said.

    What returns it loads it from there, in a program; a library asks the dynamic linker, and has
    the symbol.
    """
    pattern = re.compile("|".join(_CURRENT).encode())
    for symbol in elf.find_symbols(pattern).values():
        try:
            code = elf.read(symbol.address, _CURRENT_SIZE)
        except FaultError:
            continue
        match = _TLS_LOAD.search(code)
        if match:
            return int.from_bytes(match[1], "little", signed=True)
    return None


def find_bytecode_sizes(elf: ElfFile) -> bytes:
    """Return kBytecodeSizes, one byte per bytecode and operand scale; b"" if it is not found.

    It is found by the bytecodes for debuggers, which are first and have 0 to 4 registers each.
    Source: BYTECODE_LIST in src/interpreter/bytecodes.h at 9.4.146, 13.6.233 and 14.6.202.
    """
    data = _read(elf, elf.section(".rodata"))
    at = data.find(_BYTECODE_SIZES[0])
    found = set()
    while at >= 0:
        for count in range(*_BYTECODES):
            if all(
                data.startswith(row, at + scale * count)
                for scale, row in enumerate(_BYTECODE_SIZES)
            ):
                found.add(data[at : at + 3 * count])
        at = data.find(_BYTECODE_SIZES[0], at + 1)
    return found.pop() if len(found) == 1 else b""


def _find_builtins(elf: ElfFile) -> list[tuple[str, int, int]]:
    """Return (name, address, size) of each builtin; none if any part of it does not fit.

    Raises:
        FaultError, MalformedData: A section lies outside of the file.
    """
    names = _find_names(elf)
    entries = _find_entries(elf)
    if _ENTRIES[0] not in names or len(entries) != len(_ENTRIES):
        return []
    first = names.index(_ENTRIES[0])
    for table in _iter_tables(elf, entries[0][0]):
        rows = _find_rows(table, first, len(names), entries)
        if rows:
            base = entries[0][0] - rows[first][0]
            return [
                (name, base + offset, size)
                for name, (offset, size) in zip(names, rows, strict=True)
            ]
    return []


def _read(elf: ElfFile, section: Section | None) -> bytes:
    return b"" if section is None else elf.read_section(section, _MAX_SECTION)


def _find_names(elf: ElfFile) -> list[str]:
    """Return the names of all builtins in V8's order."""
    constants = elf.section(".rodata")
    text = _read(elf, constants)
    at = text.find(f"\0{_ENTRIES[0]}\0".encode()) + 1
    if constants is None or not at:
        return []
    relocations = _read_relocations(elf)
    for section in (constants, elf.section(".data.rel.ro"), elf.section(".data")):
        table = _Pointers(elf, section, relocations)
        for place in table.find(constants.address + at):
            before = _walk(table, place, -_METADATA_SIZE, text, constants.address)
            after = _walk(table, place, _METADATA_SIZE, text, constants.address)
            if (_ENTRIES[0], *after[:2]) == _ENTRIES:
                return [*reversed(before), _ENTRIES[0], *after]
    return []


def _walk(table: _Pointers, place: int, step: int, text: bytes, address: int) -> list[str]:
    """Return the names from one entry of the metadata on, in one direction."""
    names: list[str] = []
    while len(names) < _MAX_BUILTINS:
        place += step
        offset = table.read(place) - address
        name = _NAME.match(text, offset, offset + _MAX_NAME) if offset > 0 else None
        if name is None or not 0 <= table.read(place + 8) < _MAX_KIND:
            break
        names.append(name[1].decode())
    return names


def _read_relocations(elf: ElfFile) -> dict[int, int]:
    """Return address -> value of what the dynamic linker makes absolute; its bytes may be 0."""
    section = elf.section(".rela.dyn")
    if section is None:
        return {}
    data = elf.read_section(section, _RELOCATION_SIZE * _MAX_RELOCATIONS)
    words = array("Q", data[: len(data) // _RELOCATION_SIZE * _RELOCATION_SIZE])
    return {
        address: value
        for address, kind, value in zip(words[::3], words[1::3], words[2::3], strict=True)
        if kind == _R_RELATIVE
    }


class _Pointers:
    """The pointers in a section, whether they are in the file or made by the dynamic linker."""

    def __init__(self, elf: ElfFile, section: Section | None, relocations: dict[int, int]) -> None:
        self._data = _read(elf, section)
        self._address = 0 if section is None else section.address
        self._relocations = relocations

    def find(self, value: int) -> list[int]:
        """Return the addresses of pointers to `value`."""
        wanted = struct.pack("<Q", value)
        places = []
        at = self._data.find(wanted)
        while at >= 0:
            if at % 8 == 0:
                places.append(self._address + at)
            at = self._data.find(wanted, at + 1)
        end = self._address + len(self._data)
        places += [
            place
            for place, target in self._relocations.items()
            if target == value and self._address <= place < end
        ]
        return places

    def read(self, address: int) -> int:
        """Return the pointer at an address; -1 outside of the section."""
        offset = address - self._address
        if not 0 <= offset <= len(self._data) - 8:
            return -1
        (value,) = struct.unpack_from("<Q", self._data, offset)
        return self._relocations.get(address, int(value))


def _find_entries(elf: ElfFile) -> list[tuple[int, int]]:
    """Return (address, size) of the ways into JavaScript, in order of address."""
    section = elf.section(".text")
    code = _read(elf, section)
    if section is None:
        return []
    places = [
        match.start()
        for match in _ENTRY_CODE.finditer(code)
        if (section.address + match.start()) % _ALIGNMENT == 0
    ]
    if len(places) != len(_ENTRIES):
        return []
    # They follow each other, so the third is as long as the first.
    step = places[1] - places[0]
    if places[2] - places[1] != step or step > len(code) - places[2]:
        return []
    return [
        (section.address + place, -(-len(code[place : place + step].rstrip(_PADDING)) // 4) * 4)
        for place in places
    ]


def _iter_tables(elf: ElfFile, entry: int) -> list[bytes]:
    """Return what may hold the rows: the constants, or what stands before the code."""
    section = elf.section(".text")
    before = b""
    if section is not None:
        start = max(entry // 4 * 4 - _BEFORE_CODE, section.address)
        before = elf.read(FileAddress(start), entry // 4 * 4 - start)
    return [_read(elf, elf.section(".rodata")), before]


def _find_rows(
    table: bytes, first: int, count: int, entries: list[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return (offset, length) of each builtin from the one table that has room for them all."""
    words = memoryview(table[: len(table) // 4 * 4]).cast("I")
    (start, size), distances = entries[0], [address - entries[0][0] for address, _ in entries]
    wanted = struct.pack("<I", size)
    at = table.find(wanted)
    while at >= 0:
        index = at // 4 - 1
        if at % 4 == 0 and index >= 0:
            for row in range(2, _MAX_ROW + 1):
                head, end = index - row * first, index + row * (count - first)
                if head < 0 or end > len(words):
                    continue
                if [words[index + row * i] - words[index] for i in range(3)] != distances:
                    continue
                rows = list(zip(words[head:end:row], words[head + 1 : end : row], strict=False))
                if len(rows) == count and _are_contiguous(rows, start):
                    return rows
        at = table.find(wanted, at + 1)
    return []


def _are_contiguous(rows: list[tuple[int, int]], entry: int) -> bool:
    """Say whether rows cover one stretch of code, each once."""
    ordered = sorted(rows)
    return (
        len(rows) >= _MIN_BUILTINS
        and ordered[0][0] < entry
        and all(
            0 <= offset - (before + size) < _MAX_GAP
            for (before, size), (offset, _) in pairwise(ordered)
        )
    )
