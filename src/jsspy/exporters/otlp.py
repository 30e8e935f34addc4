"""Profiles for OpenTelemetry: OTLP's signal `profiles`, which is in development.

Pinned to opentelemetry-proto 1.11, `v1development`; field numbers changed before and may again. All
that knows them is here. Index 0 of every table of the dictionary means "none". Inlined functions
share one location with the function that they were inlined into, innermost line first.

Source: github.com/open-telemetry/opentelemetry-proto, profiles.proto, at v1.11.0.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

from jsspy import __version__
from jsspy.formats.protobuf import (
    encode_bytes,
    encode_fixed64,
    encode_number,
    encode_packed,
)
from jsspy.model.names import (
    NO_STACK,
    VM_KINDS,
    clean,
    function_name,
    function_of,
    path_of,
    place_of,
)
from jsspy.model.profile import Profile, ThreadInfo, ValueType
from jsspy.model.stack import Frame, FrameKind, Module

PATH = "/v1development/profiles"
CONTENT_TYPE = "application/x-protobuf"

_TYPES = {
    ValueType.CPU: ("cpu", "nanoseconds"),
    ValueType.WALL: ("wall", "nanoseconds"),
    ValueType.OFF_CPU: ("off_cpu", "nanoseconds"),
    ValueType.SAMPLES: ("samples", "count"),
}
_FRAME_TYPES = {FrameKind.NATIVE: "native", FrameKind.KERNEL: "kernel"}
_OTHER_FRAME_TYPE = "v8js"

K = TypeVar("K", bound=Hashable)


class ResourceProfile(NamedTuple):
    """A profile, and what it is of."""

    attributes: dict[str, str | int]
    """Of the resource: `service.name`, `process.pid` …"""
    profile: Profile
    profile_id: bytes
    """16 bytes, different for every profile."""


class _Table(Generic[K]):
    """Distinct values, numbered from 1; 0 is none."""

    def __init__(self) -> None:
        self.index: dict[K, int] = {}

    def add(self, key: K) -> int:
        return self.index.setdefault(key, len(self.index) + 1)


def _any_value(value: str | int) -> bytes:
    """Encode an AnyValue; of these, 0 and "" are written, too."""
    if isinstance(value, int):
        return encode_number(3, value) or b"\x18\x00"
    return encode_bytes(1, clean(value).encode())


def encode_request(profiles: Sequence[ResourceProfile]) -> bytes:
    """Return an ExportProfilesServiceRequest."""
    dictionary = _Dictionary()
    resources = b"".join(encode_bytes(1, dictionary.resource(one)) for one in profiles)
    return resources + encode_bytes(2, dictionary.encode())


class _Dictionary:
    """The tables that all profiles of a request share."""

    def __init__(self) -> None:
        self._strings = _Table[str]()
        self._modules = _Table[Module]()
        self._ends: dict[Module, int] = {}
        self._functions = _Table[Frame]()
        self._locations = _Table[bytes]()
        self._stacks = _Table[bytes]()
        self._attributes = _Table[tuple[str, str | int]]()

    def resource(self, one: ResourceProfile) -> bytes:
        """Encode a ResourceProfiles."""
        attributes = b"".join(
            encode_bytes(1, encode_bytes(1, key.encode()) + encode_bytes(2, _any_value(value)))
            for key, value in one.attributes.items()
        )
        scope = encode_bytes(1, b"jsspy") + encode_bytes(2, __version__.encode())
        profiles = encode_bytes(1, scope) + encode_bytes(2, self._profile(one))
        return encode_bytes(1, attributes) + encode_bytes(2, profiles)

    def encode(self) -> bytes:
        """Encode the tables. Strings come last, as encoding the others adds some."""
        parts = [encode_bytes(field, b"") for field in (1, 2, 3, 4, 6, 7)]
        parts += [encode_bytes(1, self._mapping(module)) for module in self._modules.index]
        parts += [encode_bytes(2, data) for data in self._locations.index]
        parts += [encode_bytes(3, self._function(frame)) for frame in self._functions.index]
        for key, value in self._attributes.index:
            attribute = encode_number(1, self._string(key)) + encode_bytes(2, _any_value(value))
            parts.append(encode_bytes(6, attribute))
        parts += [encode_bytes(7, data) for data in self._stacks.index]
        parts.append(encode_bytes(5, b""))
        parts += [encode_bytes(5, text.encode()) for text in self._strings.index]
        return b"".join(parts)

    def _string(self, text: str) -> int:
        return self._strings.add(clean(text)) if text else 0

    def _value_type(self, kind: str, unit: str) -> bytes:
        return encode_number(1, self._string(kind)) + encode_number(2, self._string(unit))

    def _profile(self, one: ResourceProfile) -> bytes:
        profile = one.profile
        meta = profile.meta
        value_type = self._value_type(*_TYPES[meta.value_type])
        merged: dict[tuple[int, int], int] = {}
        for row, thread, weight in zip(profile.stack, profile.thread, profile.weight, strict=True):
            merged[row, thread] = merged.get((row, thread), 0) + weight
        stacks = {row: self._stack(profile, row) for row, _ in merged}
        threads = {index: self._thread(profile.threads[index]) for _, index in merged}
        samples = [
            encode_bytes(
                2,
                encode_number(1, stacks[row])
                + encode_packed(2, threads[thread])
                + encode_packed(4, [weight]),
            )
            for (row, thread), weight in merged.items()
        ]
        return b"".join(
            [
                encode_bytes(1, value_type),
                *samples,
                encode_fixed64(3, meta.start_time_unix_ns),
                encode_number(4, meta.duration_ns),
                encode_bytes(5, value_type),
                encode_number(6, meta.period_ns),
                encode_bytes(7, one.profile_id),
            ]
        )

    def _thread(self, info: ThreadInfo) -> list[int]:
        return [
            self._attributes.add(("thread.name", clean(info.name))),
            self._attributes.add(("thread.id", int(info.tid))),
        ]

    def _stack(self, profile: Profile, row: int) -> int:
        """Return the number of a stack; its locations come leaf first."""
        locations: list[int] = []
        inlined: list[Frame] = []
        for frame in profile.iter_frames(row):
            if frame.kind in VM_KINDS:
                continue
            inlined.append(frame)
            if not frame.inlined:
                locations.append(self._location(inlined))
                inlined = []
        if inlined or not locations:
            locations.append(self._location(inlined or [NO_STACK]))
        return self._stacks.add(encode_packed(1, locations))

    def _location(self, frames: Sequence[Frame]) -> int:
        """Return the number of a location: innermost function first, the physical one last."""
        physical = frames[-1]
        kind = _FRAME_TYPES.get(physical.kind, _OTHER_FRAME_TYPE)
        data = b""
        if physical.module is not None:
            address = physical.address or 0
            self._ends[physical.module] = max(self._ends.get(physical.module, 0), address + 1)
            data = encode_number(1, self._modules.add(physical.module))
            data += encode_number(2, address)
        for frame in frames:
            place = frame.original or frame.location
            line = encode_number(1, self._functions.add(function_of(frame)._replace(inlined=False)))
            if place is not None:
                line += encode_number(2, place.line or 0) + encode_number(3, place.column or 0)
            data += encode_bytes(3, line)
        attribute = self._attributes.add(("profile.frame.type", kind))
        return self._locations.add(data + encode_packed(4, [attribute]))

    def _function(self, function: Frame) -> bytes:
        place = place_of(function)
        path = path_of(place.url) if place else function.module.path if function.module else ""
        name = self._string(function_name(function))
        return (
            encode_number(1, name)
            + encode_number(2, name)
            + encode_number(3, self._string(path))
            + encode_number(4, place.line if place and place.line else 0)
        )

    def _mapping(self, module: Module) -> bytes:
        """Encode a module. Addresses are as linked, so it begins at 0."""
        data = encode_number(2, self._ends[module]) + encode_number(4, self._string(module.path))
        if module.build_id:
            key = ("process.executable.build_id.gnu", module.build_id)
            data += encode_packed(5, [self._attributes.add(key)])
        return data
