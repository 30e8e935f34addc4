"""From a running node to named stacks: against what the program says of its own stack."""

from __future__ import annotations

import json

import pytest

import nodes
from jsspy.engines import ENGINES
from jsspy.model.sample import Sample, VmState
from jsspy.model.stack import FrameKind, Tier, Truncation
from jsspy.model.units import Tid
from recorded import record, require
from truth import Site, difference

NATIVE_LEAVES = ("json", "crypto", "zlib", "fs", "gc")
SCENARIOS = (
    *(("plain", leaf) for leaf in ("js", "json", "crypto", "zlib", "fs", "regexp", "gc")),
    *(("plain", leaf) for leaf in ("strings", "sleep")),
    *(("sort", "json"), ("map", "js"), ("reduce", "fs"), ("replace", "gc"), ("reviver", "json")),
    *(("construct", "zlib"), ("getter", "js"), ("recursion", "js"), ("recursion", "json")),
    *(("resumed", "js"), ("generated", "crypto"), ("evaluated", "js"), ("compiled", "json")),
    *(("contextified", "js"), ("emitted", "js"), ("timer", "json"), ("module", "js")),
    *(("applied", "js"), ("bound", "js"), ("proxied", "js"), ("tagged", "js")),
)


@pytest.mark.parametrize(("scenario", "leaf"), SCENARIOS)
@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_stacks_are_those_of_the_program(version: str, scenario: str, leaf: str) -> None:
    program = nodes.TARGETS / "stacks.js"
    with nodes.running(version, program, scenario, leaf, wait=False) as target:
        sites: list[Site] = [tuple(site) for site in json.loads(target.line())]
        target.wait_ready()
        recording = record(target.pid, 30, idle=leaf == "sleep")
    for sample in recording.samples:
        assert difference(sample.stack.frames, sites) == "", sample
        assert sample.stack.truncated is None, sample
        assert sample.stack.frames[0].name == "_start"
    assert recording.resolver.js_frames_named == recording.resolver.js_frames
    leaves = {sample.stack.frames[-1].kind for sample in recording.samples}
    assert leaf not in NATIVE_LEAVES or FrameKind.NATIVE in leaves
    if leaf == "regexp":
        assert FrameKind.REGEXP in leaves
    states = {sample.vm_state for sample in recording.samples}
    if leaf == "crypto":
        assert VmState.EXTERNAL in states
    if leaf == "sleep" and not version.startswith("12."):
        assert VmState.ATOMICS_WAIT in states


def test_garbage_collection_is_seen() -> None:
    version = nodes.selected(nodes.MODERN)[-1]
    program = "console.log('ready'); for (;;) gc();"
    with nodes.running(version, program, flags=["--expose-gc"]) as target:
        recording = record(target.pid, 20)
    states = [sample.vm_state for sample in recording.samples]
    assert states.count(VmState.GC) >= 15


MODES = {
    "default": ((), 0),
    "interpreted": (("--no-opt", "--no-sparkplug", "--no-maglev"), 0),
    "baseline": (("--no-opt", "--always-sparkplug", "--no-maglev"), 16),
    "maglev": (("--no-turbofan", "--maglev"), 24),
    "not inlined": (("--no-turbo-inlining", "--no-maglev-inlining"), 0),
}
"""Flags, and the first version in which they mean something."""

