"""pprof: the gzipped protocol buffer of Go's pprof, Pyroscope and Parca.

The message is small, so it is encoded and decoded here, without a library. Inlined frames share one
location with the function that they were inlined into, innermost line first. Native addresses are
as linked; each module gets an address range of its own, so that `address - start` is what
`addr2line` wants. Samples with equal stacks and labels are one.

Source: github.com/google/pprof, proto/profile.proto, at 2024-04.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Sequence
from typing import BinaryIO, ClassVar, NamedTuple

from jsspy.errors import MalformedData
from jsspy.formats.imported import frame_of_place
from jsspy.formats.input import MAX_WEIGHT, Source
from jsspy.formats.protobuf import encode_bytes as _bytes
from jsspy.formats.protobuf import encode_number as _number
from jsspy.formats.protobuf import encode_packed as _packed
from jsspy.formats.tree import sample_counts
from jsspy.model.names import (
    NO_STACK,
    VM_KINDS,
    clean,
    function_name,
    function_of,
    path_of,
    place_of,
)
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.sample import ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind
from jsspy.model.units import Pid, Tid

_TYPES = {ValueType.CPU: "cpu", ValueType.WALL: "wall", ValueType.OFF_CPU: "off_cpu"}
_KERNEL = "[kernel.kallsyms]"
_KERNEL_START = 0xFFFF_8000_0000_0000
_PAGE = 1 << 12
_MAX_BYTES = 1 << 28
_U64 = (1 << 64) - 1


class Pprof:
    """Gzipped profile.proto."""

    name: ClassVar[str] = "pprof"
    suffix: ClassVar[str] = ".pb.gz"
    description: ClassVar[str] = "go tool pprof, Pyroscope, Parca, with inlined frames and labels"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        with gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as packed:
            for part in _Encoder(profile).parts():
                packed.write(part)


class _Module(NamedTuple):
    number: int
    start: int
    end: int
    shift: int
    """What is added to an address as linked."""
    build_id: str


def _module_path(frame: Frame) -> str:
    if frame.kind is FrameKind.KERNEL:
        return _KERNEL
    return frame.module.path if frame.module else ""


def _modules(profile: Profile) -> dict[str, _Module]:
    """Give every module a range of addresses of its own; the kernel keeps its addresses."""
    sizes: dict[str, int] = {}
    build_ids: dict[str, str] = {}
    for frame in profile.frames:
        if path := _module_path(frame):
            sizes[path] = max(sizes.get(path, 0), frame.address or 0)
            build_ids.setdefault(path, frame.module.build_id if frame.module else "")
    modules: dict[str, _Module] = {}
    base = _PAGE
    for number, (path, last) in enumerate(sizes.items(), 1):
        end = (last // _PAGE + 1) * _PAGE
        if path == _KERNEL:
            start = min(_KERNEL_START, last)
            modules[path] = _Module(number, start, min(end, _U64), 0, build_ids[path])
        else:
            modules[path] = _Module(number, base, base + end, base, build_ids[path])
            base += end
    return modules


def _position(frame: Frame) -> bytes:
    """Encode line and column of a Line message."""
    place = frame.original or frame.location
    if place is None:
        return b""
    return _number(2, place.line or 0) + _number(3, place.column or 0)


class _Encoder:
    """Fills the tables while samples are walked."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._strings = {"": 0}
        self._functions: dict[Frame, int] = {}
        self._locations: dict[bytes, int] = {}
        self._groups: dict[tuple[int, ...], int] = {}
        self._modules = _modules(profile)

    def parts(self) -> Iterator[bytes]:
        """Yield the fields of the message; the tables last, when they are complete."""
        meta = self._profile.meta
        timed = meta.value_type is not ValueType.SAMPLES
        types = [("samples", "count")]
        if timed:
            types.append((_TYPES[meta.value_type], "nanoseconds"))
        for kind, unit in types:
            yield _bytes(1, self._value_type(kind, unit))
        for (row, labels), values in self._merged_samples(timed).items():
            yield _bytes(
                2,
                _packed(1, self._stack(row))
                + _packed(2, values if timed else values[:1])
                + b"".join(_bytes(3, label) for label in labels),
            )
        for path, module in self._modules.items():
            yield _bytes(
                3,
                _number(1, module.number)
                + _number(2, module.start)
                + _number(3, module.end)
                + _number(5, self._string(path))
                + _number(6, self._string(module.build_id))
                + _number(7, 1),
            )
        for data, number in self._locations.items():
            yield _bytes(4, _number(1, number) + data)
        for function, number in self._functions.items():
            yield _bytes(5, _number(1, number) + self._function(function))
        if timed:
            yield _bytes(11, self._value_type(*types[1])) + _number(12, meta.period_ns)
        yield _number(9, meta.start_time_unix_ns) + _number(10, meta.duration_ns)
        for note in [f"jsspy {meta.jsspy_version}".strip(), meta.command, *meta.notes]:
            if note:
                yield _number(13, self._string(note))
        yield _number(14, self._string(types[-1][0]))
        for text in self._strings:
            yield _bytes(6, text.encode())

    def _string(self, text: str) -> int:
        return self._strings.setdefault(clean(text), len(self._strings))

    def _value_type(self, kind: str, unit: str) -> bytes:
        return _number(1, self._string(kind)) + _number(2, self._string(unit))

    def _merged_samples(self, timed: bool) -> dict[tuple[int, tuple[bytes, ...]], list[int]]:
        """Return (stack row, labels) -> [samples, ns]."""
        profile = self._profile
        merged: dict[tuple[int, tuple[bytes, ...]], list[int]] = {}
        labels: dict[tuple[int, ThreadState, bool], tuple[bytes, ...]] = {}
        counts = sample_counts(profile)
        for sample, row in enumerate(profile.stack):
            is_gc = profile.vm_state[sample] is VmState.GC
            about = (profile.thread[sample], profile.state[sample], is_gc)
            if about not in labels:
                labels[about] = self._labels(*about)
            values = merged.setdefault((row, labels[about]), [0, 0])
            values[0] += counts[sample]
            if timed:
                values[1] += profile.weight[sample]
        return merged

    def _labels(self, thread: int, state: ThreadState, is_gc: bool) -> tuple[bytes, ...]:
        info = self._profile.threads[thread]
        texts = {"thread_name": info.name, "state": state.value, "vm_state": "gc" if is_gc else ""}
        numbers = {"pid": info.pid, "tid": info.tid}
        return (
            *(
                _number(1, self._string(key)) + _number(2, self._string(text))
                for key, text in texts.items()
                if text
            ),
            *(
                _number(1, self._string(key)) + _number(3, value)
                for key, value in numbers.items()
                if value
            ),
        )

    def _stack(self, row: int) -> list[int]:
        """Return the locations of a stack, leaf first."""
        parents, frames = self._profile.stacks.parent, self._profile.stacks.frame
        table = self._profile.frames
        numbers: list[int] = []
        inlined: list[int] = []
        while row >= 0:
            frame = frames[row]
            row = parents[row]
            if table[frame].kind in VM_KINDS:
                continue
            inlined.append(frame)
            if not table[frame].inlined or row < 0:
                key = tuple(inlined)
                if key not in self._groups:
                    self._groups[key] = self._location_number([table[index] for index in key])
                numbers.append(self._groups[key])
                inlined = []
        return numbers or [self._location_number([NO_STACK])]

    def _location_number(self, frames: Sequence[Frame]) -> int:
        """Return the number of a location: innermost inlined function first, the physical last."""
        lines = b"".join(
            _bytes(4, _number(1, self._function_number(frame)) + _position(frame))
            for frame in frames
        )
        physical = frames[-1]
        module = self._modules.get(_module_path(physical))
        if module is not None:
            address = module.shift + (physical.address or 0)
            lines = _number(2, module.number) + _number(3, address) + lines
        return self._locations.setdefault(lines, len(self._locations) + 1)

    def _function_number(self, frame: Frame) -> int:
        function = function_of(frame)._replace(inlined=False)
        return self._functions.setdefault(function, len(self._functions) + 1)

    def _function(self, function: Frame) -> bytes:
        place = place_of(function)
        path = path_of(place.url) if place else function.module.path if function.module else ""
        name = self._string(function_name(function))
        return (
            _number(2, name)
            + _number(3, name)
            + _number(4, self._string(path))
            + _number(5, place.line if place and place.line else 0)
        )


