"""The perf engine on real processes, also as an ordinary user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import nodes
from jsspy.engines.perf import DUMP_BYTES, PerfEngine
from jsspy.model.capture import StackSnapshot
from jsspy.model.sample import LossReason, RawSample
from jsspy.model.stack import FrameKind
from jsspy.recorder import Recorder
from jsspy.target.process import Target
from jsspy.v8.isolates import find_threads
from jsspy.v8.metadata import load_layout
from jsspy.v8.plan import make_plan
from recorded import record, require
from running import AS_NOBODY, BUSY, environment
from truth import Site, difference

LATEST = "22.23.3"
SCENARIOS = (
    *(("plain", leaf) for leaf in ("js", "json", "zlib", "fs", "regexp", "gc", "strings")),
    *(("map", "js"), ("replace", "gc"), ("reviver", "json"), ("resumed", "js"), ("timer", "json")),
)
CASES = [
    # Three scenarios on each version, all of them with JSSPY_THOROUGH.
    (version, *SCENARIOS[(index + 3 * step) % len(SCENARIOS)])
    for index, version in enumerate(nodes.selected(nodes.MODERN))
    for step in range(len(SCENARIOS) if os.environ.get("JSSPY_THOROUGH") else 3)
]

MIXED = nodes.TARGETS / "mixed.js"
CLOSURES = nodes.TARGETS / "closures.js"
STEADY = """
function leafWork(n) { let s = 0; for (let i = 0; i < n; i++) s += Math.sqrt(i ^ s); return s; }
console.log('ready');
for (;;) leafWork(20000);
"""


@pytest.mark.parametrize(("version", "scenario", "leaf"), CASES)
def test_stacks_are_those_of_the_program(version: str, scenario: str, leaf: str) -> None:
    program = nodes.TARGETS / "stacks.js"
    with nodes.running(version, program, scenario, leaf, wait=False) as target:
        sites: list[Site] = [tuple(site) for site in json.loads(target.line())]
        target.wait_ready()
        require(PerfEngine, target.pid)
        recording = record(target.pid, 40, engine=PerfEngine(400))
    whole = [sample for sample in recording.samples if sample.stack.truncated is None]
    assert len(whole) >= 0.95 * len(recording.samples)
    # Functions are read a moment after the dump was made: the GC may have moved young ones.
    named = [
        sample
        for sample in whole
        if all(frame.kind is not FrameKind.UNKNOWN for frame in sample.stack.frames)
    ]
    assert len(named) >= 0.75 * len(whole)
    for sample in named:
        assert difference(sample.stack.frames, sites) == "", sample
        assert sample.stack.frames[0].name == "_start"
    resolver = recording.resolver
    assert resolver.js_frames_named >= 0.93 * resolver.js_frames


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_native_work_has_its_javascript_frames(version: str) -> None:
    """Also below OpenSSL's SHA-512, which no rule leads out of without what is below rsp."""
    with nodes.running(version, MIXED, "sha512") as process:
        require(PerfEngine, process.pid)
        recording = record(process.pid, 600, engine=PerfEngine(499))
    stacks = [[frame.name for frame in sample.stack.frames] for sample in recording.samples]
    bare = [
        sample
        for sample in recording.samples
        if all(frame.kind is not FrameKind.JS for frame in sample.stack.frames)
    ]
    assert len(bare) <= 0.01 * len(stacks) + 1
    # None of them passes for a whole stack.
    assert all(sample.stack.truncated is not None for sample in bare)
    below = [names for names in stacks if names[-1].startswith("sha512_block") and "drive" in names]
    assert below
    assert all("pbkdf2Sync" in names for names in below)
    assert any(s.stack.frames[-1].kind is FrameKind.KERNEL for s in recording.samples)


@pytest.mark.parametrize("version", nodes.selected(("12.22.12", "20.20.2", "26.10.0")))
def test_no_name_is_wrong_while_closures_are_collected(version: str) -> None:
    flags = ["--expose-gc", "--max-semi-space-size=1", "--no-turbo-inlining"]
    with nodes.running(version, CLOSURES, flags=flags) as process:
        require(PerfEngine, process.pid)
        recording = record(process.pid, 800, engine=PerfEngine(499), at_once=True)
    callers = {"alpha": "viaAlpha", "beta": "viaBeta", "viaAlpha": "drive", "viaBeta": "drive"}
    seen: Counter[str] = Counter()
    for sample in recording.samples:
        frames = [f for f in sample.stack.frames if f.kind in (FrameKind.JS, FrameKind.UNKNOWN)]
        names = [frame.name for frame in frames]
        for index, callee in enumerate(names[1:]):
            assert callers.get(callee, names[index]) in (names[index], "(unknown)") or (
                names[index] == "(unknown)"
            ), names
        seen.update(names)
    assert sum(seen[name] for name in ("alpha", "beta", "viaAlpha", "viaBeta")) > 40
    resolver = recording.resolver
    assert resolver.js_frames_named >= 0.93 * resolver.js_frames


