"""Programs in the kernel: bpf(2), the object files they come in, and the ring they answer in.

The loader knows what our own object needs and refuses the rest: a section for each program, one
for the bodies of its loops if it has any, and relocations of 64-bit loads against maps and those
bodies. Maps are declared `extern` in the program; whoever loads it creates them and gives their
descriptors by name. No type information (BTF) is needed in the object.

Everything is held by file descriptors and nothing is pinned: when they are closed, or we are
killed, maps, programs and links are gone.

Source: include/uapi/linux/bpf.h and kernel/bpf/ringbuf.c, at v6.12; ELF: RFC 9669, and
Documentation/bpf/llvm_reloc.rst at v6.12.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
from collections.abc import Mapping
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Final, NamedTuple, Self

from jsspy.errors import JsspyError, MalformedData
from jsspy.linux import libc

_NR_BPF: Final = {"x86_64": 321}.get(platform.machine(), 321)

_MAP_CREATE, _MAP_LOOKUP, _MAP_UPDATE, _MAP_DELETE, _PROG_LOAD = 0, 1, 2, 3, 5
_RAW_TRACEPOINT_OPEN, _BTF_LOAD, _MAP_TAKE, _LINK_CREATE, _ENABLE_STATS = 17, 18, 21, 28, 32

_ATTACH_PERF_EVENT: Final = 41

_LOG_BYTES: Final = 16 << 20
_LOG_TAIL: Final = 2000
"""Of the verifier's log is kept with the error: the reason stands at its end."""

_STATISTICS: Final = ("processed ", "verification time ", "stack depth ")
"""How the lines of the log begin that have no reason. Source: print_verification_stats in
kernel/bpf/verifier.c, at v6.12."""

_MAX_OBJECT_BYTES: Final = 1 << 20
"""Our own has 10 KiB."""

_EM_BPF: Final = 247
_SHT_PROGBITS, _SHT_SYMTAB, _SHT_REL = 1, 2, 9
_SHF_EXECINSTR: Final = 4
_R_BPF_64_64: Final = 1
_LOAD_64: Final = 0x18
_PSEUDO_MAP_FD: Final = 1
_PSEUDO_FUNC: Final = 4
_BTF_FUNC, _BTF_FUNC_PROTO = 12, 13

_BUSY, _DISCARDED = 1 << 31, 1 << 30
_RECORD_HEADER: Final = 8


