"""Self time by function, from V8's own CPU profile and from ours, and how far they are apart.

A function is (name, base name of its file, line of its definition). Time that belongs to no
function of a script is (program) or (garbage collector), as V8's profiler has it.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TypeVar

from jsspy.model.profile import Profile
from jsspy.model.sample import VmState
from jsspy.model.stack import FrameKind

Function = tuple[str, str, int]
Key = TypeVar("Key")

PROGRAM: Function = ("(program)", "", 0)
GARBAGE_COLLECTOR: Function = ("(garbage collector)", "", 0)


def of_cpuprofile(path: Path) -> Counter[Function]:
    """Return the hits per function of a .cpuprofile; idle time is left out."""
    table: Counter[Function] = Counter()
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        frame = node["callFrame"]
        name, hits = frame["functionName"], node.get("hitCount", 0)
        if name in {"(idle)", "(root)"}:
            continue
        if frame["url"]:
            key = (name, Path(frame["url"]).name, frame["lineNumber"] + 1)
        elif name == GARBAGE_COLLECTOR[0]:
            key = GARBAGE_COLLECTOR
        else:
            key = PROGRAM
        table[key] += hits
    return table


def of_profile(profile: Profile) -> Counter[Function]:
    """Return the weight per function of a recording, charged as V8's profiler charges it.

    Time in builtins and native code belongs to the JS function that called them.
    """
    table: Counter[Function] = Counter()
    for row, weight, vm_state in zip(profile.stack, profile.weight, profile.vm_state, strict=True):
        key = PROGRAM
        if vm_state is VmState.GC:
            key = GARBAGE_COLLECTOR
        else:
            for frame in profile.iter_frames(row):
                if frame.kind is FrameKind.JS and frame.definition and frame.definition.url:
                    line = frame.definition.line or 0
                    key = (frame.name, Path(frame.definition.url).name, line)
                    break
        table[key] += weight
    return table


def distance(left: Counter[Key], right: Counter[Key]) -> float:
    """Return the total variation distance of two tables: 0 is equal, 1 is disjoint."""
    left_total, right_total = left.total(), right.total()
    assert left_total, "no samples on the left"
    assert right_total, "no samples on the right"
    return 0.5 * sum(
        abs(left[key] / left_total - right[key] / right_total) for key in left.keys() | right.keys()
    )
