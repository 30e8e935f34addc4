"""The log that `node --prof` writes: code as it comes and goes, and ticks.

Code is looked up at the time of each tick, since the collector moves it. Addresses in shared
libraries become a frame for the library: the log has no symbols of theirs.

Source: v8/src/logging/log.cc and tools/tickprocessor.mjs, at 11.3.244; logs of Node.js 4 to 26.
"""

from __future__ import annotations

import csv
import re
from bisect import bisect_left, bisect_right
from typing import BinaryIO, ClassVar

from jsspy.formats.input import MAX_WEIGHT, Source
from jsspy.model.names import clean
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.sample import VmState
from jsspy.model.stack import Frame, FrameKind, Module, Tier
from jsspy.model.units import Pid, Tid
from jsspy.model.v8_names import split_place

_NUMBER = re.compile(r"(?:0x[0-9a-f]{1,16}|-?[0-9]{1,19})")
_DELTA = re.compile(r"([+-])0x([0-9a-f]{1,16})")
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|n|\\)")
_PLAIN_KINDS = {
    "Builtin": FrameKind.BUILTIN,
    "BytecodeHandler": FrameKind.BYTECODE_HANDLER,
    "Handler": FrameKind.BUILTIN,
    "RegExp": FrameKind.REGEXP,
    "Stub": FrameKind.BUILTIN,
}
_SCRIPT_KINDS = frozenset({"JS", "LazyCompile", "Function", "Script", "Eval"})
_STATES = {0: VmState.JS, 1: VmState.GC}
"""These two have kept their numbers in all versions; those of the others moved."""
_DEFAULT_INTERVAL_US = 1000
_LEAST_INTERVAL_US = 10
_MAX_CODE_SIZE = 1 << 32
_MAX_STACK = 1 << 16
_U64 = 1 << 64


class V8LogReader:
    """Reads the log of `node --prof`."""

    name: ClassVar[str] = "v8-log"

    def matches(self, head: bytes, filename: str) -> bool:
        """See `Reader.matches`."""
        del filename
        return head.startswith(b"v8-version,")

    def read(self, source: BinaryIO) -> Profile:
        """See `Reader.read`."""
        lines = Source(self.name)
        profile = Profile(ProfileMeta(value_type=ValueType.WALL, engine=self.name))
        profile.intern_thread(ThreadInfo(Pid(0), Tid(0), "main"))
        code = _CodeMap()
        interval_us = _DEFAULT_INTERVAL_US
        quoted = False
        for number, line in lines.iter_lines(source):
            # V8 before 6.3 quotes texts; since then it escapes what is in them.
            quoted = quoted or line.startswith(('shared-library,"', 'profiler,"'))
            try:
                fields = next(csv.reader([line])) if quoted and '"' in line else line.split(",")
                match fields[0]:
                    case "tick":
                        _add_tick(profile, code, fields, interval_us * 1000)
                    case "code-creation":
                        # V8 before 6 has no time in front of the address.
                        rest = fields[3 if fields[3].startswith("0x") else 4 :]
                        code.add(_value(rest[0]), _value(rest[1]), _frame(fields[1], rest[2:]))
                    case "code-move":
                        code.move(_value(fields[1]), _value(fields[2]))
                    case "code-delete":
                        code.remove(_value(fields[1]))
                    case "shared-library":
                        path = _unescape(fields[1])
                        frame = Frame(
                            path.rpartition("/")[2], FrameKind.NATIVE, module=Module(path)
                        )
                        start, end = _value(fields[2]), _value(fields[3])
                        code.add_library(start, end, frame)
                    case "profiler" if fields[1] == "begin":
                        interval_us = max(1, min(_value(fields[2]), 10_000_000))
                        if interval_us < _LEAST_INTERVAL_US:
                            interval_us *= 1000  # V8 before 6 writes milliseconds
                    case "v8-version":
                        profile.meta.v8_version = clean(".".join(fields[1:5]))
            except (IndexError, ValueError, csv.Error):
                lines.fail(f"line {number}: {line.partition(',')[0]!r} with wrong fields")
        profile.meta.period_ns = interval_us * 1000
        return profile


