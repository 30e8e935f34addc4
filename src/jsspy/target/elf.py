"""ELF files as far as a profiler needs them: segments, sections, symbols, build id, bytes.

ELF64, little-endian, x86-64 only. The file belongs to whoever started the target, so nothing in it
is believed before it is checked, and it may change at any moment: all reading is `pread` with
explicit bounds. It is never mapped, because a file that is cut short under a mapping kills its
reader with SIGBUS.

Symbol tables are large (210 000 entries in Node 26, with 22 MiB of names), so they are handled as
columns: a table is read once as bytes, its fields are strided slices of it, and selecting works on
a column of one byte per symbol. Names stay where they are until somebody asks for one.

    Elf64_Sym, 24 bytes:  name u32 | info u8 | other u8 | section u16 || value u64 || size u64

.symtab is preferred over .dynsym, of which it is nearly always a superset: since Node 24 most of
V8's C++ symbols are local and only there. Debian's libnode.so has .dynsym alone.

Source of all layouts: System V ABI, chapters "Object Files" and "Program Loading"; the x86-64
supplement; /usr/include/elf.h.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct

# What hashlib gives out as blake2b, without the 3 ms that it takes to load OpenSSL.
from _blake2 import blake2b
from array import array
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cached_property
from itertools import compress
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

from jsspy.errors import FaultError, MalformedData, UnsupportedTarget
from jsspy.model.units import FileAddress
from jsspy.target import cache

PT_LOAD, PT_NOTE, PT_TLS, PT_GNU_EH_FRAME = 1, 4, 7, 0x6474E550
SHT_SYMTAB, SHT_NOBITS, SHT_DYNSYM = 2, 8, 11
SHF_EXECINSTR = 4
STT_NOTYPE, STT_OBJECT, STT_FUNC, STT_TLS, STT_GNU_IFUNC = 0, 1, 2, 6, 10
NT_GNU_BUILD_ID = 3

MAX_SYMBOLS = 1 << 21
"""Ten times what Node 26 has; 48 MiB of table."""

MAX_STRING_TABLE = 256 << 20
MAX_NAME = 16 << 10
"""Bytes; the longest name in Node 26 has 2 KiB. Longer ones are cut, so that tables without
terminators cost no more than others."""

MAX_NOTES = 1 << 16
"""Bytes of a note segment that are looked at for the build id."""

CACHE_FROM = 20_000
"""Symbols from which on results are worth a cache entry (0.3 to 1 µs each without it)."""

_CACHE_KIND = "functions-2"
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")
_TABLE_HEAD = struct.Struct("<QQ")
_PAGE = 4096

_Made = TypeVar("_Made")
_Arguments = ParamSpec("_Arguments")

_IS_CODE = bytes(
    1 if info & 15 in {STT_NOTYPE, STT_FUNC, STT_GNU_IFUNC} else 0 for info in range(256)
)
"""By st_info: may be a function (labels in assembly have no type)."""


def _name_rank(info: int) -> int:
    """Order the symbols of one address: functions before labels, global before weak and local."""
    binding = {1: 0, 2: 1}.get(info >> 4, 2)
    return binding + (4 if info & 15 == STT_NOTYPE else 0)


_RANK = tuple(_name_rank(info) for info in range(256))
_FIRST_UNTYPED_RANK = 4


class Symbol(NamedTuple):
    """A symbol with its name as in the file (mangled)."""

    name: str
    address: FileAddress
    """For STT_TLS: the offset in the thread-local segment."""
    size: int
    type: int


class Segment(NamedTuple):
    """A program header."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int
    memory_size: int
    alignment: int


class Section(NamedTuple):
    """A section header."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    entry_size: int
    link: int


class _SymbolTable(NamedTuple):
    """A symbol table's bytes, and where in the file its names are."""

    data: bytes
    names_offset: int
    names_size: int

    def __len__(self) -> int:
        return len(self.data) // 24