class MapType(IntEnum):
    """Kinds of maps."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_ARRAY = 6
    RINGBUF = 27


class ProgramType(IntEnum):
    """Kinds of programs."""

    PERF_EVENT = 7
    RAW_TRACEPOINT = 17


class Refused(JsspyError):
    """The kernel did not take a map, a program or a link.

    Attributes:
        code: errno.
        log: What the verifier said, its end; "" if it said nothing. The last line but for its
            statistics is the reason, and a part of the message.
    """

    def __init__(self, what: str, code: int, log: str = "") -> None:
        text = f"cannot {what}: {os.strerror(code).lower()}"
        lines = [line for line in log.splitlines() if line and not line.startswith(_STATISTICS)]
        super().__init__(": ".join([text, *lines[-1:]]))
        self.code = code
        self.log = log


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    """Return the address of a buffer, which the caller must keep alive while it is used."""
    return ctypes.addressof(buffer)


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, max(len(data), 1))


def _bpf(command: int, attributes: bytes, what: str) -> int:
    """Call bpf(2).

    Raises:
        Refused: It failed.
    """
    buffer = _buffer(attributes)
    result = int(libc.syscall(_NR_BPF, command, _address(buffer), len(attributes), 0, 0))
    if result < 0:
        raise Refused(what, libc.get_errno())
    return result


def _name(name: str) -> bytes:
    return name.encode("ascii")[:15].ljust(16, b"\0")


class _Descriptor:
    """Something in the kernel that lives as long as its file descriptor."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Let go of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Map(_Descriptor):
    """A map. Its keys are indexes, those of a hash 8 bytes.

    Raises:
        Refused: It could not be created.
    """

    def __init__(self, kind: MapType, value_size: int, count: int, name: str) -> None:
        key_size = {MapType.RINGBUF: 0, MapType.HASH: 8}.get(kind, 4)
        self._key = struct.Struct("<Q" if kind is MapType.HASH else "<I")
        self._size = value_size
        if kind is MapType.PERCPU_ARRAY:
            # One value per possible CPU, each padded to 8 bytes.
            self._size = (value_size + 7 & ~7) * possible_cpus()
        attributes = struct.pack("<7I", kind, key_size, value_size, count, 0, 0, 0) + _name(name)
        super().__init__(_bpf(_MAP_CREATE, attributes, f"create the BPF map {name}"))

    def update(self, index: int, value: bytes) -> None:
        """Replace an element.

        Raises:
            Refused: There is no such element.
        """
        key, data = _buffer(self._key.pack(index)), _buffer(value)
        attributes = struct.pack("<IIQQQ", self.fd, 0, _address(key), _address(data), 0)
        _bpf(_MAP_UPDATE, attributes, "update a BPF map")

    def lookup(self, index: int) -> bytes:
        """Return an element; of a per-CPU map the values of all possible CPUs.

        Raises:
            Refused: There is no such element.
        """
        key, data = _buffer(self._key.pack(index)), _buffer(bytes(self._size))
        attributes = struct.pack("<IIQQQ", self.fd, 0, _address(key), _address(data), 0)
        _bpf(_MAP_LOOKUP, attributes, "read a BPF map")
        return data.raw[: self._size]

    def take(self, key: int) -> bytes | None:
        """Delete an element of a hash and return it; None if it is not there."""
        data, value = _buffer(self._key.pack(key)), _buffer(bytes(self._size))
        attributes = struct.pack("<IIQQQ", self.fd, 0, _address(data), _address(value), 0)
        try:
            _bpf(_MAP_TAKE, attributes, "take from a BPF map")
        except Refused:
            return None
        return value.raw[: self._size]

    def delete(self, key: int) -> None:
        """Delete an element of a hash, if it is there."""
        data = _buffer(self._key.pack(key))
        attributes = struct.pack("<IIQQQ", self.fd, 0, _address(data), 0, 0)
        with suppress(Refused):
            _bpf(_MAP_DELETE, attributes, "delete from a BPF map")


class Code(NamedTuple):
    """Instructions, with what the kernel is to know of them."""

    instructions: bytes
    functions: tuple[int, ...]
    """Index of the first instruction of each; the first is where the program starts."""


class _Types(_Descriptor):
    """Type information that says only: here is a static function, called `name`.

    The kernel takes the address of a function for a loop only if it is told that the function is
    static. Source: kernel/bpf/verifier.c, check_ld_imm, and Documentation/bpf/btf.rst, at v6.12.
    """

    FUNCTION: ClassVar[int] = 2

    def __init__(self, name: str) -> None:
        # A type is its name, its kind, and one that it refers to: 1 takes and returns nothing.
        types = struct.pack("<6I", 0, _BTF_FUNC_PROTO << 24, 0, 1, _BTF_FUNC << 24, 1)
        names = b"\0" + name.encode("ascii") + b"\0"
        header = struct.pack("<HBB5I", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(names))
        data = _buffer(header + types + names)
        attributes = struct.pack("<QQ4I", _address(data), 0, len(data), 0, 0, 0)
        super().__init__(_bpf(_BTF_LOAD, attributes, f"describe the BPF program {name}"))


