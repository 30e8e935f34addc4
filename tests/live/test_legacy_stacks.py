"""Stacks of Node.js 0.10 to 11, against what the program says of its own stack.

The lines of Node that had long-term support are tested in full; the releases between them, and
between those that `test_stacks` covers, once over where they are at hand.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from itertools import pairwise

import pytest

import nodes
import running
from jsspy.model.sample import Sample, VmState
from jsspy.model.stack import FrameKind, Tier
from recorded import Recording, record
from truth import SCRIPT_KINDS, LegacySite, legacy_difference
from truth import difference as modern_difference

SCENARIOS = (
    *(("plain", leaf) for leaf in ("js", "json", "crypto", "fs", "regexp", "gc", "strings")),
    *(("sort", "json"), ("each", "js"), ("reduce", "fs"), ("replace", "gc"), ("reviver", "json")),
    *(("tojson", "js"), ("construct", "crypto"), ("construct_many", "js"), ("adapted", "fs")),
    *(("getter", "js"), ("recursion", "js"), ("recursion", "json"), ("evaluated", "js")),
    *(("compiled", "json"), ("contextified", "js"), ("emitted", "js"), ("timer", "json")),
    *(("tick", "regexp"), ("applied", "js"), ("bound", "js"), ("caught", "js")),
)

MAX_SPOILED = 2
"""Of 20 or 30 samples. Programs collect most garbage when they begin, which is when we look."""

NATIVE_LEAVES = ("json", "crypto", "fs", "gc")

BETWEEN = ("5.12.0", "7.10.1", "9.11.2", "11.15.0")
"""Releases of V8 4.6, 5.5, 6.2 and 7.0 that have no long-term support."""

BETWEEN_MODERN = ("13.14.0", "15.14.0", "17.9.1", "19.8.1", "21.7.3", "23.11.1", "25.2.1")


def is_spoiled(sample: Sample) -> bool:
    """Whether the collector was moving what a stack names when it was looked at.

    Then a function is "(unknown)", or the source of its script is not to be had.
    """
    frames = sample.stack.frames
    return any(frame.kind is FrameKind.UNKNOWN for frame in frames) or any(
        frame.tier in (Tier.INTERPRETED, Tier.BASELINE)
        and frame.kind is FrameKind.JS
        and (frame.location is None or frame.location.line is None)
        for frame in frames
    )


def check(recording: Recording, sites: Sequence[LegacySite]) -> None:
    """Verify that every sample has the true stack, named and whole."""
    spoiled = 0
    for sample in recording.samples:
        assert sample.stack.truncated is None, sample
        assert sample.stack.frames[0].name == "_start"
        if is_spoiled(sample):
            spoiled += 1
        else:
            assert legacy_difference(sample.stack.frames, sites) == "", sample
    assert spoiled <= MAX_SPOILED


def record_sites(version: str, scenario: str, leaf: str) -> tuple[Recording, list[LegacySite]]:
    """Sample a program that stays in one stack; return that stack, too."""
    program = nodes.TARGETS / "legacy_stacks.js"
    with nodes.running(version, program, scenario, leaf, wait=False) as target:
        sites: list[LegacySite] = [tuple(site) for site in json.loads(target.line())]
        target.wait_ready()
        return record(target.pid, 30, at_once=True), sites


@pytest.mark.parametrize(("scenario", "leaf"), SCENARIOS)
@pytest.mark.parametrize("version", nodes.selected(nodes.LEGACY))
def test_stacks_are_those_of_the_program(version: str, scenario: str, leaf: str) -> None:
    recording, sites = record_sites(version, scenario, leaf)
    check(recording, sites)
    leaves = {sample.stack.frames[-1].kind for sample in recording.samples}
    assert leaf not in NATIVE_LEAVES or FrameKind.NATIVE in leaves
    assert leaf != "regexp" or FrameKind.REGEXP in leaves
    labels = {frame.name for sample in recording.samples for frame in sample.stack.frames}
    assert {"[entry frame]", "[internal frame]"} <= labels
    assert not scenario.startswith("construct") or "[constructor frame]" in labels
    assert scenario not in ("adapted", "construct_many") or "[arguments adaptor]" in labels
    assert leaf != "crypto" or labels & {"[exit frame]", "[builtin exit frame]"}
    states = {sample.vm_state for sample in recording.samples}
    # Before, optimized code calls what node has made of C++ without a change of state.
    is_told = version.startswith(("8.", "10."))
    assert leaf != "crypto" or not is_told or VmState.EXTERNAL in states


@pytest.mark.parametrize(
    ("scenario", "leaf"), [("sort", "json"), ("each", "js"), ("evaluated", "js"), ("emitted", "fs")]
)
@pytest.mark.parametrize("version", nodes.selected(BETWEEN))
def test_releases_between_the_lines(version: str, scenario: str, leaf: str) -> None:
    nodes.find_optional(version)
    check(*record_sites(version, scenario, leaf))


@pytest.mark.parametrize(("scenario", "leaf"), [("sort", "json"), ("map", "js"), ("resumed", "js")])
@pytest.mark.parametrize("version", nodes.selected(BETWEEN_MODERN))
def test_modern_releases_between_the_lines(version: str, scenario: str, leaf: str) -> None:
    nodes.find_optional(version)
    program = nodes.TARGETS / "stacks.js"
    with nodes.running(version, program, scenario, leaf, wait=False) as target:
        sites = [tuple(site) for site in json.loads(target.line())]
        target.wait_ready()
        recording = record(target.pid, 20)
    good = [sample for sample in recording.samples if not is_spoiled(sample)]
    assert len(good) >= len(recording.samples) - MAX_SPOILED
    for sample in good:
        assert modern_difference(sample.stack.frames, sites) == "", sample
        assert sample.stack.truncated is None, sample


@pytest.mark.parametrize("optimizes", [True, False])
@pytest.mark.parametrize("version", nodes.selected(nodes.LEGACY + BETWEEN))
def test_calls_and_returns_in_every_tier(version: str, optimizes: bool) -> None:
    """At any instant the stack is drive < first < second < third < first ..., 42 frames at most.

    Also in optimized code, where each of them is inlined into others.
    """
    if version in BETWEEN:
        nodes.find_optional(version)
    has_crankshaft = int(version.split(".", maxsplit=1)[0]) < 8
    flags = () if optimizes else ("--nocrankshaft" if has_crankshaft else "--noopt",)
    program = nodes.TARGETS / "legacy_recursive.js"
    with nodes.running(version, program, flags=flags, wait=False) as target:
        lines: dict[str, list[int]] = json.loads(target.line())
        target.wait_ready()
        recording = record(target.pid, 150, rate_hz=200, at_once=True)
    unplaced = inlined = early = lost = 0
    for sample in recording.samples:
        assert sample.stack.truncated is None, sample
        frames = [f for f in sample.stack.frames if f.kind in (FrameKind.JS, FrameKind.UNKNOWN)]
        start = next((at for at, frame in enumerate(frames) if frame.name == "drive"), None)
        if start is None:
            # What printed "ready" has not returned.
            early += 1
            continue
        chain = frames[start:]
        assert len(chain) <= 42
        expected = "drive"
        for depth, frame in enumerate(chain):
            if frame.kind is FrameKind.UNKNOWN:
                break
            assert frame.name == expected, sample
            assert frame.location is not None
            call = lines[expected][1]
            if frame.location.line is None:
                unplaced += depth == len(chain) - 1
                lost += depth < len(chain) - 1
            elif depth < len(chain) - 1:
                assert frame.location.line == call, sample
            else:
                # From the opening parenthesis to the closing brace.
                assert call - 2 <= frame.location.line <= call + 1, sample
            inlined += frame.inlined
            expected = {"first": "second", "second": "third"}.get(expected, "first")
    assert early <= len(recording.samples) // 20
    # The collector may be moving the source when the first stacks are read.
    assert lost <= recording.resolver.js_frames // 50
    assert recording.resolver.js_frames_named >= 0.99 * recording.resolver.js_frames
    tiers = {frame.tier for sample in recording.samples for frame in sample.stack.frames}
    unoptimized = Tier.BASELINE if has_crankshaft else Tier.INTERPRETED
    if optimizes:
        assert Tier.OPTIMIZED in tiers
        assert inlined
    elif version != "7.10.1":
        # There, --nocrankshaft gives way to TurboFan.
        assert Tier.OPTIMIZED not in tiers
        assert unoptimized in tiers
        assert unplaced <= len(recording.samples) // 5


def wait_sleeping(pid: int) -> None:
    """Wait until a process has been asleep for ten looks in a row."""
    deadline = time.monotonic() + running.TIMEOUT_S
    looks = 0
    while looks < 10:
        assert time.monotonic() < deadline
        looks = looks + 1 if running.thread_state(pid) == "S" else 0
        time.sleep(0.02)


@pytest.mark.parametrize("version", nodes.selected(nodes.LEGACY))
def test_an_idle_process_is_read_where_it_sleeps(version: str) -> None:
    with nodes.running(version, running.IDLE) as target:
        wait_sleeping(target.pid)
        recording = record(target.pid, 3, idle=True, rate_hz=20)
    for sample in recording.samples:
        names = [frame.name for frame in sample.stack.frames]
        assert sample.state.is_idle
        assert sample.stack.truncated is None
        assert names[0] == "_start"
        assert "uv_run" in names
        assert not any(frame.kind in SCRIPT_KINDS for frame in sample.stack.frames)


@pytest.mark.parametrize("version", nodes.selected(nodes.LEGACY))
def test_garbage_collection_is_seen(version: str) -> None:
    program = "console.log('ready'); for (;;) gc();"
    with nodes.running(version, program, flags=["--expose-gc"]) as target:
        recording = record(target.pid, 50)
    states = [sample.vm_state for sample in recording.samples]
    # The first ones may show how it begins.
    assert states.count(VmState.GC) >= 0.5 * len(states)
    assert all(sample.stack.truncated is None for sample in recording.samples)


DEEP = """
function down(depth) {
  if (depth === 0) {
    console.log('ready');
    for (var x = 0; ; ) x = (x * 31 + 1) | 0;
  }
  return down(depth - 1) + 1;
}
down(10000);
"""


@pytest.mark.parametrize("version", nodes.selected(nodes.LEGACY))
def test_deep_stacks_are_whole(version: str) -> None:
    with nodes.running(version, DEEP, flags=["--stack-size=7000"]) as target:
        recording = record(target.pid, 3, rate_hz=20)
    for sample in recording.samples:
        names = [frame.name for frame in sample.stack.frames]
        assert names.count("down") == 10001
        assert names[0] == "_start"
    assert recording.resolver.js_frames_named == recording.resolver.js_frames


CHURN = """
function churn(depth) {
  var local = { depth: depth, list: [depth, depth + 1] };
  var closure = function closure(n) {
    return n === 0 ? local.list.slice() : churn(n - 1).concat(local.depth);
  };
  return closure(depth);
}
function rest() {
  var end = Date.now() + 20;
  while (Date.now() < end) churn(9);
  setImmediate(rest);
}
console.log('ready');
rest();
"""


@pytest.mark.parametrize("version", nodes.selected(nodes.LEGACY))
def test_young_closures_keep_their_names(version: str) -> None:
    """Every call is of a closure that was just made, and the collector moves them all the time."""
    with nodes.running(version, CHURN) as target:
        recording = record(target.pid, 150, rate_hz=200, at_once=True)
    resolver = recording.resolver
    assert resolver.js_frames_named >= 0.99 * resolver.js_frames
    whole = sum(sample.stack.truncated is None for sample in recording.samples)
    assert whole >= 0.99 * len(recording.samples)
    for sample in recording.samples:
        names = [
            frame.name
            for frame in sample.stack.frames
            if frame.location and frame.location.url.endswith("program.js")
        ]
        if "rest" in names:
            chain = names[names.index("rest") + 1 :]
            assert set(chain) <= {"churn", "closure"}, sample
            known = [name for name in chain if name]
            pairs = pairwise(known)
            unknown = any(frame.kind is FrameKind.UNKNOWN for frame in sample.stack.frames)
            assert unknown or all(first != second for first, second in pairs), sample
