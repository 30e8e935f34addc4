"""The stack dumps in a `perf.data`: registers and stack of each sample of `--call-graph dwarf`.

perf unwinds them by the tables of files, so it stops at the first frame of generated code, which
has none. What else is in the file is perf's to read: `perf script` prints it.

Left alone, so that nothing is read from them: files that were written to a pipe, compressed ones,
and samples with counters or branches in them.

Source: tools/perf/Documentation/perf.data-file-format.txt, include/uapi/linux/perf_event.h and
arch/x86/include/uapi/asm/perf_regs.h, at v6.12.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import BinaryIO, Final, NamedTuple

from jsspy.errors import MalformedData
from jsspy.model.capture import Registers

MAGIC: Final = b"PERFILE2"

_HEADER: Final = struct.Struct("<8s8Q")
"""Magic, size, size of an attribute, then (offset, size) of attributes, data, event types."""
_RECORD: Final = struct.Struct("<IHH")
_SECTION: Final = struct.Struct("<2Q")
_ATTRIBUTE: Final = struct.Struct("<II4Q40xQI")
"""type, size, config, period, sample_type, read_format; user registers and size of the dump."""
_MAX_ATTRIBUTES: Final = 1 << 10
_MAX_IDS: Final = 1 << 16

_IDENTIFIER: Final = 1 << 16
_PLAIN: Final = (
    (_IDENTIFIER, "id"),
    (1 << 0, "ip"),
    (1 << 1, "thread"),
    (1 << 2, "time"),
    (1 << 3, "address"),
    (1 << 6, "id"),
    (1 << 9, "stream"),
    (1 << 7, "cpu"),
    (1 << 8, "period"),
)
"""Words in front of what has no fixed size, in the order of the record."""
_CALLCHAIN: Final = 1 << 5
_RAW: Final = 1 << 10
_DUMP: Final = 1 << 12 | 1 << 13
_NEEDED: Final = _DUMP | 1 << 1 | 1 << 2
_NOT_READ: Final = 1 << 4 | 1 << 11
"""Counters (PERF_SAMPLE_READ) and branches, whose size depends on more than the record."""

_SAMPLE: Final = 9
_KERNEL: Final = (1 << 64) - 128
_USER: Final = (1 << 64) - 512
"""PERF_CONTEXT_KERNEL and PERF_CONTEXT_USER in a call chain; all marks are above _MARKS."""
_MARKS: Final = (1 << 64) - 4096
_REGISTER_BITS: Final = (
    *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "rip", "eflags", "cs", "ss"),
    *("ds", "es", "fs", "gs", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)


class StackDump(NamedTuple):
    """One sample."""

    pid: int
    tid: int
    time_ns: int
    registers: Registers
    stack: bytes
    """From rsp on."""
    kernel_chain: tuple[int, ...]


class _Event(NamedTuple):
    sample_type: int
    registers: tuple[str, ...]


def read_dumps(file: BinaryIO) -> Iterator[StackDump | None]:
    """Yield the samples of a perf.data, None for those without a dump; nothing if none has one.

    Raises:
        MalformedData: The file is cut off, or is none.
    """
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size or not header.startswith(MAGIC):
        return  # a pipe has a header of two words
    _, _, attribute_size, attributes, attributes_size, data, data_size, *_ = _HEADER.unpack(header)
    events = _read_events(file, attributes, attribute_size, attributes_size)
    if not any(event.sample_type & _NEEDED == _NEEDED for event in events.values()):
        return
    file.seek(data)
    left = data_size
    while left >= _RECORD.size:
        kind, _, length = _RECORD.unpack(_exactly(file, _RECORD.size))
        if not _RECORD.size <= length <= left:
            raise MalformedData("perf.data", f"a record of {length} bytes")
        record = _exactly(file, length - _RECORD.size)
        left -= length
        if kind == _SAMPLE:
            try:
                dump = _decode(record, events)
            except struct.error as err:
                raise MalformedData("perf.data", "a sample is cut off") from err
            yield dump


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise MalformedData("perf.data", "the file is cut off")
    return data


def _read_events(file: BinaryIO, offset: int, size: int, total: int) -> dict[int, _Event]:
    """Return the events by id; -1 is the only one, whose samples need no id."""
    if size < _ATTRIBUTE.size + _SECTION.size or total // size > _MAX_ATTRIBUTES:
        raise MalformedData("perf.data", f"attributes of {size} bytes")
    events: dict[int, _Event] = {}
    count = total // size
    for number in range(count):
        file.seek(offset + number * size)
        attribute = _exactly(file, size)
        *_, sample_type, _, mask, _ = _ATTRIBUTE.unpack_from(attribute)
        names = tuple(name for bit, name in enumerate(_REGISTER_BITS) if mask >> bit & 1)
        is_known = mask < 1 << len(_REGISTER_BITS) and not sample_type & _NOT_READ
        event = _Event(sample_type if is_known else 0, names)
        if count == 1:
            return {-1: event}
        at, ids_size = _SECTION.unpack_from(attribute, size - _SECTION.size)
        if ids_size > 8 * _MAX_IDS:
            raise MalformedData("perf.data", f"{ids_size // 8} ids")
        file.seek(at)
        for (key,) in struct.iter_unpack("<Q", _exactly(file, ids_size & ~7)):
            events[key] = event
    return events


def _decode(record: bytes, events: dict[int, _Event]) -> StackDump | None:
    """Decode a sample; None if it holds no dump.

    Raises:
        struct.error: It is shorter than it says.
    """
    event = events.get(-1)
    if event is None:
        # With several events perf asks for the id in front of everything.
        event = events.get(struct.unpack_from("<Q", record)[0])
    if event is None or event.sample_type & _NEEDED != _NEEDED:
        return None
    words: dict[str, int] = {}
    at = 0
    for bit, name in _PLAIN:
        if event.sample_type & bit:
            words[name] = struct.unpack_from("<Q", record, at)[0]
            at += 8
    chain: tuple[int, ...] = ()
    if event.sample_type & _CALLCHAIN:
        count: int = struct.unpack_from("<Q", record, at)[0]
        chain = struct.unpack_from(f"<{min(count, len(record) // 8)}Q", record, at + 8)
        at += 8 + 8 * count
    if event.sample_type & _RAW:
        at += (4 + struct.unpack_from("<I", record, at)[0] + 7) & ~7
    abi: int = struct.unpack_from("<Q", record, at)[0]
    at += 8
    if not abi:
        return None  # a kernel thread
    values = struct.unpack_from(f"<{len(event.registers)}Q", record, at)
    known = dict(zip(event.registers, values, strict=True))
    at += 8 * len(values)
    room: int = struct.unpack_from("<Q", record, at)[0]
    size: int = struct.unpack_from("<Q", record, at + 8 + room)[0] if room else 0
    thread = words["thread"]
    return StackDump(
        thread & 0xFFFF_FFFF,
        thread >> 32,
        words["time"],
        Registers(**{name: known.get(name, 0) for name in Registers._fields}),
        record[at + 8 : at + 8 + min(size, room)],
        _kernel_part(chain),
    )


def _kernel_part(chain: tuple[int, ...]) -> tuple[int, ...]:
    """Return the addresses of a call chain that are in the kernel, leaf first."""
    result = []
    in_kernel = False
    for address in chain:
        if address >= _MARKS:
            in_kernel = address == _KERNEL
            if address == _USER:
                break
        elif in_kernel:
            result.append(address)
    return tuple(result)