class Program(_Descriptor):
    """A program, verified.

    Raises:
        Refused: The kernel does not take it; the verifier's log is in the error.
    """

    def __init__(self, kind: ProgramType, code: Code, name: str) -> None:
        instructions, license_ = _buffer(code.instructions), _buffer(b"Dual MIT/GPL\0")
        what = f"load the BPF program {name}"
        records = b"".join(struct.pack("<II", at, _Types.FUNCTION) for at in code.functions)
        functions = _buffer(records)

        def load(types: _Types, log: ctypes.Array[ctypes.c_char] | None) -> int:
            attributes = struct.pack(
                "<IIQQIIQII16s4IQI",
                *(kind, len(code.instructions) // 8),
                *(_address(instructions), _address(license_)),
                *((1, len(log), _address(log)) if log is not None else (0, 0, 0)),
                *(0, 0, _name(name), 0, 0),
                *(types.fd, 8, _address(functions), len(code.functions)),
            )
            return _bpf(_PROG_LOAD, attributes, what)

        with _Types(name) as types:
            try:
                super().__init__(load(types, None))
            except Refused as err:
                log = ctypes.create_string_buffer(_LOG_BYTES)
                try:
                    super().__init__(load(types, log))
                except Refused:
                    text = log.value.decode("utf-8", "replace").rstrip()
                    raise Refused(what, err.code, text[-_LOG_TAIL:]) from None

    def run_time_ns(self) -> int:
        """Return how long it has run while a `RunTime` was open."""
        with open(f"/proc/self/fdinfo/{self.fd}", "rb") as file:  # noqa: PTH123 - no path to join
            fields = dict(line.split(b":\t", 1) for line in file if b":\t" in line)
        return int(fields.get(b"run_time_ns", 0))


class RunTime(_Descriptor):
    """The kernel counts how long programs run as long as this is open; some ns each time.

    Raises:
        Refused: It does not (Linux before 5.8), or we may not make it.
    """

    def __init__(self) -> None:
        super().__init__(_bpf(_ENABLE_STATS, struct.pack("<I", 0), "count how long programs run"))


class Link(_Descriptor):
    """A program attached to a perf event, until the link is closed.

    Raises:
        Refused: It could not be attached.
    """

    def __init__(self, program: Program, event_fd: int, cookie: int) -> None:
        attributes = struct.pack(
            "<4IQ", program.fd, event_fd, _ATTACH_PERF_EVENT, 0, cookie
        ) + bytes(24)
        super().__init__(_bpf(_LINK_CREATE, attributes, "attach a BPF program"))


class RawTracepoint(_Descriptor):
    """A program attached to a tracepoint of the kernel, for all tasks.

    Raises:
        Refused: It could not be attached.
    """

    def __init__(self, program: Program, name: str) -> None:
        text = _buffer(name.encode("ascii") + b"\0")
        attributes = struct.pack("<QII", _address(text), program.fd, 0)
        what = f"attach a BPF program to {name}"
        super().__init__(_bpf(_RAW_TRACEPOINT_OPEN, attributes, what))


class Object:
    """The programs of an object file, by section, and its plain data.

    Attributes:
        programs: Section -> its code, and where in it which map is loaded.
        data: Section -> bytes.

    Raises:
        OSError: It cannot be read.
        MalformedData: It is not a BPF object, or needs what this loader does not do.
    """

    def __init__(self, path: Path) -> None:
        self._where = path.name
        with path.open("rb") as file:
            self._data = file.read(_MAX_OBJECT_BYTES)
        self.data: dict[str, bytes] = {}
        try:
            self.programs = self._parse()
        except (struct.error, OverflowError) as err:
            # The second is struct's answer to an offset beyond any file.
            raise MalformedData(self._where, "the file is cut off") from err

    def _parse(self) -> dict[str, tuple[bytes, list[tuple[int, str]]]]:
        """Return for each program section its code and where in it which map is loaded."""
        data = self._data
        head = data[:6]
        if head != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 18)[0] != _EM_BPF:
            raise MalformedData(self._where, "not a little-endian BPF object")
        start: int = struct.unpack_from("<Q", data, 0x28)[0]
        count, names_at = struct.unpack_from("<HH", data, 0x3C)
        sections = [struct.unpack_from("<IIQQQQIIQQ", data, start + 64 * i) for i in range(count)]
        if names_at >= count:
            raise MalformedData(self._where, "no section names")
        programs: dict[int, tuple[str, bytes, list[tuple[int, str]]]] = {}
        for index, (name, kind, flags, _, offset, size, *_) in enumerate(sections):
            if kind != _SHT_PROGBITS or not size:
                continue
            text = self._string(sections[names_at][4] + name)
            if flags & _SHF_EXECINSTR:
                programs[index] = (text, data[offset : offset + size], [])
            else:
                self.data[text] = data[offset : offset + size]
        for _, kind, _, _, offset, size, link, info, *_ in sections:
            if kind != _SHT_REL or info not in programs:
                continue
            if not (link < count and sections[link][1] == _SHT_SYMTAB):
                raise MalformedData(self._where, "relocations without symbols")
            symbols, strings = sections[link][4], sections[min(sections[link][6], count - 1)][4]
            for at in range(offset, offset + size, 16):
                place, what = struct.unpack_from("<QQ", data, at)
                code = programs[info][1]
                if what & 0xFFFFFFFF != _R_BPF_64_64 or code[place : place + 1] != b"\x18":
                    raise MalformedData(self._where, "a relocation that is not of a map")
                symbol, _, _, owner = struct.unpack_from("<IBBH", data, symbols + 24 * (what >> 32))
                body = programs.get(owner)
                name = body[0] if body is not None else self._string(strings + symbol)
                programs[info][2].append((place, name))
        return {name: (code, loads) for name, code, loads in programs.values()}

    def _string(self, at: int) -> str:
        return self._data[at : max(self._data.find(b"\0", at), 0)].decode("ascii", "replace")

    def code(self, section: str, maps: Mapping[str, int]) -> Code:
        """Return the instructions of a program with the descriptors of its maps put in.

        Raises:
            MalformedData: No such program, or it uses a map that is not among `maps`.
        """
        if section not in self.programs:
            raise MalformedData(self._where, f"no program {section}")
        code, loads = self.programs[section]
        own = len(code)
        bodies = {name for _, name in loads if name in self.programs}
        if len(bodies) > 1:
            raise MalformedData(self._where, f"{section} has loops in several sections")
        for name in bodies:
            more, inner = self.programs[name]
            code, loads = code + more, loads + [(own + place, what) for place, what in inner]
        patched = bytearray(code)
        functions = {0}
        for place, name in loads:
            if name in bodies:
                function = (own + struct.unpack_from("<I", code, place + 4)[0]) // 8
                functions.add(function)
                kind, value = _PSEUDO_FUNC, function - place // 8 - 1
            elif name in maps:
                kind, value = _PSEUDO_MAP_FD, maps[name]
            else:
                raise MalformedData(self._where, f"no map {name}")
            patched[place + 1] = patched[place + 1] & 0x0F | kind << 4
            struct.pack_into("<i", patched, place + 4, value)
            struct.pack_into("<i", patched, place + 12, 0)
        return Code(bytes(patched), tuple(sorted(functions)))


