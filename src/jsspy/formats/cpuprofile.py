"""`.cpuprofile`: what V8's own profiler writes and Chrome DevTools opens.

One file holds one thread: we write the busiest that runs JavaScript, and count the others in the
key `jsspy`. As with V8's profiler, native code and builtins are charged to the JavaScript function
that called them; without one the sample is `(program)`, `(idle)` or `(garbage collector)`. The
`-native` variant gives every frame a node instead.

Readers give a sample the time until the next one. Where a thread slept, no sample was taken: the
gap is filled with one `(idle)` sample, or `(program)` if nobody slept and samples were lost.

Source: v8/src/profiler/profile-generator.cc and the DevTools protocol's type Profiler.Profile.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, BinaryIO, ClassVar
from urllib.parse import quote

from jsspy.formats.input import Source
from jsspy.formats.output import dump_json, separated, write_text
from jsspy.formats.tree import Tree, busiest_thread, samples_by_thread
from jsspy.model.names import NO_STACK, VM_KINDS, clean, function_name, function_of, place_of
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.sample import ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location
from jsspy.model.units import Pid, Tid

_ROOT, _PROGRAM, _IDLE, _GARBAGE = 1, 2, 3, 4
_FIRST_NODE = 5
_META_NAMES = {
    _ROOT: "(root)",
    _PROGRAM: "(program)",
    _IDLE: "(idle)",
    _GARBAGE: "(garbage collector)",
}
_COUNT_US = 1000
"""How long one sample of a profile without times is made to last: V8's default interval."""
_MAX_REPEATED = 1 << 20
"""Imported counts up to this sum are written one by one; above it only as durations."""
_URL_SAFE = "/:@!$&'()*+,;=~[]|^"


class CpuProfile:
    """V8's CPU profile of one thread."""

    name: ClassVar[str] = "cpuprofile"
    suffix: ClassVar[str] = ".cpuprofile"
    description: ClassVar[str] = "Chrome DevTools, VS Code; the busiest JavaScript thread only"

    def write(self, profile: Profile, out: BinaryIO) -> None:
        """See `Format.write`."""
        write_text(out, self._parts(profile))

    def key(self, frame: Frame) -> Frame | None:
        """Return the function that a node stands for; None if the frame has no node."""
        if frame.kind in {FrameKind.JS, FrameKind.WASM}:
            return function_of(frame)
        return None

    def _parts(self, profile: Profile) -> Iterator[str]:
        thread = busiest_thread(profile)
        samples = samples_by_thread(profile).get(thread, ())
        tree = Tree(profile, self.key, profile.weight, samples)
        leaves = [
            _leaf(profile, sample, node)
            for sample, node in zip(samples, tree.node_of_sample, strict=True)
        ]
        times, nodes, start, end = _timeline(profile, samples, leaves)
        hits: dict[int, int] = {}
        for node in nodes:
            hits[node] = hits.get(node, 0) + 1
        yield '{"nodes":[\n'
        yield from separated(map(dump_json, self._nodes(profile, tree, samples, leaves, hits)))
        yield f'],\n"startTime":{start},\n"endTime":{end},\n"samples":['
        yield from separated(map(str, nodes), ",")
        yield '],\n"timeDeltas":['
        yield from separated((str(time - last) for last, time in pairwise([start, *times])), ",")
        yield "]"
        if thread >= 0:
            info = profile.threads[thread]
            yield ',\n"jsspy":' + dump_json(
                {
                    "pid": info.pid,
                    "tid": info.tid,
                    "thread": clean(info.name),
                    "measures": profile.meta.value_type.value,
                    "threadsLeftOut": len(set(profile.thread)) - 1,
                }
            )
        yield "}\n"

    def _nodes(
        self,
        profile: Profile,
        tree: Tree[Frame],
        samples: Any,
        leaves: list[int],
        hits: dict[int, int],
    ) -> Iterator[dict[str, Any]]:
        ticks = self._position_ticks(profile, samples, leaves)
        scripts: dict[Frame, int] = {}
        for frame in profile.frames:
            if (function := self.key(frame)) is not None:
                scripts.setdefault(function, frame.script_id)
        children = tree.children()
        meta = [node for node in (_PROGRAM, _IDLE, _GARBAGE) if node in hits]
        for node in (_ROOT, *meta):
            yield {
                "id": node,
                "callFrame": {
                    "functionName": _META_NAMES[node],
                    "scriptId": "0",
                    "url": "",
                    "lineNumber": -1,
                    "columnNumber": -1,
                },
                "hitCount": hits.get(node, 0),
            } | (
                {"children": meta + [child + _FIRST_NODE for child in children[-1]]}
                if node == _ROOT
                else {}
            )
        for node in range(len(tree)):
            function = tree.keys[tree.key[node]]
            number = node + _FIRST_NODE
            record = {
                "id": number,
                "callFrame": _call_frame(function, scripts[function]),
                "hitCount": hits.get(number, 0),
            }
            if children[node]:
                record["children"] = [child + _FIRST_NODE for child in children[node]]
            if number in ticks:
                record["positionTicks"] = [
                    {"line": line, "ticks": count} for line, count in sorted(ticks[number].items())
                ]
            yield record

    def _position_ticks(
        self, profile: Profile, samples: Any, leaves: list[int]
    ) -> dict[int, dict[int, int]]:
        """Return node -> executing line -> samples."""
        line_of_row: dict[int, int] = {}
        ticks: dict[int, dict[int, int]] = {}
        for sample, leaf in zip(samples, leaves, strict=True):
            row = profile.stack[sample]
            if leaf < _FIRST_NODE:
                continue
            if row not in line_of_row:
                shown = (f for f in profile.iter_frames(row) if self.key(f) is not None)
                place = next(shown).location
                line_of_row[row] = (place and place.line) or 0
            if line := line_of_row[row]:
                lines = ticks.setdefault(leaf, {})
                lines[line] = lines.get(line, 0) + 1
        return ticks