def _value(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(text)
    return int(text, 0) % _U64


def _unescape(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        code = match[1]
        return {"n": "\n", "\\": "\\"}.get(code) or chr(int(code[1:], 16))

    return clean(_ESCAPE.sub(character, text))


def _frame(kind: str, fields: list[str]) -> Frame:
    """Return the frame of a code-creation line: name, SharedFunctionInfo, mark."""
    name = _unescape(fields[0])
    mark = fields[2].lstrip("o")[:1] if len(fields) > 2 else ""
    # "~" interpreted, "^" baseline, "+" Maglev, "*" optimised; unmarked is baseline code of old V8.
    tier = Tier(mark) if mark in {member.value for member in Tier} else None
    if kind in _SCRIPT_KINDS:
        if found := split_place(name):
            return Frame(found[0], FrameKind.JS, tier, definition=found[1])
        return Frame(name.strip(), FrameKind.JS, tier)
    return Frame(name, _PLAIN_KINDS.get(kind, FrameKind.UNKNOWN))


def _add_tick(profile: Profile, code: _CodeMap, fields: list[str], weight: int) -> None:
    """Append the sample of a tick: pc, time in us, is external, its callback, state, stack."""
    pc, time_us, state = _value(fields[1]), _value(fields[2]), _value(fields[5])
    address = _value(fields[4]) if fields[3] == "1" else pc
    addresses = [address]
    previous = pc
    for text in fields[6 : 6 + _MAX_STACK]:
        if match := _DELTA.fullmatch(text):
            previous += int(match[2], 16) * (1 if match[1] == "+" else -1)
            addresses.append(previous)
        elif not text.startswith("o"):  # "overflow"
            previous = _value(text)
            addresses.append(previous)
    row = -1
    for found in reversed(addresses):
        frame = code.find(found)
        if frame is not None:
            row = profile.stacks.intern(row, profile.intern_frame(frame))
    if time_us > MAX_WEIGHT // 1000:
        raise ValueError(fields[2])
    profile.add_row(row, 0, time_us * 1000, weight, vm_state=_STATES.get(state, VmState.UNKNOWN))


class _CodeMap:
    """Which code lies where, now."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._code: dict[int, tuple[int, Frame]] = {}
        self._library_starts: list[int] = []
        self._libraries: dict[int, tuple[int, Frame]] = {}

    def add(self, start: int, size: int, frame: Frame) -> None:
        """Put code somewhere; what lay there is gone."""
        size = max(size, 1)
        if size > _MAX_CODE_SIZE:
            raise ValueError(size)
        first = bisect_left(self._starts, start)
        if first and self._code[self._starts[first - 1]][0] > start:
            first -= 1
        last = max(bisect_left(self._starts, start + size), first)
        for gone in self._starts[first:last]:
            del self._code[gone]
        self._starts[first:last] = [start]
        self._code[start] = (start + size, frame)

    def remove(self, start: int) -> None:
        """Forget code, if it is known."""
        if self._code.pop(start, None) is not None:
            del self._starts[bisect_left(self._starts, start)]

    def move(self, start: int, to: int) -> None:
        """Follow the collector."""
        known = self._code.get(start)
        if known is not None:
            self.remove(start)
            self.add(to, known[0] - start, known[1])

    def add_library(self, start: int, end: int, frame: Frame) -> None:
        """Note a mapped file."""
        if start not in self._libraries:
            self._library_starts.insert(bisect_left(self._library_starts, start), start)
        self._libraries[start] = (end, frame)

    def find(self, address: int) -> Frame | None:
        """Return what lies at an address."""
        for starts, table in (
            (self._starts, self._code),
            (self._library_starts, self._libraries),
        ):
            index = bisect_right(starts, address)
            if index and table[starts[index - 1]][0] > address:
                return table[starts[index - 1]][1]
        return None