Field = tuple[int, int | bytes]


class PprofReader:
    """Reads profile.proto, gzipped or not, of any origin."""

    name: ClassVar[str] = "pprof"

    def matches(self, head: bytes, filename: str) -> bool:
        """See `Reader.matches`.

        A message has no magic: it begins with a sample_type of two string indexes.
        """
        if filename.endswith((".pb", ".pprof")):
            return True
        return head[:1] == b"\x0a" and head[1:2] <= b"\x08" and head[2:3] == b"\x08"

    def read(self, source: BinaryIO) -> Profile:
        """See `Reader.read`."""
        data = source.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            _file.fail(f"larger than {_MAX_BYTES >> 20} MiB")
        return _Decoder(data).profile()


_file = Source("pprof")


def _fields(data: bytes) -> Iterator[Field]:
    """Yield (field number, number or bytes) of a message.

    Raises:
        MalformedData: It is cut off.
    """
    at, end = 0, len(data)
    while at < end:
        key, at = _decode_varint(data, at)
        match key & 7:
            case 0:
                value, at = _decode_varint(data, at)
                yield key >> 3, value
                continue
            case 1:
                size = 8
            case 2:
                size, at = _decode_varint(data, at)
            case 5:
                size = 4
            case _:
                _file.fail(f"wire type {key & 7}")
        if at + size > end:
            _file.fail("cut off")
        yield key >> 3, data[at : at + size]
        at += size


def _decode_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _U64, at
    raise MalformedData(_file.name, "a number is cut off")