@pytest.mark.parametrize("makes_closures", [False, True])
def test_samples_wait_only_while_nothing_is_new(makes_closures: bool) -> None:
    program = CLOSURES if makes_closures else STEADY
    flags = ["--expose-gc", "--max-semi-space-size=1", "--no-turbo-inlining"]
    patience = []
    with nodes.running(LATEST, program, flags=flags) as process:
        require(PerfEngine, process.pid)
        engine = PerfEngine(199)
        with Recorder(engine) as recorder:
            recorder.add(process.pid)
            for status in recorder.run(duration_ns=60 * 10**9):
                patience.append(engine._patience_ns())
                if status.samples >= 400 or (patience[-1] and not makes_closures):
                    break
    assert not patience[0]
    assert bool(max(patience)) is not makes_closures


AS_USER = """
import json, sys
from jsspy.engines.perf import PerfEngine
from jsspy.recorder import Recorder
from jsspy.model.stack import FrameKind
from jsspy.recorder import Recorder
from jsspy.target.process import Target
pid = int(sys.argv[1])
target = Target.open(pid)
availability = PerfEngine(99).probe(target)
target.close()
if not availability.available:
    print(json.dumps({"reason": availability.reason}))
    raise SystemExit
with Recorder(PerfEngine(499)) as recorder:
    recorder.add(pid)
    for status in recorder.run(duration_ns=20 * 10**9):
        if status.samples >= 200:
            break
profile = recorder.profile
recorder.update_stats()
stacks = [profile.stack_frames(row) for row in profile.stack]
print(json.dumps({
    "samples": len(profile),
    "named": sum(any(f.name == "outerWork" for f in stack) for stack in stacks),
    "kernel": sum(any(f.kind is FrameKind.KERNEL for f in stack) for stack in stacks),
    "requested": profile.stats.requested,
    "lost": {reason.value: count for reason, count in profile.stats.lost.items()},
}))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_an_ordinary_user_samples_its_own_process(tmp_path: Path) -> None:
    paranoid = Path("/proc/sys/kernel/perf_event_paranoid").read_text(encoding="ascii")
    if int(paranoid) > 2:
        nodes.missing("kernel.perf_event_paranoid is above 2")
    program = tmp_path / "busy.js"
    program.write_text(BUSY, encoding="utf-8")
    for directory in (tmp_path, *tmp_path.parents):
        if directory.owner() == "root" and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o055)
    node = subprocess.Popen(
        [*AS_NOBODY, str(nodes.find(LATEST)), str(program)], stdout=subprocess.PIPE
    )
    try:
        assert node.stdout is not None
        assert node.stdout.readline() == b"ready\n"
        cache = {"XDG_CACHE_HOME": str(tmp_path / "none"), "HOME": str(tmp_path)}
        done = subprocess.run(
            [*AS_NOBODY, sys.executable, "-c", AS_USER, str(node.pid)],
            env=environment() | cache,
            capture_output=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        found = json.loads(done.stdout)
        assert found["samples"] >= 200
        assert found["named"] >= 0.9 * found["samples"]
        assert found["kernel"] == 0
        assert found["requested"] == found["samples"] + sum(found["lost"].values())
    finally:
        node.kill()
        node.wait()
        assert node.stdout is not None
        node.stdout.close()


def test_a_stack_that_a_record_has_no_room_for_is_incomplete() -> None:
    program = """
    function down(depth) {
      if (depth === 0) { console.log('ready'); for (let x = 0; ; ) x = (x * 31 + 1) | 0; }
      return down(depth - 1) + 1;
    }
    down(4000);
    """
    with nodes.running(LATEST, program) as process:
        require(PerfEngine, process.pid)
        recording = record(process.pid, 10, engine=PerfEngine(200))
        for sample in recording.samples:
            assert sample.stack.truncated is not None
            assert [f.name for f in sample.stack.frames].count("down") > 300


def test_idle_ended_and_late() -> None:
    """A heartbeat while the target sleeps; what finds no room is counted; the end is the end."""
    program = """
    process.stdin.once('data', () => { for (;;); });
    console.log('ready');
    """
    with nodes.running(LATEST, program) as process:
        require(PerfEngine, process.pid)
        target = Target.open(process.pid)
        v8 = target.find_v8()
        assert v8 is not None
        layout = load_layout(v8.elf)
        samples: list[RawSample] = []
        with PerfEngine(999) as engine:
            engine.set_target(target, make_plan(layout), find_threads(target, v8, layout))
            batches = iter(engine.samples())
            start = time.monotonic()
            for _ in range(4):
                samples += next(batches)
            assert time.monotonic() - start < 5
            assert process.process.stdin is not None
            process.process.stdin.write("go\n")
            process.process.stdin.flush()
            while len(samples) < 50:
                samples += next(batches)
            time.sleep(1)
            while LossReason.RING_FULL not in engine.stats.lost:
                samples += next(batches)
            process.process.kill()
            process.process.wait()
            for batch in batches:
                samples += batch
            stats = engine.stats
            assert stats.requested == len(samples) + sum(stats.lost.values())
        target.close()
    assert [s.time_ns for s in samples] == sorted(s.time_ns for s in samples)
    captures = [sample.capture for sample in samples]
    assert all(isinstance(it, StackSnapshot) and len(it.stack) <= DUMP_BYTES for it in captures)