class FunctionTable:
    """The functions of one file, sorted by address, one per address. 13 bytes each."""

    __slots__ = ("_base", "_elf", "_names", "_sizes", "_starts", "_types")

    def __init__(
        self,
        elf: ElfFile,
        base: int,
        starts: Sequence[int],
        sizes: Sequence[int],
        names: Sequence[int],
        types: bytes | bytearray,
    ) -> None:
        self._elf = elf
        self._base = base
        self._starts = starts
        self._sizes = sizes
        self._names = names
        self._types = types

    def __len__(self) -> int:
        return len(self._starts)

    def find(self, address: FileAddress) -> Symbol | None:
        """Return the function that contains `address`.

        Functions without a size reach to the next one, or to the end of their section; this is
        the size that the result has. In a stripped file it is not known how far they reach, and
        they are not found.
        """
        offset = address - self._base
        index = bisect_right(self._starts, offset) - 1
        # Code with a symbol of its own may lie inside of a larger function: look a few back.
        for candidate in range(index, max(index - 4, -1), -1):
            start, size = self._starts[candidate], self._sizes[candidate]
            if start <= offset < start + size:
                name = self._elf.read_name(self._names[candidate])
                return Symbol(name, FileAddress(self._base + start), size, self._types[candidate])
        return None

    def encode(self) -> bytes:
        """Return the table as bytes, for the cache."""
        columns = (array("I", column) for column in (self._starts, self._sizes, self._names))
        head = _TABLE_HEAD.pack(self._base, len(self))
        return b"".join([head, *(column.tobytes() for column in columns), self._types])

    @classmethod
    def decode(cls, elf: ElfFile, data: bytes) -> FunctionTable | None:
        """Return the table that `encode` wrote, without copying; None if it is none."""
        if len(data) < _TABLE_HEAD.size:
            return None
        base, count = _TABLE_HEAD.unpack_from(data)
        if len(data) != _TABLE_HEAD.size + 13 * count:
            return None
        words = memoryview(data)[_TABLE_HEAD.size : _TABLE_HEAD.size + 12 * count].cast("I")
        starts, sizes, names = (words[i * count : (i + 1) * count] for i in range(3))
        return cls(elf, base, starts, sizes, names, data[_TABLE_HEAD.size + 12 * count :])