class Ring:
    """Reads what programs put into a ring buffer.

    Raises:
        OSError: It cannot be mapped.
    """

    def __init__(self, ring: Map, size: int) -> None:
        page = mmap.PAGESIZE
        self._mask = size - 1
        self._consumer = mmap.mmap(ring.fd, page)
        # The data pages are mapped twice in a row, so no record is ever split.
        self._producer = mmap.mmap(ring.fd, page + 2 * size, prot=mmap.PROT_READ, offset=page)
        self._tail = memoryview(self._consumer)[:8].cast("Q")
        self._view = memoryview(self._producer)
        self._head = self._view[:8].cast("Q")
        self._data = self._view[page:]
        self._words = self._data.cast("I")

    def read(self, limit: int) -> list[bytes]:
        """Return up to `limit` records, and make room."""
        records: list[bytes] = []
        position, head = self._tail[0], self._head[0]
        data, words, mask = self._data, self._words, self._mask
        while position < head and len(records) < limit:
            at = position & mask
            length = words[at >> 2]
            if length & _BUSY:
                break
            size = length & ~(_BUSY | _DISCARDED)
            if not length & _DISCARDED:
                records.append(bytes(data[at + _RECORD_HEADER : at + _RECORD_HEADER + size]))
            position += (size + _RECORD_HEADER + 7) & ~7
        self._tail[0] = position
        return records

    def close(self) -> None:
        """Unmap it."""
        for view in (self._words, self._data, self._head, self._view, self._tail):
            view.release()
        self._producer.close()
        self._consumer.close()


def possible_cpus() -> int:
    """Return how many values a per-CPU map has."""
    text = Path("/sys/devices/system/cpu/possible").read_text(encoding="ascii")
    return int(text.strip().replace(",", "-").split("-")[-1]) + 1
