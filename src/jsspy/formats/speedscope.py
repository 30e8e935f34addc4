"""speedscope's JSON: one profile per thread, samples in order of time.

Source: file-format-schema.json of the npm package speedscope, 1.25.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, ClassVar

from jsspy.formats.imported import frame_of_place
from jsspy.formats.input import MAX_WEIGHT, Source
from jsspy.formats.output import dump_json, separated, write_text
from jsspy.formats.tree import Tree, samples_by_thread
from jsspy.model.names import (
    VM_KINDS,
    clean,
    function_name,
    function_of,
    path_of,
    place_of,
)
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.stack import Frame
from jsspy.model.units import Pid, Tid

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"
_NANOSECONDS = {
    "nanoseconds": 1,
    "microseconds": 1_000,
    "milliseconds": 1_000_000,
    "seconds": 1_000_000_000,
}


class Speedscope:
    """speedscope's own file format."""

    name: ClassVar[str] = "speedscope"
    suffix: ClassVar[str] = ".speedscope.json"
    description: ClassVar[str] = "speedscope.app, every thread with its time order"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, _parts(profile))


def _key(frame: Frame) -> Frame | None:
    return None if frame.kind in VM_KINDS else function_of(frame)


def _parts(profile: Profile) -> Iterator[str]:
    tree = Tree(profile, _key, profile.weight)
    version = profile.meta.jsspy_version
    exporter = dump_json(f"jsspy@{clean(version)}" if version else "jsspy")
    yield f'{{"$schema":"{_SCHEMA}",\n"exporter":{exporter},\n'
    name = f"{clean(profile.meta.command)} ({profile.meta.value_type.words})"
    yield f'"name":{dump_json(name.lstrip())},\n'
    yield '"activeProfileIndex":0,\n"shared":{"frames":[\n'
    yield from separated(dump_json(_frame(function)) for function in tree.keys)
    yield ']},\n"profiles":['
    unit = "none" if profile.meta.value_type is ValueType.SAMPLES else "nanoseconds"
    # speedscope refuses a file without profiles, so an empty one has an empty profile.
    threads: dict[int, Sequence[int]] = {**samples_by_thread(profile)} or {-1: ()}
    for number, (thread, samples) in enumerate(threads.items()):
        runs = _runs(profile, tree, samples)
        total = sum(weight for _, weight in runs)
        header = {
            "type": "sampled",
            "name": _thread_name(profile.threads[thread]) if thread >= 0 else "no samples",
            "unit": unit,
            "startValue": 0,
            "endValue": total,
        }
        yield f'{"," if number else ""}\n{dump_json(header)[:-1]},\n"samples":[\n'
        yield from separated(_stack(tree, node) for node, _ in runs)
        yield '],\n"weights":['
        yield from separated((str(weight) for _, weight in runs), ",")
        yield "]}"
    yield "]}\n"


def _runs(profile: Profile, tree: Tree[Frame], samples: Sequence[int]) -> list[tuple[int, int]]:
    """Return (leaf node, weight); samples that follow each other with equal stacks are one."""
    runs: list[tuple[int, int]] = []
    for sample in samples:
        node, weight = tree.node_of_sample[sample], profile.weight[sample]
        if runs and runs[-1][0] == node:
            runs[-1] = (node, runs[-1][1] + weight)
        else:
            runs.append((node, weight))
    return runs


def _stack(tree: Tree[Frame], node: int) -> str:
    """Return the frame indexes of a stack, root first, as a JSON array."""
    indexes = []
    while node >= 0:
        indexes.append(tree.key[node])
        node = tree.parent[node]
    return f"[{','.join(map(str, reversed(indexes)))}]"


def _thread_name(thread: ThreadInfo) -> str:
    return clean(f"{thread.process_name} {thread.pid}/{thread.tid} {thread.name}")


def _frame(function: Frame) -> dict[str, Any]:
    frame: dict[str, Any] = {"name": function_name(function)}
    if place := place_of(function):
        frame["file"] = clean(path_of(place.url))
        if place.line is not None:
            frame["line"] = place.line
        if place.column is not None:
            frame["col"] = place.column
    elif function.module is not None:
        frame["file"] = clean(function.module.path)
    return frame


