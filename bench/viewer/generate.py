"""Make profiles of a known number of distinct tree positions: what the viewer is measured with.

Seeded, so that two runs draw the same picture. The shape follows a server: a few wide paths, very
many thin ones, depth up to 80, and one branch 2,000 deep that weighs about one percent.
"""

from __future__ import annotations

import random

from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo, ValueType
from jsspy.model.sample import ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Tier
from jsspy.model.units import Pid, Tid

FUNCTIONS = {5_000: 832, 20_000: 2_252, 200_000: 11_807}
SAMPLES = {5_000: 1_453, 20_000: 8_195, 200_000: 105_248}
MAX_DEPTH = 80
DEEP = 2_000
PERIOD_NS = 1_000_000

_VERBS = [
    "parse",
    "read",
    "write",
    "handle",
    "emit",
    "resolve",
    "render",
    "compile",
    "find",
    "load",
    "send",
    "visit",
    "match",
]
_NOUNS = [
    "Request",
    "Header",
    "Body",
    "Token",
    "Node",
    "Chunk",
    "Query",
    "Route",
    "Stream",
    "Buffer",
    "Row",
    "Json",
    "Tree",
]
_PACKAGES = ["express", "body-parser", "pg", "lodash", "react-dom", "undici"]


def make_frame(number: int, rng: random.Random) -> Frame:
    """Return a distinct function of one of the kinds that a server's profile shows."""
    name = f"{rng.choice(_VERBS)}{rng.choice(_NOUNS)}{number}"
    kind = rng.choices(("app", "deps", "core", "builtin", "native", "gc"), (40, 25, 15, 8, 10, 2))[
        0
    ]
    line, column = rng.randrange(1, 3000), rng.randrange(1, 80)
    if kind == "native":
        return Frame(f"node::{name}(v8::Local<v8::Value>)", FrameKind.NATIVE)
    if kind == "gc":
        return Frame(f"(garbage collector {number})", FrameKind.VM_STATE)
    if kind == "builtin":
        return Frame(f"{name}Builtin", FrameKind.BUILTIN)
    url = {
        "app": f"/srv/app/src/{rng.choice(_NOUNS).lower()}/module{number % 97}.js",
        "deps": f"/srv/app/node_modules/{rng.choice(_PACKAGES)}/lib/file{number % 53}.js",
        "core": f"node:internal/file{number % 31}",
    }[kind]
    place = Location(url, line, column)
    tier = rng.choice(list(Tier))
    return Frame(
        name, FrameKind.JS, tier, Location(url, line + 3, 7), place, inlined=rng.random() < 0.1
    )


def make_profile(nodes: int, *, seed: int = 1, deep: int = DEEP) -> Profile:
    """Return a profile whose merged tree has exactly `nodes` positions."""
    rng = random.Random(seed)
    functions = FUNCTIONS.get(nodes, max(10, nodes // 12))
    samples = SAMPLES.get(nodes, nodes // 3)
    profile = Profile(
        ProfileMeta(
            value_type=ValueType.CPU,
            period_ns=PERIOD_NS,
            start_ns=10**12,
            duration_ns=samples * PERIOD_NS,
            engine="ptrace",
            command="node /srv/app/server.js",
            node_version="v20.20.2",
        )
    )
    frames = [profile.intern_frame(make_frame(i, rng)) for i in range(functions)]
    stacks = profile.stacks
    top = stacks.intern(-1, profile.intern_frame(Frame("main", FrameKind.NATIVE)))
    depth = [1]
    row = top
    for level in range(min(deep, nodes // 2)):
        row = stacks.intern(row, frames[level % functions])
        depth.append(level + 2)
    deep_row = row
    # Branches start anywhere, more often at the shallower of two places, and are short.
    open_rows = [top]
    while len(stacks) < nodes:
        row = rng.choice(open_rows)
        if rng.random() < 0.6:
            row = min(row, rng.choice(open_rows), key=depth.__getitem__)
        for _ in range(rng.randrange(1, 9)):
            if depth[row] >= MAX_DEPTH or len(stacks) >= nodes:
                break
            before = len(stacks)
            row = stacks.intern(row, frames[int(functions * rng.random() ** 2)])
            if len(stacks) > before:
                depth.append(depth[stacks.parent[row]] + 1)
                open_rows.append(row)
    threads = [
        profile.intern_thread(ThreadInfo(Pid(4121), Tid(4121 + i), name))
        for i, name in enumerate(("node", "worker 1"))
    ]
    has_child = set(stacks.parent)
    leaves = [r for r in range(len(stacks)) if r not in has_child and r != deep_row]
    # Every leaf once, so that no position is without weight; the rest by a heavy tail.
    wanted = leaves + [
        leaves[int(len(leaves) * rng.random() ** 6)]
        for _ in range(max(0, samples - len(leaves) - 20))
    ]
    wanted += [deep_row] * max(1, samples // 100)
    rng.shuffle(wanted)
    states = (VmState.JS, VmState.JS, VmState.JS, VmState.GC, VmState.EXTERNAL)
    for i, row in enumerate(wanted):
        profile.add_row(
            row,
            threads[0] if rng.random() < 0.8 else threads[1],
            10**12 + i * PERIOD_NS + rng.randrange(100_000),
            PERIOD_NS,
            ThreadState.RUNNING,
            rng.choice(states),
        )
    profile.stats.requested = len(wanted)
    return profile