def _numbers(value: int | bytes) -> list[int]:
    """Decode a repeated scalar, packed or not."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _decode_varint(value, at)
        numbers.append(number)
    return numbers


def _scalars(data: int | bytes) -> dict[int, int]:
    """Decode a message of which only scalar fields matter."""
    return {field: value for field, value in _fields(_message(data)) if isinstance(value, int)}


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        _file.fail("a number where a message should be")
    return value


class _Decoder:
    """One file."""

    def __init__(self, data: bytes) -> None:
        self._strings: list[str] = []
        tables: dict[int, list[bytes]] = {1: [], 2: [], 3: [], 4: [], 5: []}
        self._top: dict[int, int] = {}
        for field, value in _fields(data):
            if field in tables:
                tables[field].append(_message(value))
            elif field == 6:
                self._strings.append(clean(_message(value).decode(errors="replace")))
            elif isinstance(value, int):
                self._top[field] = value
        types = [_scalars(message) for message in tables[1]]
        self._types = [(self._string(t.get(1, 0)), self._string(t.get(2, 0))) for t in types]
        self._samples = tables[2]
        modules = {m.get(1, 0): self._string(m.get(5, 0)) for m in map(_scalars, tables[3])}
        functions = {f.get(1, 0): f for f in map(_scalars, tables[5])}
        self._locations: dict[int, tuple[Frame, ...]] = {}
        for message in tables[4]:
            scalars = _scalars(message)
            lines = [_scalars(value) for field, value in _fields(message) if field == 4]
            module = modules.get(scalars.get(2, 0), "")
            frames = [self._frame(functions, line, module) for line in lines]
            if not frames:
                name = module.rpartition("/")[2] or "unknown"
                frames = [frame_of_place(f"{name}+{scalars.get(3, 0):#x}", module)]
            inlined = [frame._replace(inlined=True) for frame in frames[:-1]]
            self._locations[scalars.get(1, 0)] = (frames[-1], *reversed(inlined))

    def _string(self, index: int) -> str:
        if index >= len(self._strings):
            _file.fail(f"no string {index}")
        return self._strings[index]

    def _frame(
        self, functions: dict[int, dict[int, int]], line: dict[int, int], module: str
    ) -> Frame:
        function = functions.get(line.get(1, 0))
        if function is None:
            _file.fail(f"no function {line.get(1, 0)}")
        name = self._string(function.get(2, 0))
        file = self._string(function.get(4, 0))
        start = min(function.get(5, 0), 1 << 30)
        frame = frame_of_place(name, file or module, start)
        executing = min(line.get(2, 0), 1 << 30)
        if frame.kind is FrameKind.JS and frame.definition and executing:
            return frame._replace(location=frame.definition._replace(line=executing, column=None))
        return frame

    def profile(self) -> Profile:
        """Return the samples, weighed by nanoseconds where there are any."""
        if not self._types:
            _file.fail("no sample types")
        column = self._column()
        kind, unit = self._types[column]
        words = {word: value for value, word in _TYPES.items()}
        timed = unit == "nanoseconds"
        meta = ProfileMeta(
            value_type=words.get(kind, ValueType.CPU) if timed else ValueType.SAMPLES,
            engine="pprof",
            start_time_unix_ns=min(self._top.get(9, 0), MAX_WEIGHT),
            duration_ns=min(self._top.get(10, 0), MAX_WEIGHT),
        )
        if timed:
            meta.period_ns = min(self._top.get(12, 0), MAX_WEIGHT)
        profile = Profile(meta)
        for message in self._samples:
            self._add(profile, message, column)
        return profile

    def _column(self) -> int:
        """Choose among the values of a sample: the default, else nanoseconds, else the last."""
        default = self._top.get(14, 0)
        for index, (kind, _) in enumerate(self._types):
            if default and kind == self._string(default):
                return index
        units = [unit for _, unit in self._types]
        return units.index("nanoseconds") if "nanoseconds" in units else len(units) - 1

    def _add(self, profile: Profile, message: bytes, column: int) -> None:
        locations: list[int] = []
        values: list[int] = []
        texts: dict[str, str] = {}
        numbers: dict[str, int] = {}
        for field, value in _fields(message):
            match field:
                case 1:
                    locations += _numbers(value)
                case 2:
                    values += _numbers(value)
                case 3:
                    label = _scalars(value)
                    key = self._string(label.get(1, 0))
                    texts[key] = self._string(label.get(2, 0))
                    numbers[key] = label.get(3, 0) & 0x7FFFFFFF
        if len(values) != len(self._types) or values[column] > MAX_WEIGHT:
            _file.fail("a sample's values do not fit the sample types")
        row = -1
        for number in reversed(locations):
            if number not in self._locations:
                _file.fail(f"no location {number}")
            for frame in self._locations[number]:
                row = profile.stacks.intern(row, profile.intern_frame(frame))
        tid = numbers.get("tid", 0)
        info = ThreadInfo(
            Pid(numbers.get("pid", 0)), Tid(tid), texts.get("thread_name") or f"thread {tid}"
        )
        state = ThreadState.RUNNING
        if texts.get("state") in {member.value for member in ThreadState}:
            state = ThreadState(texts["state"])
        is_gc = texts.get("vm_state") == "gc"
        profile.add_row(
            row,
            profile.intern_thread(info),
            0,
            values[column],
            state,
            VmState.GC if is_gc else VmState.UNKNOWN,
        )