class SpeedscopeReader:
    """Reads speedscope's own files, sampled and evented."""

    name: ClassVar[str] = "speedscope"

    def matches(self, head: bytes, filename: str) -> bool:
        """See `Reader.matches`."""
        if not head.lstrip().startswith(b"{"):
            return False
        return _SCHEMA.encode() in head or filename.endswith(".speedscope.json")

    def read(self, source: BinaryIO) -> Profile:
        """See `Reader.read`."""
        file = Source(self.name)
        top = file.mapping(file.load_json(source), "the file")
        shared = file.mapping(top.get("shared"), "shared")
        frames = [
            _decode_frame(file, value) for value in file.sequence(shared.get("frames"), "frames")
        ]
        parts = [
            file.mapping(part, "a profile")
            for part in file.sequence(top.get("profiles"), "profiles")
        ]
        units = {part.get("unit") for part in parts if part.get("unit") in _NANOSECONDS}
        kind = ValueType.WALL if units else ValueType.SAMPLES
        profile = Profile(ProfileMeta(value_type=kind, engine=self.name))
        indexes = [profile.intern_frame(frame) for frame in frames]
        for number, part in enumerate(parts):
            unit = part.get("unit")
            if units and unit not in _NANOSECONDS:
                file.fail(f"profile {number}: time and {unit!r} in one file")
            name = clean(file.text(part.get("name", ""), "a profile's name"))
            thread = profile.intern_thread(_thread(name, number))
            rows = _Rows(file, profile, indexes)
            scale = _NANOSECONDS.get(str(unit), 1)
            match part.get("type"):
                case "sampled":
                    runs = _sampled(file, part, rows)
                case "evented":
                    runs = _evented(file, part, rows)
                case other:
                    file.fail(f"profile {number}: type {other!r}")
            time = 0
            for row, value in runs:
                weight = round(value * scale)
                if time + weight > MAX_WEIGHT:
                    file.fail(f"profile {number}: weights too large")
                profile.add_row(row, thread, time if units else 0, weight)
                time += weight
            profile.meta.duration_ns = max(profile.meta.duration_ns, time if units else 0)
        return profile


class _Rows:
    """Turns frame indexes of the file into stack rows."""

    def __init__(self, file: Source, profile: Profile, indexes: list[int]) -> None:
        self._file = file
        self._stacks = profile.stacks
        self._indexes = indexes

    def below(self, row: int, frame: Any) -> int:
        """Return the row of a frame called from `row`."""
        if not isinstance(frame, int) or not 0 <= frame < len(self._indexes):
            self._file.fail(f"no frame {frame!r}")
        return self._stacks.intern(row, self._indexes[frame])

    def above(self, row: int) -> int:
        """Return the caller's row."""
        return self._stacks.parent[row]

    def is_leaf(self, row: int, frame: Any) -> bool:
        """Say whether a frame of the file is the leaf of `row`."""
        return row >= 0 and self.below(self.above(row), frame) == row


def _sampled(file: Source, part: dict[str, Any], rows: _Rows) -> Iterator[tuple[int, float]]:
    samples = file.sequence(part.get("samples"), "samples")
    weights = file.sequence(part.get("weights"), "weights")
    if len(samples) != len(weights):
        file.fail("samples and weights differ in length")
    for sample, weight in zip(samples, weights, strict=True):
        row = -1
        for frame in file.sequence(sample, "a sample"):
            row = rows.below(row, frame)
        yield row, file.number(weight, "a weight")


def _evented(file: Source, part: dict[str, Any], rows: _Rows) -> Iterator[tuple[int, float]]:
    row = -1
    last = file.number(part.get("startValue"), "startValue")
    for value in file.sequence(part.get("events"), "events"):
        event = file.mapping(value, "an event")
        at = file.number(event.get("at"), "at")
        if at < last:
            file.fail("events are not in order of time")
        if row >= 0 and at > last:
            yield row, at - last
        last = at
        match event.get("type"):
            case "O":
                row = rows.below(row, event.get("frame"))
            case "C" if rows.is_leaf(row, event.get("frame")):
                row = rows.above(row)
            case _:
                file.fail("an event closes what is not open")
    if row >= 0:
        file.fail("frames are left open")


_THREAD_NAME = re.compile(r"(\S+) ([0-9]{1,9})/([0-9]{1,9}) (.*)")


def _thread(name: str, number: int) -> ThreadInfo:
    if match := _THREAD_NAME.fullmatch(name):
        return ThreadInfo(Pid(int(match[2])), Tid(int(match[3])), match[4], match[1])
    return ThreadInfo(Pid(0), Tid(number), name)


def _decode_frame(file: Source, value: Any) -> Frame:
    frame = file.mapping(value, "a frame")
    name = clean(file.text(frame.get("name"), "a frame's name"))
    url = clean(file.text(frame.get("file") or "", "a frame's file"))
    line = file.integer(frame.get("line") or 0, "line", high=1 << 30)
    column = file.integer(frame.get("col") or 0, "col", high=1 << 30)
    return frame_of_place(name, url, line, column)
