r"""`.jsspy`: the recording itself, from which every other format can be made later.

Lossless: the profile that is read equals the one written, order of tables included. A file is

    magic     \x89 J S P Y \r \n \x1a: shows damage by transfers that change line ends
    version   u16, little endian, like all numbers here
    sections  tag 4 bytes, stored size u32, size u32, CRC-32 of these 12 bytes and the data u32,
              then zlib data of the stored size, `size` bytes when decompressed

    META  JSON: meta, statistics, threads, and lists of the words for kinds, tiers and states
    STRS  all strings: count u32, their sizes in bytes u32 each, UTF-8 (lone surrogates as such)
    LOCS  url, line, column         MODS  path, build id         SRCS  url, source text
    FRAM  one row per frame         STAK  distance to the parent row (row + 1 for roots), frame
    ODEF  per frame, where its function begins after source mapping; absent if none was mapped
    PKGS  per frame, the string `name@version` of its package; absent if none is known
    SAMP  one row per sample, in blocks; times are differences within the block
    DONE  empty, and last: without it the file was cut off

All but the first two hold columns of fixed-width integers, one column after the other. Strings,
locations, modules and words are indexes; -1 is None. A reader skips tags that it does not know.
The version changes when old readers would misread a file. Readers of old versions stay.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from array import array
from collections.abc import Hashable, Iterable, Sequence
from enum import Enum
from itertools import accumulate, pairwise
from typing import Any, BinaryIO, ClassVar, TypeVar

from jsspy.errors import MalformedData
from jsspy.formats.input import Source
from jsspy.model.profile import PauseStats, Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.sample import LossReason, ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Module, Tier, Truncation
from jsspy.model.units import Pid, Tid

MAGIC = b"\x89JSPY\r\n\x1a"
VERSION = 1

_HEADER = struct.Struct("<8sH")
_SECTION = struct.Struct("<4sII")
_CHECKSUM = struct.Struct("<I")
_BLOCK_SAMPLES = 1 << 16

# What a file may hold. A sample takes 27 bytes here and about 60 in memory, a frame 50 and about
# 400: reading stays below 4 GB whatever the file says.
MAX_SECTION_BYTES = 1 << 28
MAX_TOTAL_BYTES = 1 << 30
MAX_META_BYTES = 1 << 24
MAX_SAMPLES = 1 << 25
MAX_FRAMES = 1 << 22
MAX_STACKS = 1 << 25
MAX_STRINGS = 1 << 23

_LOCATION = "iii"
_PAIR = "ii"
_INDEX = "i"
_FRAME = "ibbiibqibQii"
_STACK = "ii"
_SAMPLE = "iiqqbbb"

_WORDS: dict[str, type[Enum]] = {
    "kinds": FrameKind,
    "tiers": Tier,
    "states": ThreadState,
    "vm_states": VmState,
    "truncations": Truncation,
}
_META_TEXTS = ("engine", "command", "node_version", "v8_version", "jsspy_version")
_META_NUMBERS = ("period_ns", "start_time_unix_ns", "start_ns", "duration_ns")
_STATS_NUMBERS = ("requested", "idle", "js_frames", "js_frames_named", "profiler_cpu_ns")

E = TypeVar("E", bound=Enum)
T = TypeVar("T", bound=Hashable)


class Native:
    """The lossless recording."""

    name: ClassVar[str] = "jsspy"
    suffix: ClassVar[str] = ".jsspy"
    description: ClassVar[str] = "lossless recording; `jsspy report` makes every other format of it"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        out.write(_HEADER.pack(MAGIC, VERSION))
        strings = _Table[str]()
        locations = _Table[Location]()
        modules = _Table[Module]()
        frames = _pack(
            _FRAME, (_frame_row(frame, strings, locations, modules) for frame in profile.frames)
        )
        mapped = any(frame.original_definition for frame in profile.frames)
        originals = _pack(
            _INDEX,
            (
                (locations.index(frame.original_definition),)
                for frame in (profile.frames if mapped else ())
            ),
        )
        packages = _pack(
            _INDEX,
            (
                (strings.index(frame.package or None),)
                for frame in (profile.frames if any(it.package for it in profile.frames) else ())
            ),
        )
        places = _pack(
            _LOCATION,
            (
                (strings.index(place.url), _or_minus(place.line), _or_minus(place.column))
                for place in locations.rows
            ),
        )
        files = _pack(
            _PAIR, ((strings.index(m.path), strings.index(m.build_id)) for m in modules.rows)
        )
        sources = _pack(
            _PAIR,
            ((strings.index(url), strings.index(text)) for url, text in profile.sources.items()),
        )
        stacks = _pack(
            _STACK,
            (
                (row - parent, frame)
                for row, (parent, frame) in enumerate(
                    zip(profile.stacks.parent, profile.stacks.frame, strict=True)
                )
            ),
        )
        _write_section(out, b"META", json.dumps(_encode_meta(profile)).encode())
        _write_section(out, b"STRS", _encode_strings(strings.rows))
        _write_section(out, b"LOCS", places)
        _write_section(out, b"MODS", files)
        _write_section(out, b"FRAM", frames)
        if mapped:
            _write_section(out, b"ODEF", originals)
        if packages:
            _write_section(out, b"PKGS", packages)
        _write_section(out, b"STAK", stacks)
        for start in range(0, len(profile), _BLOCK_SAMPLES):
            _write_section(out, b"SAMP", _encode_samples(profile, start))
        _write_section(out, b"SRCS", sources)
        _write_section(out, b"DONE", b"")


class NativeReader:
    """Reads `.jsspy` files of every version."""

    name: ClassVar[str] = "jsspy"

    def matches(self, head: bytes, filename: str) -> bool:
        """See `Reader.matches`."""
        del filename
        return head.startswith(MAGIC)

    def read(self, source: BinaryIO) -> Profile:
        """See `Reader.read`."""
        header = source.read(_HEADER.size)
        if len(header) < _HEADER.size or not header.startswith(MAGIC):
            _file.fail("no header")
        version = _HEADER.unpack(header)[1]
        if version != VERSION:
            _file.fail(f"version {version} is newer than this jsspy, which knows {VERSION}")
        try:
            return _read_version_1(source)
        except ValueError as err:
            raise MalformedData(_file.name, str(err)) from err


class _Table(dict[T, int]):
    """Numbers values in the order in which they first come."""

    def index(self, value: T | None) -> int:
        return -1 if value is None else self.setdefault(value, len(self))

    @property
    def rows(self) -> Iterable[T]:
        return self.keys()


_file = Source("jsspy recording")


def _or_minus(value: int | None) -> int:
    return -1 if value is None else value


def _none_if_minus(value: int) -> int | None:
    return None if value < 0 else value


def _pack(codes: str, rows: Iterable[tuple[int, ...]]) -> bytes:
    """Return rows as columns of the given `array` type codes, one column after the other."""
    columns = list(zip(*rows, strict=True)) or [()] * len(codes)
    return b"".join(
        _little(array(code, column)) for code, column in zip(codes, columns, strict=True)
    )


def _unpack(codes: str, data: bytes, limit: int, what: str) -> list[array[int]]:
    """Undo `_pack`."""
    sizes = [array(code).itemsize for code in codes]
    count, rest = divmod(len(data), sum(sizes))
    if rest:
        _file.fail(f"{what}: size {len(data)}")
    if count > limit:
        _file.fail(f"{what}: more than {limit}")
    columns = []
    ends = accumulate((count * size for size in sizes), initial=0)
    for code, (start, end) in zip(codes, pairwise(ends), strict=True):
        column: array[int] = array(code)
        column.frombytes(data[start:end])
        columns.append(_swap(column))
    return columns


def _little(column: array[int]) -> bytes:
    return _swap(column[:]).tobytes()


def _swap(column: array[int]) -> array[int]:
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _write_section(out: BinaryIO, tag: bytes, data: bytes) -> None:
    stored = zlib.compress(data)
    header = _SECTION.pack(tag, len(stored), len(data))
    out.write(header + _CHECKSUM.pack(zlib.crc32(stored, zlib.crc32(header))) + stored)


def _encode_strings(strings: Iterable[str]) -> bytes:
    encoded = [text.encode("utf-8", "surrogatepass") for text in strings]
    sizes = struct.pack(f"<{len(encoded) + 1}I", len(encoded), *map(len, encoded))
    return sizes + b"".join(encoded)


def _frame_row(
    frame: Frame, strings: _Table[str], locations: _Table[Location], modules: _Table[Module]
) -> tuple[int, ...]:
    return (
        strings.index(frame.name),
        _number(frame.kind),
        _number(frame.tier),
        locations.index(frame.location),
        locations.index(frame.definition),
        frame.inlined,
        frame.script_id,
        modules.index(frame.module),
        frame.address is not None,
        frame.address or 0,
        locations.index(frame.original),
        strings.index(frame.original_name),
    )


_NUMBERS: dict[Enum, int] = {
    member: number for words in _WORDS.values() for number, member in enumerate(words)
}


def _number(member: Enum | None) -> int:
    return -1 if member is None else _NUMBERS[member]


def _encode_samples(profile: Profile, start: int) -> bytes:
    end = min(start + _BLOCK_SAMPLES, len(profile))
    times = profile.time_ns[start:end]
    return _pack(
        _SAMPLE,
        zip(
            profile.stack[start:end],
            profile.thread[start:end],
            (time - before for before, time in pairwise((0, *times))),
            profile.weight[start:end],
            map(_number, profile.state[start:end]),
            map(_number, profile.vm_state[start:end]),
            (_number(profile.truncated.get(sample)) for sample in range(start, end)),
            strict=True,
        ),
    )


def _encode_meta(profile: Profile) -> dict[str, Any]:
    meta, stats = profile.meta, profile.stats
    return {
        "meta": {
            "value_type": meta.value_type.value,
            **{key: getattr(meta, key) for key in (*_META_NUMBERS, *_META_TEXTS)},
            "notes": meta.notes,
        },
        "stats": {
            **{key: getattr(stats, key) for key in _STATS_NUMBERS},
            "lost": {reason.value: count for reason, count in stats.lost.items()},
            "truncated": {reason.value: count for reason, count in stats.truncated.items()},
            "pauses": list(stats.pauses),
        },
        "threads": [list(thread) for thread in profile.threads],
        "words": {key: [member.value for member in words] for key, words in _WORDS.items()},
    }


def _read_version_1(source: BinaryIO) -> Profile:
    """Read the sections of a version 1 file.

    Raises:
        MalformedData: They are cut off, damaged, too large, or contradict each other.
        ValueError: Likewise, from a conversion.
    """
    parts: dict[bytes, bytes] = {}
    blocks: list[bytes] = []
    total = 0
    while b"DONE" not in parts:
        tag, data = _read_section(source)
        total += len(data)
        if total > MAX_TOTAL_BYTES:
            _file.fail("too large")
        if tag == b"SAMP":
            blocks.append(data)
        elif tag in parts:
            _file.fail(f"section {tag!r} twice")
        else:
            parts[tag] = data
    for tag in (b"META", b"STRS", b"LOCS", b"MODS", b"FRAM", b"STAK", b"SRCS"):
        if tag not in parts:
            _file.fail(f"no section {tag!r}")
    profile, words = _decode_meta(parts[b"META"])
    strings = _decode_strings(parts[b"STRS"])
    _decode_frames(profile, parts, strings, words)
    distances, frames = _unpack(_STACK, parts[b"STAK"], MAX_STACKS, "stacks")
    for row, (distance, frame) in enumerate(zip(distances, frames, strict=True)):
        if profile.stacks.intern(row - distance, frame) != row:
            _file.fail(f"stack row {row}: a second time")
    for block in blocks:
        _decode_samples(profile, block, words)
    for url, text in zip(*_unpack(_PAIR, parts[b"SRCS"], MAX_STRINGS, "sources"), strict=True):
        profile.sources[_pick(strings, url)] = _pick(strings, text)
    profile.check()
    return profile


def _read_section(source: BinaryIO) -> tuple[bytes, bytes]:
    header, checksum = source.read(_SECTION.size), source.read(_CHECKSUM.size)
    if len(checksum) < _CHECKSUM.size:
        _file.fail("cut off")
    tag, stored_size, size = _SECTION.unpack(header)
    limit = MAX_META_BYTES if tag == b"META" else MAX_SECTION_BYTES
    if max(stored_size, size) > limit:
        _file.fail(f"section {tag!r}: larger than {limit} bytes")
    stored = source.read(stored_size)
    if len(stored) < stored_size:
        _file.fail("cut off")
    if _CHECKSUM.pack(zlib.crc32(stored, zlib.crc32(header))) != checksum:
        _file.fail(f"section {tag!r}: damaged")
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(stored, size + 1)
    except zlib.error as err:
        raise MalformedData(_file.name, f"section {tag!r}: {err}") from err
    if len(data) != size or not inflate.eof:
        _file.fail(f"section {tag!r}: not of the size it says")
    return tag, data


def _decode_meta(data: bytes) -> tuple[Profile, dict[str, list[Any]]]:
    """Return a profile that has all but frames, stacks and samples, and the lists of words."""
    try:
        top = _file.mapping(json.loads(data), "META")
    except RecursionError as err:
        raise MalformedData(_file.name, "META: nested too deeply") from err
    fields = _file.mapping(top.get("meta"), "meta")
    notes = _file.sequence(fields.get("notes"), "notes")
    profile = Profile(
        ProfileMeta(
            value_type=_member(ValueType, fields.get("value_type")),
            notes=[_file.text(note, "note") for note in notes],
        )
    )
    for key in _META_NUMBERS:
        setattr(profile.meta, key, _file.integer(fields.get(key), key))
    for key in _META_TEXTS:
        setattr(profile.meta, key, _file.text(fields.get(key), key))
    counts = _file.mapping(top.get("stats"), "stats")
    stats = profile.stats
    for key in _STATS_NUMBERS:
        setattr(stats, key, _file.integer(counts.get(key), key))
    for word, count in _file.mapping(counts.get("lost"), "lost").items():
        stats.lost[_member(LossReason, word)] = _file.integer(count, word)
    for word, count in _file.mapping(counts.get("truncated"), "truncated").items():
        stats.truncated[_member(Truncation, word)] = _file.integer(count, word)
    pauses = _file.sequence(counts.get("pauses"), "pauses")
    if len(pauses) != len(PauseStats._fields):
        _file.fail("pauses: wrong size")
    stats.pauses = PauseStats(*(_file.integer(value, "pause") for value in pauses))
    for index, thread in enumerate(_file.sequence(top.get("threads"), "threads")):
        match thread:
            case [int(pid), int(tid), str(name), str(process_name), int(isolate)]:
                info = ThreadInfo(Pid(pid), Tid(tid), name, process_name, isolate)
            case _:
                _file.fail(f"thread {index}: not pid, tid, name, process name, isolate")
        if profile.intern_thread(info) != index:
            _file.fail(f"thread {index}: a second time")
    lists = _file.mapping(top.get("words"), "words")
    words: dict[str, list[Any]] = {
        key: [_member(kind, word) for word in _file.sequence(lists.get(key), key)]
        for key, kind in _WORDS.items()
    }
    return profile, words


def _member(kind: type[E], word: Any) -> E:
    try:
        return kind(word)
    except ValueError:
        _file.fail(f"{word!r} is no {kind.__name__} that this jsspy knows")


def _decode_strings(data: bytes) -> list[str]:
    if len(data) < 4:
        _file.fail("strings: cut off")
    (count,) = struct.unpack_from("<I", data)
    if count > MAX_STRINGS or 4 * (count + 1) > len(data):
        _file.fail(f"strings: {count} of them")
    sizes = struct.unpack_from(f"<{count}I", data, 4)
    ends = list(accumulate(sizes, initial=4 * (count + 1)))
    if ends[-1] != len(data):
        _file.fail("strings: sizes do not add up")
    return [data[start:end].decode("utf-8", "surrogatepass") for start, end in pairwise(ends)]


def _pick(table: Sequence[T], index: int) -> T:
    if not 0 <= index < len(table):
        _file.fail(f"index {index} in a table of {len(table)}")
    return table[index]


def _maybe(table: Sequence[T], index: int) -> T | None:
    return None if index == -1 else _pick(table, index)


def _decode_frames(
    profile: Profile,
    parts: dict[bytes, bytes],
    strings: list[str],
    words: dict[str, list[Any]],
) -> None:
    locations = [
        Location(_pick(strings, url), _none_if_minus(line), _none_if_minus(column))
        for url, line, column in zip(
            *_unpack(_LOCATION, parts[b"LOCS"], 2 * MAX_FRAMES, "locations"), strict=True
        )
    ]
    modules = [
        Module(_pick(strings, path), _pick(strings, build_id))
        for path, build_id in zip(
            *_unpack(_PAIR, parts[b"MODS"], MAX_FRAMES, "modules"), strict=True
        )
    ]
    kinds, tiers = words["kinds"], words["tiers"]
    originals = _unpack(_INDEX, parts.get(b"ODEF", b""), MAX_FRAMES, "definitions")[0]
    packages = _unpack(_INDEX, parts.get(b"PKGS", b""), MAX_FRAMES, "packages")[0]
    for number, row in enumerate(
        zip(*_unpack(_FRAME, parts[b"FRAM"], MAX_FRAMES, "frames"), strict=True)
    ):
        name, kind, tier, place, begin, inlined, script, module, known, address, *original = row
        frame = Frame(
            name=_pick(strings, name),
            kind=_pick(kinds, kind),
            tier=_maybe(tiers, tier),
            location=_maybe(locations, place),
            definition=_maybe(locations, begin),
            inlined=bool(inlined),
            script_id=script,
            module=_maybe(modules, module),
            address=address if known else None,
            original=_maybe(locations, original[0]),
            original_name=_maybe(strings, original[1]),
            original_definition=_maybe(locations, _pick(originals, number)) if originals else None,
            package=(_maybe(strings, _pick(packages, number)) or "") if packages else "",
        )
        if profile.intern_frame(frame) != number:
            _file.fail(f"frame {number}: a second time")


def _decode_samples(profile: Profile, block: bytes, words: dict[str, list[Any]]) -> None:
    columns = _unpack(_SAMPLE, block, MAX_SAMPLES - len(profile), "samples")
    stack, thread, deltas, weight, state, vm_state, truncated = columns
    start = len(profile)
    for sample, reason in enumerate(truncated, start):
        if reason != -1:
            profile.truncated[sample] = _pick(words["truncations"], reason)
    try:
        profile.time_ns.extend(accumulate(deltas))
    except OverflowError:
        _file.fail("a time is too large")
    profile.stack.extend(stack)
    profile.thread.extend(thread)
    profile.weight.extend(weight)
    states, vm_states = words["states"], words["vm_states"]
    profile.state.extend([_pick(states, index) for index in state])
    profile.vm_state.extend([_pick(vm_states, index) for index in vm_state])
    if len(weight) and min(weight) < 0:
        _file.fail("a weight is negative")
