"""The eBPF engine on real processes: true stacks, true names, and nothing left behind."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

import nodes
from jsspy.engines import choose_engine
from jsspy.engines.ebpf import EbpfEngine
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.capture import FrameChain
from jsspy.model.mode import Mode
from jsspy.model.profile import Profile, ValueType
from jsspy.model.sample import LossReason, RawSample, ThreadState, VmState
from jsspy.model.stack import FrameKind, Truncation
from jsspy.recorder import Recorder
from jsspy.resolve import Resolver
from jsspy.symbolize.chain import ChainSymbolizer
from jsspy.target.process import Target
from jsspy.v8.isolates import find_threads
from jsspy.v8.metadata import load_layout
from jsspy.v8.plan import make_plan
from recorded import record, require
from truth import Site, difference

LATEST = "22.23.3"
EDGES = ("12.22.12", "18.20.8", "26.10.0")
"""The corpus runs on all lines over this engine; here the walk itself is judged."""
NATIVE_LEAVES = ("json", "crypto", "zlib", "fs", "gc")
SCENARIOS = (
    *(("plain", leaf) for leaf in ("js", "json", "crypto", "zlib", "fs", "regexp", "gc")),
    *(("plain", "strings"), ("sort", "json"), ("map", "js"), ("reduce", "fs"), ("replace", "gc")),
    *(("reviver", "json"), ("construct", "zlib"), ("getter", "js"), ("recursion", "json")),
    *(("resumed", "js"), ("evaluated", "js"), ("emitted", "js"), ("timer", "json")),
    *(("applied", "js"), ("proxied", "js")),
)

MIXED = nodes.TARGETS / "mixed.js"
CLOSURES = nodes.TARGETS / "closures.js"


@contextmanager
def sampling(
    pid: int, rate_hz: float = 999, ring_bytes: int = 0
) -> Iterator[tuple[EbpfEngine, Resolver]]:
    """Sample a process by hand."""
    require(EbpfEngine, pid)
    target = Target.open(pid)
    try:
        v8 = target.find_v8()
        assert v8 is not None
        layout = load_layout(v8.elf)
        resolver = Resolver(target, v8, layout)
        with EbpfEngine(rate_hz) as engine:
            engine._ring_bytes = ring_bytes or engine._ring_bytes
            engine.set_target(target, make_plan(layout), find_threads(target, v8, layout))
            yield engine, resolver
    finally:
        target.close()


def take(engine: EbpfEngine, count: int) -> list[RawSample]:
    """Take at least so many samples."""
    samples: list[RawSample] = []
    end = time.monotonic() + 60
    for batch in engine.samples():
        samples += batch
        assert time.monotonic() < end, engine.stats
        if len(samples) >= count:
            break
    return samples


@pytest.mark.parametrize(("scenario", "leaf"), SCENARIOS)
@pytest.mark.parametrize("version", nodes.selected(EDGES))
def test_stacks_are_those_of_the_program(version: str, scenario: str, leaf: str) -> None:
    program = nodes.TARGETS / "stacks.js"
    with nodes.running(version, program, scenario, leaf, wait=False) as target:
        sites: list[Site] = [tuple(site) for site in json.loads(target.line())]
        target.wait_ready()
        require(EbpfEngine, target.pid)
        recording = record(target.pid, 30, engine=EbpfEngine(400))
    for sample in recording.samples:
        assert difference(sample.stack.frames, sites) == "", sample
        assert sample.stack.truncated is None, sample
        assert sample.stack.frames[0].name == "_start"
    assert recording.resolver.js_frames_named == recording.resolver.js_frames
    kinds = {frame.kind for sample in recording.samples for frame in sample.stack.frames[-1:]}
    assert leaf not in NATIVE_LEAVES or kinds & {FrameKind.NATIVE, FrameKind.KERNEL}
    if leaf == "regexp":
        assert FrameKind.REGEXP in kinds
    if leaf == "crypto":
        assert VmState.EXTERNAL in {sample.vm_state for sample in recording.samples}


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_native_work_has_its_javascript_frames(version: str) -> None:
    with nodes.running(version, MIXED) as process:
        require(EbpfEngine, process.pid)
        recording = record(process.pid, 1000, engine=EbpfEngine(999))
    bare = sum(
        all(frame.name != "drive" for frame in sample.stack.frames) for sample in recording.samples
    )
    assert bare <= 0.003 * len(recording.samples) + 1
    kinds = Counter(sample.stack.frames[-1].kind for sample in recording.samples)
    assert kinds[FrameKind.KERNEL] > 0
    kernel = [s for s in recording.samples if s.stack.frames[-1].kind is FrameKind.KERNEL]
    names = {frame.name for sample in kernel for frame in sample.stack.frames}
    assert any("sys_" in name or "syscall" in name for name in names)


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_no_name_is_wrong_while_closures_are_collected(version: str) -> None:
    flags = ["--expose-gc", "--max-semi-space-size=1", "--no-turbo-inlining"]
    with nodes.running(version, CLOSURES, flags=flags) as process:
        require(EbpfEngine, process.pid)
        recording = record(process.pid, 2000, engine=EbpfEngine(999))
    callers = {"alpha": "viaAlpha", "beta": "viaBeta", "viaAlpha": "drive", "viaBeta": "drive"}
    callers |= {"makeAlpha": "drive", "makeBeta": "drive"}
    seen: Counter[str] = Counter()
    for sample in recording.samples:
        frames = [f for f in sample.stack.frames if f.kind in (FrameKind.JS, FrameKind.UNKNOWN)]
        names = [frame.name for frame in frames]
        for caller, callee in pairwise(names):
            assert callers.get(callee, caller) == caller, names
        seen.update(names)
    assert seen["alpha"] > 50
    assert seen["beta"] > 50
    resolver = recording.resolver
    assert resolver.js_frames_named >= 0.999 * resolver.js_frames


@pytest.mark.parametrize("version", nodes.selected(EDGES))
def test_the_short_way_gives_what_the_whole_stack_gives(version: str) -> None:
    """Each stack is named by what is known, and again as a whole without anything known."""
    with nodes.running(version, MIXED) as process, sampling(process.pid) as (engine, resolver):
        samples = take(engine, 600)
        first = [resolver.resolve(raw) for raw in samples]
        chains = resolver._chains
        assert isinstance(chains, ChainSymbolizer)
        named = sum(
            chains.name(raw.capture, raw.time_ns) is not None
            for raw in samples
            if isinstance(raw.capture, FrameChain)
        )
        assert named >= 0.9 * len(samples)
        resolver._chains = None
        again = [resolver.resolve(raw) for raw in samples]
    different = [(a, b) for a, b in zip(first, again, strict=True) if a != b]
    # Code that was optimized meanwhile may have gone.
    assert len(different) <= 0.01 * len(samples), different[:2]


@pytest.mark.parametrize("version", nodes.selected(("12.22.12", "20.20.2", "26.10.0")))
def test_the_engines_agree(version: str) -> None:
    """Self time by frame: the distance of two samplings of one steady program."""
    program = nodes.TARGETS / "steady.js"
    shares = []
    with nodes.running(version, program) as process:
        require(EbpfEngine, process.pid)
        for engine in (EbpfEngine(499), PtraceEngine(499)):
            recording = record(process.pid, 800, engine=engine)
            inner: Counter[str] = Counter()
            for sample in recording.samples:
                names = [f.name for f in sample.stack.frames if f.kind is FrameKind.JS]
                inner[names[-1] if names else ""] += 1
            total = sum(inner.values())
            shares.append({name: count / total for name, count in inner.items()})
    for name in shares[0].keys() | shares[1].keys():
        one, two = shares[0].get(name, 0.0), shares[1].get(name, 0.0)
        # 5 standard deviations of the difference, and what the machine does meanwhile.
        bound = 5 * (2 * max(one, two) / 800) ** 0.5 + 0.03
        assert abs(one - two) <= bound, shares


def test_two_thousand_frames_are_walked_and_more_are_truncated() -> None:
    source = """
    function down(depth) {{
      if (depth === 0) {{ console.log('ready'); for (let x = 0; ; ) x = (x * 31 + 1) | 0; }}
      return down(depth - 1) + 1;
    }}
    down({depth});
    """
    for depth, whole in ((2200, True), (5000, False)):
        flags = ["--stack-size=7000"]
        with nodes.running(LATEST, source.format(depth=depth), flags=flags) as process:
            require(EbpfEngine, process.pid)
            recording = record(process.pid, 5, engine=EbpfEngine(200))
        for sample in recording.samples:
            names = [frame.name for frame in sample.stack.frames]
            if whole:
                assert names.count("down") == depth + 1
                assert names[0] == "_start"
                assert sample.stack.truncated is None
            else:
                assert names.count("down") >= 2300
                assert sample.stack.truncated is Truncation.TOO_DEEP


MODES = """
const { Worker, isMainThread, workerData } = require('worker_threads');
function busy(ms) { for (const end = performance.now() + ms; performance.now() < end;); }
function turn() { busy(20); setTimeout(turn, 40); }
function waiting(word) { Atomics.wait(word, 0, 0, 60); }
if (isMainThread) {
  new Worker(__filename, { workerData: new Int32Array(new SharedArrayBuffer(4)) });
  turn();
  console.log('ready');
} else {
  for (;;) { waiting(workerData); busy(20); }
}
"""
MODES_S = 4.0


def weigh_states(mode: Mode) -> tuple[dict[str, Counter[ThreadState]], Profile]:
    """Sample a main thread that naps in epoll and a worker that naps in a futex; ns by state."""
    with nodes.running(LATEST, MODES) as process:
        require(EbpfEngine, process.pid)
        with Recorder(EbpfEngine(99, mode=mode)) as recorder:
            recorder.add(process.pid)
            for _ in recorder.run(duration_ns=round(MODES_S * 1e9)):
                pass
    profile = recorder.profile
    weights: dict[str, Counter[ThreadState]] = {"main": Counter(), "worker": Counter()}
    for index, thread in enumerate(profile.thread):
        name = "main" if profile.threads[thread].tid == process.pid else "worker"
        weights[name][profile.state[index]] += profile.weight[index]
    return weights, profile


def test_wall_time_is_all_time() -> None:
    weights, profile = weigh_states(Mode.WALL)
    skipped = sum(profile.stats.lost.values()) * profile.meta.period_ns
    for name, state in (("main", ThreadState.EPOLL), ("worker", ThreadState.FUTEX)):
        total = sum(weights[name].values())
        # The last naps are told of some 0.2 s before the end.
        assert 0.85 * MODES_S * 1e9 - skipped < total < 1.1 * MODES_S * 1e9, weights
        # 40 of 60 ms, and 60 of 80, less what the machine kept it waiting.
        running = weights[name][ThreadState.RUNNING] + weights[name][ThreadState.RUNNABLE]
        assert weights[name][state] > 0.8 * (total - running), weights
        assert weights[name][state] > running, weights
    assert not profile.truncated
    for index, row in enumerate(profile.stack):
        names = {frame.name for frame in profile.iter_frames(row)}
        if profile.state[index] is ThreadState.EPOLL:
            assert names & {"epoll_pwait", "epoll_wait"}, names
        if profile.state[index] is ThreadState.FUTEX and "busy" not in names:
            thread = profile.threads[profile.thread[index]]
            assert int(thread.tid) == int(thread.pid) or "waiting" in names, names


def test_time_off_the_cpu_has_no_running_threads() -> None:
    weights, profile = weigh_states(Mode.OFFCPU)
    assert profile.meta.value_type is ValueType.OFF_CPU
    assert not any(states[ThreadState.RUNNING] for states in weights.values())
    for name, state, share in (
        ("main", ThreadState.EPOLL, 40 / 60),
        ("worker", ThreadState.FUTEX, 60 / 80),
    ):
        # Where the machine is busy turns are longer.
        expected = share * MODES_S * 1e9
        assert 0.65 * expected < weights[name][state] < 1.1 * expected, weights


def test_of_many_naps_a_share_stands_for_all() -> None:
    """Some 900 naps a second, of which 250 are taken; their time adds up all the same."""
    program = """
    const word = new Int32Array(new SharedArrayBuffer(4));
    console.log('ready');
    for (;;) Atomics.wait(word, 0, 0, 1);
    """
    with nodes.running(LATEST, program) as process:
        require(EbpfEngine, process.pid)
        with Recorder(EbpfEngine(99, mode=Mode.WALL)) as recorder:
            recorder.add(process.pid)
            for _ in recorder.run(duration_ns=round(MODES_S * 1e9)):
                pass
    profile = recorder.profile
    total = sum(profile.weight) + sum(profile.stats.lost.values()) * profile.meta.period_ns
    assert 0.7 * MODES_S * 1e9 < total < 1.35 * MODES_S * 1e9, profile.stats
    assert len(profile) < 2000


def test_counts_are_those_of_single_samples() -> None:
    """Weights by function, counted in the kernel and not; counted ones take fewer samples."""
    shares, rows, weights = [], [], []
    with nodes.running(LATEST, nodes.TARGETS / "steady.js") as process:
        require(EbpfEngine, process.pid)
        for is_counting in (True, False):
            engine = EbpfEngine(999)
            if is_counting:
                engine.count_stacks()
            with Recorder(engine) as recorder:
                recorder.add(process.pid)
                for _ in recorder.run(duration_ns=30_000_000_000):
                    weight = sum(recorder.profile.weight)
                    if weight >= 1_500_000_000:
                        break
            profile = recorder.profile
            inner: Counter[str] = Counter()
            for index, row in enumerate(profile.stack):
                names = [f.name for f in profile.iter_frames(row) if f.kind is FrameKind.JS]
                inner[names[0] if names else ""] += profile.weight[index]
            shares.append({name: count / weight for name, count in inner.items()})
            rows.append(len(profile))
            weights.append(weight // engine.period_ns)
    assert rows[1] == weights[1]
    assert rows[0] < 0.9 * weights[0], (rows, weights)
    for name in shares[0].keys() | shares[1].keys():
        one, two = shares[0].get(name, 0.0), shares[1].get(name, 0.0)
        assert abs(one - two) <= 5 * (2 * max(one, two) / 1500) ** 0.5 + 0.03, shares


def test_heartbeat_of_an_idle_target() -> None:
    program = "console.log('ready'); setInterval(() => {}, 1e6);"
    with nodes.running(LATEST, program) as process, sampling(process.pid, 99) as (engine, _):
        start = time.monotonic()
        for count, _ in enumerate(engine.samples()):
            if count == 4:
                break
        assert time.monotonic() - start < 5


def test_records_that_find_no_room_are_counted() -> None:
    program = "console.log('ready'); for (;;);"
    with (
        nodes.running(LATEST, program) as process,
        sampling(process.pid, 999, ring_bytes=1 << 16) as (engine, _),
    ):
        samples = iter(engine.samples())
        delivered = len(next(samples))
        time.sleep(1)
        for batch in samples:
            delivered += len(batch)
            if engine.stats.lost:
                break
        assert engine.stats.lost[LossReason.RING_FULL] > 0
        assert delivered > 0


def test_the_ladder() -> None:
    with nodes.running(LATEST, "console.log('ready'); for (;;);") as process:
        require(EbpfEngine, process.pid)
        target = Target.open(process.pid)
        choice = choose_engine([target], 99)
        assert isinstance(choice.engine, EbpfEngine)
        choice.engine.close()
        assert list(choice.rungs) == ["ebpf"]
        for mode in Mode:
            choice = choose_engine([target], 99, mode=mode)
            assert isinstance(choice.engine, EbpfEngine)
            choice.engine.close()
        target.close()