class CpuProfileNative(CpuProfile):
    """V8's CPU profile of one thread, with a node for every frame."""

    name: ClassVar[str] = "cpuprofile-native"
    description: ClassVar[str] = (
        "cpuprofile in which native code and builtins have nodes of their own"
    )

    def key(self, frame: Frame) -> Frame | None:
        """Return the function that a node stands for; None if the frame has no node."""
        if frame.kind in VM_KINDS or frame == NO_STACK:
            return None
        return function_of(frame)


def _leaf(profile: Profile, sample: int, node: int) -> int:
    """Return the id of the node that a sample belongs to."""
    if profile.vm_state[sample] is VmState.GC:
        return _GARBAGE
    if node >= 0:
        return node + _FIRST_NODE
    if profile.vm_state[sample] is VmState.IDLE or profile.state[sample].is_idle:
        return _IDLE
    return _PROGRAM


def _timeline(
    profile: Profile, samples: Any, leaves: list[int]
) -> tuple[list[int], list[int], int, int]:
    """Return times in microseconds, node ids, start and end; gaps are filled."""
    weights = [profile.weight[sample] for sample in samples]
    if profile.meta.value_type is ValueType.SAMPLES:
        if sum(weights) <= _MAX_REPEATED:
            leaves = [
                leaf for leaf, count in zip(leaves, weights, strict=True) for _ in range(count)
            ]
            weights = [1] * len(leaves)
        times = [0]
        for weight in weights:
            times.append(times[-1] + weight * _COUNT_US)
        return times[:-1], leaves, 0, times[-1]
    filler = _IDLE if profile.stats.idle else _PROGRAM
    times, nodes = [], []
    end = None
    for sample, leaf, weight in zip(samples, leaves, weights, strict=True):
        time = profile.time_ns[sample]
        if end is not None and time - end > weight:
            times.append(end // 1000)
            nodes.append(filler)
        times.append(time // 1000)
        nodes.append(leaf)
        end = time + weight
    start = profile.meta.start_ns // 1000
    if times and not 0 < start <= times[0]:
        start = times[0]
    return times, nodes, start, start if end is None else max(end // 1000, times[-1])


def _call_frame(function: Frame, script_id: int) -> dict[str, Any]:
    place = place_of(function)
    anonymous = function.kind in {FrameKind.JS, FrameKind.WASM} and not (
        function.original_name or function.name
    )
    return {
        "functionName": "" if anonymous else function_name(function),
        "scriptId": str(script_id),
        "url": _url(place.url) if place else "",
        "lineNumber": place.line - 1 if place and place.line else -1,
        "columnNumber": place.column - 1 if place and place.column else -1,
    }


def _url(name: str) -> str:
    """Return a script's name as the inspector shows it: paths are `file:` URLs."""
    name = clean(name)
    return "file://" + quote(name, safe=_URL_SAFE) if name.startswith("/") else name


class CpuProfileReader:
    """Reads CPU profiles of V8, old and new."""

    name: ClassVar[str] = "cpuprofile"

    def matches(self, head: bytes, filename: str) -> bool:
        """See `Reader.matches`."""
        if not head.lstrip().startswith(b"{"):
            return False
        return filename.endswith(".cpuprofile") or b'"callFrame"' in head

    def read(self, source: BinaryIO) -> Profile:
        """See `Reader.read`."""
        file = Source(self.name)
        top = file.mapping(file.load_json(source), "the file")
        nodes: dict[int, dict[str, Any]] = {}
        for value in file.sequence(top.get("nodes"), "nodes"):
            node = file.mapping(value, "a node")
            number = file.integer(node.get("id"), "a node's id")
            if nodes.setdefault(number, node) is not node:
                file.fail(f"node {number}: a second time")
        profile = Profile(ProfileMeta(value_type=_measured(top.get("jsspy")), engine=self.name))
        profile.intern_thread(_thread(top.get("jsspy")))
        rows = _rows(file, nodes, profile)
        if "samples" in top:
            self._read_samples(file, top, nodes, rows, profile)
        else:
            profile.meta.value_type = ValueType.SAMPLES
            for number, node in nodes.items():
                hits = file.integer(node.get("hitCount", 0), "hitCount")
                if hits:
                    self._add(profile, node, rows[number], 0, hits)
        return profile

    def _read_samples(
        self,
        file: Source,
        top: dict[str, Any],
        nodes: dict[int, dict[str, Any]],
        rows: dict[int, int],
        profile: Profile,
    ) -> None:
        samples = file.sequence(top["samples"], "samples")
        deltas = file.sequence(top.get("timeDeltas"), "timeDeltas")
        if len(samples) != len(deltas):
            file.fail("samples and timeDeltas differ in length")
        time = start = file.integer(top.get("startTime", 0), "startTime", high=1 << 52)
        times = []
        for delta in deltas:
            # V8 writes negative ones now and then; time does not go back.
            step = file.integer(delta, "a time delta", low=-(1 << 52), high=1 << 52)
            time = min(time + max(step, 0), 1 << 52)
            times.append(time)
        end = file.integer(top.get("endTime", 0), "endTime", high=1 << 52)
        profile.meta.start_ns = start * 1000
        profile.meta.duration_ns = max(end - start, time - start) * 1000
        last = max(end - time, 0) or (time - times[0]) // max(len(times) - 1, 1) if times else 0
        for index, number in enumerate(samples):
            node = nodes.get(number) if isinstance(number, int) else None
            if node is None:
                file.fail(f"sample {index}: no node {number!r}")
            until = times[index + 1] - times[index] if index + 1 < len(times) else last
            self._add(profile, node, rows[number], times[index] * 1000, until * 1000)

    @staticmethod
    def _add(profile: Profile, node: dict[str, Any], row: int, time_ns: int, weight: int) -> None:
        state, vm_state = ThreadState.RUNNING, VmState.UNKNOWN
        match node["callFrame"]["functionName"] if row >= 0 else "":
            case "(idle)":
                state, vm_state = ThreadState.SLEEPING, VmState.IDLE
            case "(garbage collector)":
                vm_state = VmState.GC
        profile.add_row(row, 0, time_ns, weight, state, vm_state)


def _thread(value: Any) -> ThreadInfo:
    match value:
        case {"pid": int(pid), "tid": int(tid), "thread": str(name)}:
            return ThreadInfo(Pid(pid), Tid(tid), clean(name))
        case _:
            return ThreadInfo(Pid(0), Tid(0), "main")


def _measured(value: Any) -> ValueType:
    """Return what our own key says; counts were written as durations."""
    match value:
        case {"measures": ("wall" | "off-cpu") as word}:
            return ValueType(word)
        case _:
            return ValueType.CPU


def _rows(file: Source, nodes: dict[int, dict[str, Any]], profile: Profile) -> dict[int, int]:
    """Return node id -> stack row; the root has none (-1)."""
    parents: dict[int, int] = {}
    for number, node in nodes.items():
        links = [(child, number) for child in file.sequence(node.get("children", []), "children")]
        if "parent" in node:
            links.append((number, node["parent"]))
        for child, parent in links:
            if not isinstance(child, int) or child not in nodes:
                file.fail(f"node {number}: no node {child!r}")
            if not isinstance(parent, int) or parent not in nodes:
                file.fail(f"node {number}: no node {parent!r}")
            if parents.setdefault(child, parent) != parent:
                file.fail(f"node {child}: two parents")
    rows: dict[int, int] = {}
    for number in nodes:
        pending = []
        up: int | None = number
        while up is not None and up not in rows:
            pending.append(up)
            if len(pending) > len(nodes):
                file.fail(f"node {number}: is its own caller")
            up = parents.get(up)
        row = -1 if up is None else rows[up]
        for down in reversed(pending):
            frame = _decode_call_frame(file, nodes[down])
            if frame is not None:
                row = profile.stacks.intern(row, profile.intern_frame(frame))
            rows[down] = row
    return rows


def _decode_call_frame(file: Source, node: dict[str, Any]) -> Frame | None:
    call = file.mapping(node.get("callFrame"), "callFrame")
    name = clean(file.text(call.get("functionName"), "functionName"))
    url = clean(file.text(call.get("url", ""), "url"))
    line = file.integer(call.get("lineNumber", -1), "lineNumber", low=-1, high=1 << 30)
    column = file.integer(call.get("columnNumber", -1), "columnNumber", low=-1, high=1 << 30)
    if name == "(root)":
        return None
    if not url:
        meta = name in _META_NAMES.values()
        kind = FrameKind.VM_STATE if meta else FrameKind.JS if not name else FrameKind.UNKNOWN
        return Frame(name, kind)
    place = Location(url, line + 1 or None, column + 1 or None)
    script = str(call.get("scriptId", "0"))
    return Frame(
        name,
        FrameKind.JS,
        definition=place,
        script_id=int(script) if script.isdecimal() and len(script) < 10 else 0,
    )
