"""What V8 says that it is doing, per sample, against its own profiler and against the program."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nodes
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.mode import Mode
from jsspy.model.profile import Profile
from jsspy.model.sample import VmState
from jsspy.model.stack import FrameKind
from jsspy.recorder import Recorder

FEW_VERSIONS = ("12.22.12", "16.20.2", "20.20.2", "26.10.0")
TURN_MS = 1500
MOST_TURNS = 6
LEAST_SAMPLES = 300
LEAST_CALLBACKS = 20
RATE_HZ = 500
SLACK = 0.05


def record(pid: int, duration_ms: int, *, idle: bool = False) -> Profile:
    """Record a process from outside."""
    with Recorder(PtraceEngine(RATE_HZ, mode=Mode.WALL if idle else Mode.CPU)) as recorder:
        recorder.add(pid)
        for _ in recorder.run(duration_ns=duration_ms * 10**6):
            pass
    return recorder.profile


def hits(path: Path) -> tuple[int, int]:
    """Return how many hits of a .cpuprofile are garbage collection, and how many there are."""
    collecting = total = 0
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        name, count = node["callFrame"]["functionName"], node.get("hitCount", 0)
        collecting += count if name == "(garbage collector)" else 0
        total += count if name != "(idle)" else 0
    return collecting, total


@pytest.mark.parametrize("version", nodes.selected(FEW_VERSIONS))
def test_garbage_collection_has_the_share_that_v8_gives_it(version: str, tmp_path: Path) -> None:
    theirs, ours = [0, 0], [0, 0]
    # V8's profiler counts the time that a collector waits for the kernel, too.
    with nodes.running(
        version, nodes.TARGETS / "collecting.js", flags=["--single-threaded-gc"]
    ) as target:
        assert target.process.stdin is not None
        for turn in range(MOST_TURNS):
            path = tmp_path / f"{turn}.cpuprofile"
            target.process.stdin.write(f"profile {TURN_MS} {path}\n")
            target.process.stdin.flush()
            assert target.line() == "profiled"
            collecting, total = hits(path)
            theirs = [theirs[0] + collecting, theirs[1] + total]
            states = record(target.pid, TURN_MS, idle=True).vm_state
            ours = [ours[0] + states.count(VmState.GC), ours[1] + len(states)]
            share, wanted = ours[0] / ours[1], theirs[0] / theirs[1]
            if min(ours[1], theirs[1]) >= LEAST_SAMPLES and abs(share - wanted) <= SLACK:
                break
    assert 0.1 <= wanted <= 0.9, "the program does not test anything"
    assert share == pytest.approx(wanted, abs=SLACK)


CALLBACKS = {
    "function": ("crypto.pbkdf2Sync('p', 's', 20000, 64, 'sha512').length", ""),
    "interceptor": ("process.env.SHELL_OF_NO_ONE === undefined ? 0 : 1", "node::"),
}
"""Ways into Node's own C++ (the frames below differ from V8 12 on), and the native functions that
are certainly called from there: all, or those whose names begin so."""


@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_native_callbacks_are_external(version: str, callback: str) -> None:
    expression, prefix = CALLBACKS[callback]
    program = f"""
const crypto = require('crypto');
let sum = 0;
console.log('ready');
for (;;) sum += {expression};
"""
    states = []
    with nodes.running(version, program) as target:
        for _ in range(MOST_TURNS):
            profile = record(target.pid, TURN_MS)
            for row, state in zip(profile.stack, profile.vm_state, strict=True):
                leaf = next(profile.iter_frames(row))
                if leaf.kind is FrameKind.NATIVE and leaf.name.startswith(prefix):
                    states.append(state)
            if len(states) >= LEAST_CALLBACKS:
                break
    assert len(states) >= LEAST_CALLBACKS
    assert states.count(VmState.EXTERNAL) >= 0.9 * len(states)


IDLE = """
const { Worker, isMainThread } = require('worker_threads');
if (isMainThread) {
  new Worker(__filename);
  // Keep a thread of libuv's pool busy.
  const more = () => require('crypto').pbkdf2('p', 's', 300000, 64, 'sha512', more);
  more();
  setTimeout(() => console.log('ready'), 500);
} else {
  let x = 1;
  (function work() { for (let i = 0; i < 1e7; i++) x = (x * 31) | 0; setTimeout(work, 1); })();
}
"""


@pytest.mark.parametrize("version", nodes.selected(nodes.MODERN))
def test_idle_main_thread_busy_worker_and_no_pool_threads(version: str) -> None:
    with nodes.running(version, IDLE) as target:
        profile = record(target.pid, TURN_MS, idle=True)
    threads = {thread.tid: thread.name for thread in profile.threads}
    assert len(threads) == 2
    main = [
        (state, vm_state)
        for thread, state, vm_state in zip(
            profile.thread, profile.state, profile.vm_state, strict=True
        )
        if profile.threads[thread].tid == target.pid and state.is_idle
    ]
    # V8 7.8 does not say IDLE there.
    idle = VmState.EXTERNAL if version.startswith("12.") else VmState.IDLE
    assert main
    assert {vm_state for _, vm_state in main} == {idle}
    worker = next(name for tid, name in threads.items() if tid != target.pid)
    assert "orker" in worker, worker
