"""Self time by line and by function, from V8's own CPU profile and from ours, made comparable.

V8's profiler names functions wrongly where code was inlined: up to V8 12 it charges an inlined
line to the function around it, whose file it is not the definition of. Its lines are right. So
both profiles are reduced to executing lines, and a line belongs to the function whose definition is
the last before it. Two mistakes are ours to copy. Time in a builtin without a frame (inline caches)
V8 charges to the caller of the optimized function that called it, which it does not see. And
before V8 14 the line of code that was inlined from another file is told as if it were one of the
file around it.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import Counter
from pathlib import Path

from jsspy.model.profile import Profile
from jsspy.model.sample import VmState
from jsspy.model.stack import Frame, FrameKind, Tier

Line = tuple[str, int]
"""Base name of a file, line."""

GARBAGE_COLLECTOR: Line = ("(garbage collector)", 0)
PROGRAM: Line = ("(program)", 0)

_COMPILED = (Tier.BASELINE, Tier.MAGLEV, Tier.OPTIMIZED)
_CALLBACK = re.compile("node::(?!NodeArrayBufferAllocator::)")
"""Native functions of Node's that V8 calls for a script; the allocator it calls for itself."""

_CONSTRUCTORS = frozenset({"Array", "Map", "Object", "Promise", "RegExp", "Set", "String"})


class Lines:
    """Weights by executing line, and where functions begin."""

    def __init__(self) -> None:
        self.weights: Counter[Line] = Counter()
        self.starts: dict[str, set[int]] = {}

    def add_cpuprofile(self, path: Path) -> None:
        """Add a .cpuprofile of V8's; idle time is left out.

        Functions without a file are charged to the script's function that called them.
        """
        nodes = {node["id"]: node for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
        callers = {child: node for node in nodes.values() for child in node.get("children", ())}
        for start in nodes.values():
            name, hits = start["callFrame"]["functionName"], start.get("hitCount", 0)
            if name in {"(idle)", "(root)"}:
                continue
            node = start
            while not node["callFrame"]["url"] and node["id"] in callers:
                node = callers[node["id"]]
            frame = node["callFrame"]
            file, line = Path(frame["url"]).name, frame["lineNumber"] + 1
            if name == GARBAGE_COLLECTOR[0]:
                self.weights[GARBAGE_COLLECTOR] += hits
                continue
            if not file:
                self.weights[PROGRAM] += hits
                continue
            self.starts.setdefault(file, set()).add(line)
            for tick in node.get("positionTicks", ()) if node is start else ():
                self.weights[file, tick["line"]] += tick["ticks"]
                hits -= tick["ticks"]
            self.weights[file, line] += hits

    def add_profile(
        self, profile: Profile, start_ns: int, end_ns: int, *, names_outer: bool
    ) -> None:
        """Add a profile of ours from a time to another, charged as V8 charges.

        `names_outer`: this V8 does not know which file an inlined line is of.
        """
        columns = zip(profile.stack, profile.vm_state, profile.time_ns, strict=True)
        for row, vm_state, time_ns in columns:
            if not start_ns <= time_ns < end_ns:
                continue
            frames = list(profile.iter_frames(row))
            for frame in frames:
                start = frame.definition
                if frame.kind is FrameKind.JS and start is not None and start.line is not None:
                    self.starts.setdefault(Path(start.url).name, set()).add(start.line)
            if vm_state is VmState.GC:
                self.weights[GARBAGE_COLLECTOR] += 1
            elif vm_state is not VmState.IDLE:
                self.weights[_charged(frames, names_outer=names_outer)] += 1


def _charged(frames: list[Frame], *, names_outer: bool) -> Line:
    """Return the line that V8 charges a stack (leaf first) to.

    Its profile does not say on which line a callback in C++ was called.
    """
    first = 0
    if len(frames) > 1 and _is_without_frame(frames[0]) and frames[1].tier in _COMPILED:
        first = 1
        while frames[first].inlined:
            first += 1
        first += 1
    is_callback = False
    for frame in frames[first:]:
        is_callback |= frame.kind is FrameKind.NATIVE and _CALLBACK.match(frame.name) is not None
        if frame.kind is FrameKind.JS and frame.location is not None and frame.location.url:
            start = frame.definition.line if frame.definition is not None else None
            line = None if is_callback else frame.location.line
            url = frame.location.url
            if names_outer and frame is frames[0]:
                physical = next((it for it in frames if not it.inlined), frame)
                url = physical.location.url if physical.location is not None else url
            return Path(url).name, line or start or 0
    return PROGRAM


def _is_without_frame(leaf: Frame) -> bool:
    """Say whether V8's code that runs is without a frame of its own.

    A builtin that has one is named as JavaScript knows it (`push`), else as V8 does (`LoadIC`).
    """
    if leaf.kind is FrameKind.VM_FRAME:
        return True
    is_of_script = not leaf.name[:1].isupper() or leaf.name in _CONSTRUCTORS
    return leaf.kind is FrameKind.BUILTIN and not is_of_script


def by_function(lines: Lines, *others: Lines) -> Counter[Line]:
    """Return the weights by the line on which a function begins; `others` know of more of them."""
    starts: dict[str, list[int]] = {}
    for known in (lines, *others):
        for file, numbers in known.starts.items():
            starts.setdefault(file, []).extend(numbers)
    for numbers_of_file in starts.values():
        numbers_of_file.sort()
    table: Counter[Line] = Counter()
    for (file, line), weight in lines.weights.items():
        numbers_here = starts.get(file, [])
        index = bisect_right(numbers_here, line) - 1
        table[file, numbers_here[index] if index >= 0 else line] += weight
    return table


def scripted(table: Counter[Line]) -> Counter[Line]:
    """Return a table without what belongs to no function of a script."""
    kept = table.copy()
    for key in (GARBAGE_COLLECTOR, PROGRAM):
        kept.pop(key, None)
    return kept


def only(table: Counter[Line], keys: list[Line]) -> Counter[Line]:
    """Return a table of `keys` and one row for all the rest."""
    rest = Counter({("(rest)", 0): table.total() - sum(table[key] for key in keys)})
    return rest + Counter({key: table[key] for key in keys})