SINCE = {
    "--no-sparkplug": 16,
    "--always-sparkplug": 16,
    "--no-maglev": 20,
    "--no-maglev-inlining": 20,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_calls_and_returns_in_every_tier(version: str, mode: str) -> None:
    """At any instant the stack is drive < first < second < third < first ..., 42 frames at most."""
    flags, since = MODES[mode]
    major = int(version.split(".", maxsplit=1)[0])
    if major < since:
        return
    flags = tuple(flag for flag in flags if major >= SINCE.get(flag, 0))
    with nodes.running(version, nodes.TARGETS / "recursive.js", flags=flags, wait=False) as target:
        lines: dict[str, list[int]] = json.loads(target.line())
        target.wait_ready()
        recording = record(target.pid, 150, rate_hz=500)
    unplaced = 0
    for sample in recording.samples:
        assert sample.stack.truncated is None, sample
        frames = [f for f in sample.stack.frames if f.kind in (FrameKind.JS, FrameKind.UNKNOWN)]
        if all(frame.name != "drive" for frame in frames):
            # It has not come back from saying that it is ready.
            assert any(frame.name in {"writeSync", "Module._compile"} for frame in frames), sample
            continue
        start = next(index for index, frame in enumerate(frames) if frame.name == "drive")
        chain = frames[start:]
        assert len(chain) <= 42
        expected = "drive"
        for depth, frame in enumerate(chain):
            assert frame.name == expected, sample
            assert frame.location is not None
            call = lines[expected][1]
            if depth < len(chain) - 1:
                assert frame.location.line == call, sample
            elif frame.location.line is None:
                # Where baseline code takes its frame down there is nothing to go by.
                assert frame.tier is Tier.BASELINE, sample
                unplaced += 1
            else:
                # From the opening parenthesis to the closing brace.
                assert call - 2 <= frame.location.line <= call + 1, sample
            expected = {"first": "second", "second": "third"}.get(expected, "first")
    assert recording.resolver.js_frames_named == recording.resolver.js_frames
    assert unplaced <= len(recording.samples) // 10


DEOPTIMIZING = """
function once(o) { return o.a + o.b; }
function caller(o) { return once(o) + 1; }
const known = { a: 1, b: 2 };
function drive() {
  for (let i = 0; i < 500; i++) {
    %PrepareFunctionForOptimization(once);
    once(known);
    %OptimizeFunctionOnNextCall(once);
    once(known);
    caller({ ['x' + i]: 1, a: 1, b: 1 });
    %ClearFunctionFeedback(once);
  }
  setImmediate(drive);
}
console.log('ready');
drive();
"""
LEAST_DEOPTIMIZED = 2
MOST_SAMPLES = 5000


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_a_function_that_is_being_deoptimized_hides_no_caller(version: str) -> None:
    """For a while it has no frame at all: it is not named then, and all others are."""
    flags = ["--allow-natives-syntax"]
    samples: list[Sample] = []
    unknown = 0
    with nodes.running(version, DEOPTIMIZING, flags=flags) as target:
        while unknown < LEAST_DEOPTIMIZED and len(samples) < MOST_SAMPLES:
            # The engine does not follow the functions of the callers: they are read at once.
            new = record(target.pid, 200, rate_hz=997, at_once=True).samples
            samples += new
            for sample in new:
                frames = sample.stack.frames
                lost = [at for at, it in enumerate(frames) if it.kind is FrameKind.UNKNOWN]
                unknown += len(lost)
                for at in lost:
                    assert frames[at - 1].name in ("caller", "drive"), sample
                    # Or it is about to be: its code is marked, and is left at once.
                    is_leaf = at == len(frames) - 1
                    assert is_leaf or any("Deoptimiz" in it.name for it in frames[at:]), sample
    assert unknown >= LEAST_DEOPTIMIZED
    whole = sum(sample.stack.truncated is None for sample in samples)
    assert whole >= 0.99 * len(samples)


WORKERS = """
const { Worker, isMainThread } = require('worker_threads');
if (isMainThread) {
  for (let i = 0; i < 2; i++) new Worker(__filename);
  setInterval(() => {}, 1000);
  setTimeout(() => console.log('ready'), 500);
} else {
  let sum = 0;
  const work = () => {
    const end = Date.now() + 30;
    while (Date.now() < end) sum += Math.sqrt(sum + 1);
    setTimeout(work, 20);
  };
  work();
}
"""


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_every_thread_is_walked_to_its_start(version: str) -> None:
    with nodes.running(version, WORKERS) as target:
        recording = record(target.pid, 120, idle=True, rate_hz=100)
    samples = recording.samples
    assert len({sample.tid for sample in samples}) == 3
    assert {sample.state.is_idle for sample in samples} == {False, True}
    whole = sum(sample.stack.truncated is None for sample in samples)
    assert whole >= 0.99 * len(samples)
    for sample in samples:
        names = [frame.name for frame in sample.stack.frames]
        if sample.stack.truncated is None:
            assert (names[0] == "_start") == (sample.tid == Tid(target.pid))
        if sample.tid != Tid(target.pid) and sample.state.is_idle:
            assert any("uv_run" in name or "uv__io_poll" in name for name in names)
    assert recording.resolver.js_frames_named >= 0.995 * recording.resolver.js_frames


DEEP = """
function down(depth) {
  if (depth === 0) {
    console.log('ready');
    for (let x = 0; ; ) x = (x * 31 + 1) | 0;
  }
  return down(depth - 1) + 1;
}
down(10000);
"""


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_deep_stacks_are_whole(version: str) -> None:
    with nodes.running(version, DEEP, flags=["--stack-size=7000"]) as target:
        recording = record(target.pid, 3, rate_hz=20)
    for sample in recording.samples:
        names = [frame.name for frame in sample.stack.frames]
        assert names.count("down") == 10001
        assert names[0] == "_start"
    # How it says that it is ready may be deoptimized just then.
    assert recording.resolver.js_frames_named >= 0.999 * recording.resolver.js_frames


LEAST_DEEP = {"ebpf": 2000, "perf": 200}
"""Of a stack that is larger than what an engine keeps of one, the frames nearest to the leaf."""


@pytest.mark.parametrize("engine", LEAST_DEEP)
@pytest.mark.parametrize("version", nodes.selected(("20.20.2", "26.10.0")))
def test_what_is_too_deep_for_an_engine_is_cut_and_says_so(version: str, engine: str) -> None:
    with nodes.running(version, DEEP, flags=["--stack-size=7000"]) as target:
        require(ENGINES[engine], target.pid)
        recording = record(target.pid, 3, engine=ENGINES[engine](99), at_once=True)
    for sample in recording.samples:
        frames = sample.stack.frames
        assert sample.stack.truncated in (Truncation.TOO_DEEP, Truncation.STACK_TOO_LARGE), sample
        assert sum(frame.name == "down" for frame in frames) >= LEAST_DEEP[engine]
        assert {frame.name for frame in frames if frame.kind is FrameKind.JS} == {"down"}


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_an_unknown_v8_degrades_to_native_frames(version: str) -> None:
    with nodes.running(version, nodes.TARGETS / "stacks.js", "plain", "json") as target:
        recording = record(target.pid, 10, known=False)
    names = set()
    for sample in recording.samples:
        assert sample.stack.frames[0].name == "_start"
        assert all(frame.kind is not FrameKind.JS for frame in sample.stack.frames)
        names |= {frame.name for frame in sample.stack.frames}
    assert any("JsonParse" in name for name in names)
    assert recording.resolver.js_frames_named == 0