class ElfFile:
    """An executable or shared library on disk, or its image in memory (the vdso)."""

    def __init__(self, name: str, source: int | bytes) -> None:
        """Take over `source`, a file descriptor or the whole file.

        Raises:
            MalformedData: Not an ELF file, or its headers lie outside of it.
            UnsupportedTarget: Not for 64-bit little-endian x86-64.
        """
        self.name = name
        self._fd = -1 if isinstance(source, bytes) else source
        self._image = source if isinstance(source, bytes) else b""
        status = None if isinstance(source, bytes) else os.fstat(source)
        if status is not None and not stat.S_ISREG(status.st_mode):
            raise MalformedData(name, "not a regular file")
        self._size = len(self._image) if status is None else status.st_size
        head = self._pread(0, _EHDR.size, "ELF header")
        ident, kind, machine, _, entry, phoff, shoff, *_rest = _EHDR.unpack(head)
        _, _, phentsize, phnum, shentsize, shnum, shstrndx = _rest
        if ident[:4] != b"\x7fELF":
            raise MalformedData(name, "not an ELF file")
        if ident[4:6] != b"\x02\x01" or machine != 62:
            raise UnsupportedTarget(f"{name} is not for little-endian 64-bit x86-64")
        self.is_relocatable = kind == 3
        """Linked to be loaded anywhere (ET_DYN)."""
        self.entry = FileAddress(entry)
        """Where a program begins; 0 where the file is no program."""
        segments = self._read_table(phoff, phentsize, phnum, _PHDR.size, "program headers")
        rows = _PHDR.iter_unpack(segments)
        self.segments = tuple(Segment(*row[:4], *row[5:]) for row in rows)  # 4 is p_paddr
        self._loads = tuple(segment for segment in self.segments if segment.type == PT_LOAD)
        sections = self._read_table(shoff, shentsize, shnum, _SHDR.size, "section headers")
        self.sections = self._read_sections(sections, shstrndx)
        self.tls = next((segment for segment in self.segments if segment.type == PT_TLS), None)
        self.build_id = self._read_build_id()
        """Hexadecimal; "" if there is none."""
        # A stripped copy keeps the build id and anybody can forge one, so the id alone would let
        # one file answer for another: headers, inode and change time are part of the key.
        digest = blake2b(head + segments + sections + self.build_id.encode(), digest_size=16)
        if status is not None:
            digest.update(struct.pack("<QQQ", status.st_size, status.st_ino, status.st_ctime_ns))
        self.identity = digest.hexdigest()
        """Key for what is cached about this very file."""
        self._derived: dict[Hashable, Any] = {}

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, name: str | None = None) -> Self:
        """Open the file at `path`.

        Args:
            path: Where it can be opened.
            name: The path to show to people, where it is another one.

        Raises:
            OSError: It cannot be opened.
            MalformedData: Not an ELF file, or its headers lie outside of it.
            UnsupportedTarget: Not for 64-bit little-endian x86-64.
        """
        shown = os.fspath(path) if name is None else name
        # NONBLOCK: the path may be one of the target's own making, a fifo for example.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return cls(shown, fd)
        except BaseException:
            os.close(fd)
            raise

    def derive(
        self,
        make: Callable[Concatenate[ElfFile, _Arguments], _Made],
        *arguments: _Arguments.args,
        **keywords: _Arguments.kwargs,
    ) -> _Made:
        """Return what `make` makes of this file, the same one for all who ask.

        Many processes run one program: what is known of its file is kept once, not by process.

        Args:
            make: A class or function; with its arguments it is the key.
            arguments: What it takes beside the file; hashable.
            keywords: Likewise.
        """
        key = (make, arguments, tuple(keywords.items()))
        if key not in self._derived:
            self._derived[key] = make(self, *arguments, **keywords)
        made: _Made = self._derived[key]
        return made

    def close(self) -> None:
        """Close the file. Reading fails from here on."""
        self._derived.clear()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._size = 0

    def read(self, address: FileAddress | int, size: int) -> bytes:
        """Return `size` bytes at an address as linked; what the file does not hold (.bss) is 0.

        Raises:
            FaultError: They do not lie in one loadable segment.
        """
        for segment in self._loads:
            offset = address - segment.address
            if offset >= 0 and offset + size <= segment.memory_size and size >= 0:
                stored = max(0, min(size, segment.file_size - offset))
                if not stored:
                    return bytes(size)
                try:
                    data = self._pread(segment.offset + offset, stored, "segment")
                except MalformedData as error:
                    raise FaultError(address, size) from error
                return data + bytes(size - stored)
        raise FaultError(address, size)

    def to_address(self, file_offset: int) -> FileAddress | None:
        """Return the address as linked of a byte of the file, or None if it is not loaded.

        A page of the file can be mapped twice, at the end of one segment and at the start of the
        next: ask for the exact byte (pc - mapping.start + mapping.offset), not for its page.
        """
        for slack in (1, _PAGE):  # mappings begin and end at pages, segments need not
            for segment in self._loads:
                start = segment.offset // slack * slack
                end = -(-(segment.offset + segment.file_size) // slack) * slack
                if start <= file_offset < end:
                    return FileAddress(segment.address + file_offset - segment.offset)
        return None

    def section(self, name: str) -> Section | None:
        """Return the first section of this name."""
        return next((section for section in self.sections if section.name == name), None)

    def read_section(self, section: Section, limit: int) -> bytes:
        """Return the first `limit` bytes of a section as they are in the file.

        Raises:
            MalformedData: It lies outside of the file.
        """
        if section.type == SHT_NOBITS:
            return b""
        return self._pread(section.offset, min(section.size, limit), section.name)

    def find_symbols(self, pattern: re.Pattern[bytes]) -> dict[str, Symbol]:
        """Return the defined symbols whose whole name matches `pattern`, by name.

        .symtab comes before .dynsym, global before local, then the first in the file. Sizes are
        as in the file: 0 for all of V8's builtins in Node 12. What was found in a large file is
        cached by pattern: 0.1 s for Node 26 the first time, 1 ms after that.

        Raises:
            MalformedData: A symbol or string table lies outside of the file.
        """
        if not self._is_worth_caching:
            return self._scan_symbols(pattern)
        key = f"{pattern.flags} ".encode() + pattern.pattern
        kind = f"symbols-1-{blake2b(key, digest_size=8).hexdigest()}"
        data = cache.load(self.identity, kind)
        if data is not None:
            return _decode_symbols(data)
        found = self._scan_symbols(pattern)
        cache.store(self.identity, kind, _encode_symbols(found))
        return found

    def _scan_symbols(self, pattern: re.Pattern[bytes]) -> dict[str, Symbol]:
        found: dict[str, Symbol] = {}
        for table in self._symbol_tables:
            words = struct.Struct("<IBBHQQ")
            names = self._pread(table.names_offset, table.names_size, "string table")
            find, fullmatch = names.find, pattern.fullmatch
            # One call a symbol, then a second look at what it let through: a pattern may have
            # run over the terminator. Names are not split at their terminators beforehand:
            # linkers store a name that ends another one inside of that one.
            match = re.compile(b"(?:" + pattern.pattern + b")\0", pattern.flags).match
            hits = [
                index
                for index, start in enumerate(memoryview(table.data).cast("I")[::6])
                if match(names, start)
                and fullmatch(names, start, find(b"\0", start, start + MAX_NAME))
            ]
            local: dict[str, Symbol] = {}
            globals_: dict[str, Symbol] = {}
            for index in hits:
                start, info, _, section, value, size = words.unpack_from(table.data, 24 * index)
                if not section:
                    continue
                name = names[start : names.find(b"\0", start)].decode("utf-8", "replace")
                symbol = Symbol(name, FileAddress(value), size, info & 15)
                (globals_ if info >> 4 else local).setdefault(name, symbol)
            found = local | globals_ | found
        return found

    def functions(self) -> FunctionTable:
        """Return the functions of this file, from the cache if they are there.

        Raises:
            MalformedData: A symbol table lies outside of the file.
        """
        return self._functions

    def read_name(self, offset: int) -> str:
        """Return the zero-terminated name at a file offset; "" if there is none."""
        for size in (256, MAX_NAME):
            try:
                data = self._pread(offset, min(size, self._size - offset), "symbol name")
            except MalformedData:
                return ""
            end = data.find(b"\0")
            if end >= 0:
                break
        return data[: end if end >= 0 else None].decode("utf-8", "replace")

    @cached_property
    def _is_worth_caching(self) -> bool:
        tables = (s.size // 24 for s in self.sections if s.type in {SHT_SYMTAB, SHT_DYNSYM})
        return sum(tables) >= CACHE_FROM

    @cached_property
    def _functions(self) -> FunctionTable:
        if self._is_worth_caching:
            data = cache.load(self.identity, _CACHE_KIND)
            table = None if data is None else FunctionTable.decode(self, data)
            if table is not None:
                return table
        table = self._build_functions()
        if self._is_worth_caching:
            cache.store(self.identity, _CACHE_KIND, table.encode())
        return table

    @cached_property
    def _code_sections(self) -> list[tuple[int, int]]:
        """[start, end) of each section that holds code, sorted."""
        return sorted(
            (section.address, section.address + section.size)
            for section in self.sections
            if section.flags & SHF_EXECINSTR
        )

    def _build_functions(self) -> FunctionTable:
        base = min((segment.address for segment in self._loads), default=0)
        keys: list[int] = []
        tables = self._symbol_tables
        for number, table in enumerate(tables):
            keys += _function_keys(table, base, number)
        # One integer per candidate sorts by (address, has no size, rank, table, index).
        keys.sort()
        starts, sizes, names = array("I"), array("I"), array("I")
        types = bytearray()
        last, covered = -1, 0
        unpack = struct.Struct("<IBBHQQ").unpack_from
        for key in keys:
            start = key >> 40
            if start == last:
                continue
            table = tables[key >> 32 & 1]
            name, info, _, _, _, size = unpack(table.data, 24 * (key & 0xFFFF_FFFF))
            offset = table.names_offset + name
            if name >= table.names_size or offset >> 32:
                continue
            if key >> 33 & 7 >= _FIRST_UNTYPED_RANK and (
                start < covered or not self._is_code_label(base + start, offset)
            ):
                continue
            last = start
            end = min(start + size, 0xFFFF_FFFF)
            covered = max(covered, end)
            starts.append(start)
            sizes.append(end - start)
            names.append(offset)
            types.append(info & 15)
        if any(section.type == SHT_SYMTAB for section in self.sections):
            self._bound_unsized(base, starts, sizes)
        return FunctionTable(self, base, starts, sizes, names, types)

    def _is_code_label(self, address: int, name_offset: int) -> bool:
        """Whether an untyped symbol names code, rather than data or a note of the compiler."""
        index = bisect_right(self._code_sections, (address, 1 << 64)) - 1
        in_code = index >= 0 and address < self._code_sections[index][1]
        return in_code and self.read_name(name_offset)[:1] not in {"", ".", "$"}

    def _bound_unsized(self, base: int, starts: array[int], sizes: array[int]) -> None:
        """Let functions without a size reach to the next one or to the end of their section.

        Only where all functions are listed: in a stripped file others may follow without a name.
        """
        for index, size in enumerate(sizes):
            if size:
                continue
            start = starts[index]
            where = bisect_right(self._code_sections, (base + start, 1 << 64)) - 1
            end = self._code_sections[where][1] - base if where >= 0 else 0
            if index + 1 < len(starts):
                end = min(end, starts[index + 1])
            sizes[index] = min(max(end - start, 0), 0xFFFF_FFFF - start)

    @property
    def _symbol_tables(self) -> list[_SymbolTable]:
        """.symtab, then .dynsym, as far as they are there; read anew: they are large."""
        tables: list[_SymbolTable] = []
        for kind in (SHT_SYMTAB, SHT_DYNSYM):
            section = next((s for s in self.sections if s.type == kind), None)
            if section is None or section.link >= len(self.sections):
                continue
            count = min(section.size // 24, MAX_SYMBOLS)
            strings = self.sections[section.link]
            size = min(strings.size, MAX_STRING_TABLE, max(self._size - strings.offset, 0))
            data = self._pread(section.offset, 24 * count, section.name)
            tables.append(_SymbolTable(data, strings.offset, size))
        return tables

    def _read_sections(self, table: bytes, names_index: int) -> tuple[Section, ...]:
        rows = list(_SHDR.iter_unpack(table))
        names = b""
        if names_index < len(rows):
            offset, size = rows[names_index][4:6]
            names = self._pread(offset, min(size, 1 << 20), "section names")
        sections: list[Section] = []
        for name, type_, flags, address, offset, size, link, _, _, entry_size in rows:
            text = names[name : names.find(b"\0", name)].decode("utf-8", "replace")
            sections.append(Section(text, type_, flags, address, offset, size, entry_size, link))
        return tuple(sections)

    def _read_build_id(self) -> str:
        for segment in self.segments:
            if segment.type != PT_NOTE:
                continue
            size = min(segment.file_size, MAX_NOTES, max(self._size - segment.offset, 0))
            for owner, kind, description in _iter_notes(
                self._pread(segment.offset, size, "notes"), 8 if segment.alignment == 8 else 4
            ):
                if owner == b"GNU\0" and kind == NT_GNU_BUILD_ID:
                    return description.hex()
        return ""

    def _read_table(self, offset: int, entry: int, count: int, size: int, what: str) -> bytes:
        if not count:
            return b""
        if entry != size:
            raise MalformedData(self.name, f"{what} of {entry} bytes each")
        return self._pread(offset, size * count, what)

    def _pread(self, offset: int, size: int, what: str) -> bytes:
        """Return exactly `size` bytes of the file.

        Raises:
            MalformedData: It is shorter than that.
        """
        if offset < 0 or size < 0 or offset + size > self._size:
            raise MalformedData(self.name, f"{what} lies outside of the file")
        if self._fd < 0:
            return self._image[offset : offset + size]
        try:
            data = os.pread(self._fd, size, offset)
        except OSError as error:
            raise MalformedData(self.name, f"{what}: {error.strerror}") from error
        if len(data) != size:
            raise MalformedData(self.name, f"{what} lies outside of the file")
        return data


def _function_keys(table: _SymbolTable, base: int, number: int) -> list[int]:
    """Return a sort key for each symbol of a table that may be a function within 4 GiB of `base`.

    Key: address - base 32 | no size, rank, table 8 | index 32.
    """
    may_be_code = table.data[4::24].translate(_IS_CODE)
    words = array("Q", table.data)
    columns: Iterable[tuple[int, int, int, int]] = zip(
        compress(range(len(table)), may_be_code),
        compress(words[0::3], may_be_code),
        compress(words[1::3], may_be_code),
        compress(words[2::3], may_be_code),
        strict=True,
    )
    end = base + (1 << 32)
    return [
        (value - base) << 40 | (not size) << 39 | _RANK[word >> 32 & 255] << 33 | number << 32 | i
        for i, word, value, size in columns
        if word >> 48 and base <= value < end
    ]


def _encode_symbols(symbols: dict[str, Symbol]) -> bytes:
    return json.dumps(list(symbols.values()), separators=(",", ":")).encode()


def _decode_symbols(data: bytes) -> dict[str, Symbol]:
    rows: list[tuple[str, int, int, int]] = json.loads(data)
    return {
        name: Symbol(name, FileAddress(address), size, type_) for name, address, size, type_ in rows
    }


def _iter_notes(data: bytes, alignment: int) -> Iterable[tuple[bytes, int, bytes]]:
    """Yield (owner, type, description) of each note."""
    at = 0
    while at + 12 <= len(data):
        owner_size, size, kind = struct.unpack_from("<III", data, at)
        start = at + 12 + -(-owner_size // alignment) * alignment
        if start + size > len(data):
            return
        yield data[at + 12 : at + 12 + owner_size], kind, data[start : start + size]
        at = start + -(-size // alignment) * alignment
