"""The ptrace engine on real processes: what it copies, what it leaves alone, how it counts."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

import nodes
from jsspy.engines import ENGINES
from jsspy.engines.ptrace import PtraceEngine
from jsspy.linux import procfs, ptrace
from jsspy.model.capture import CapturePlan, StackSnapshot, ThreadPlan
from jsspy.model.mode import Mode
from jsspy.model.profile import PauseStats
from jsspy.model.sample import LossReason, RawSample, ThreadState
from jsspy.model.units import Address, Tid
from jsspy.target.process import Target

VERSION = "20.20.2"

# V8 11.3, read from the official binary: c_entry_fp and the frame of a fast C call in the isolate,
# the isolate's thread-local variable below fs_base, the shared slot of a JSFunction.
C_ENTRY_FP, FAST_C_CALL_FP = 0x180, 0xE8
ISOLATE_BELOW_FS = 80
SHARED = 24
PLAN = CapturePlan(
    isolate_start=0xE0,
    isolate_size=0xE0,
    exit_slots=(C_ENTRY_FP, FAST_C_CALL_FP),
    marker_slot=-8,
    entry_markers=(2, 4),
    saved_exit_slots=(-64,),
    follow_slot=-16,
    follow_size=32,
    follow_registers=("rdi",),
)

DEPTH = 30
DEADLINE_S = 60.0

BUSY = f"""
function leaf(n) {{ let s = 0; for (let i = 0; i < 20000; i++) s += Math.sqrt(i * n); return s; }}
function recurse(depth) {{ return depth ? recurse(depth - 1) + 1 : leaf(depth + 2); }}
const end = Date.now() + 60000;
console.log('ready');
while (Date.now() < end) recurse({DEPTH});
"""
WAITING = f"""
const cell = new Int32Array(new SharedArrayBuffer(4));
function wait(depth) {{ return depth ? wait(depth - 1) + 1 : Atomics.wait(cell, 0, 0); }}
console.log('ready');
wait({DEPTH});
"""
EXEC = """
const end = Date.now() + 500;
console.log('ready');
while (Date.now() < end);
process.execve('/bin/sleep', ['sleep', '60']);
"""
IDLE = "console.log('ready'); setInterval(() => {}, 1e6);"


@contextmanager
def opened(program: str) -> Iterator[Target]:
    """Start a program and open it."""
    with nodes.running(VERSION, program) as process:
        target = Target.open(process.pid)
        yield target
        target.close()


def main_thread(target: Target) -> ThreadPlan:
    """Find the main thread's isolate and stack."""
    registers = ptrace.read_registers(Tid(target.pid))
    word = target.memory.read(Address(registers.fs_base - ISOLATE_BELOW_FS), 8)
    (stack,) = (it for it in target.address_space().mappings if it.path == "[stack]")
    return ThreadPlan(Tid(target.pid), Address(struct.unpack("<Q", word)[0]), stack.end)


def take(engine: PtraceEngine, enough: Callable[[list[RawSample]], bool]) -> list[RawSample]:
    """Collect samples until there are enough."""
    samples: list[RawSample] = []
    end = time.monotonic() + DEADLINE_S
    for batch in engine.samples():
        samples += batch
        if enough(samples):
            break
        assert time.monotonic() < end, f"not enough samples: {engine.stats}"
    return samples


def snapshot(sample: RawSample) -> StackSnapshot:
    """Return the capture, which is a snapshot."""
    assert isinstance(sample.capture, StackSnapshot)
    return sample.capture


def js_functions(capture: StackSnapshot) -> list[int]:
    """Walk the copy: the JSFunction of each frame that has one, leaf first."""

    def word(address: int) -> int:
        offset = address - capture.stack_start
        if not 0 <= offset <= len(capture.stack) - 8:
            return 0
        return int.from_bytes(capture.stack[offset : offset + 8], "little")

    starts = [capture.registers.rbp]
    for slot in PLAN.exit_slots:
        offset = slot - PLAN.isolate_start
        starts.append(int.from_bytes(capture.isolate_words[offset : offset + 8], "little"))
    seen = set()
    found = []
    for fp in starts:
        while fp and fp not in seen and word(fp):
            seen.add(fp)
            if word(fp - 16) in capture.followed:
                found.append(word(fp - 16))
            if word(fp - 8) in PLAN.entry_markers:
                starts.append(word(fp - 64))
            fp = word(fp)  # noqa: PLW2901
    return found


def recursion(capture: StackSnapshot) -> int:
    """How often the most frequent SharedFunctionInfo is on the stack."""
    shared = Counter(
        capture.followed[function][SHARED : SHARED + 8] for function in js_functions(capture)
    )
    return max(shared.values(), default=0)


def assert_accounts(engine: PtraceEngine, samples: list[RawSample]) -> None:
    """What was asked for was delivered or lost."""
    assert engine.stats.requested == len(samples) + sum(engine.stats.lost.values())


@pytest.mark.parametrize("rate_hz", [99, 999])
def test_a_running_thread(rate_hz: int) -> None:
    with opened(BUSY) as target, PtraceEngine(rate_hz) as engine:
        plan = main_thread(target)
        engine.set_target(target, PLAN, [plan])
        samples = take(engine, lambda samples: len(samples) == 120)
        assert_accounts(engine, samples)
        times = [sample.time_ns for sample in samples]
        assert times == sorted(times)
        for sample in samples:
            assert (sample.pid, sample.tid) == (target.pid, plan.tid)
            assert sample.state is ThreadState.RUNNING
            assert sample.weight_ns == round(1e9 / rate_hz)
            capture = snapshot(sample)
            assert capture.stack_start == capture.registers.rsp & ~7
            assert capture.stack_start + len(capture.stack) == plan.stack_end
            assert capture.stack_complete
            assert len(capture.isolate_words) == PLAN.isolate_size
            space = target.address_space()
            mapping = space.find(capture.registers.rip)
            if mapping is None:
                mapping = target.address_space(refresh=True).find(capture.registers.rip)
            assert mapping is not None
            assert mapping.is_executable
        # The loop in the leaf is where the time goes, once the program has started.
        whole = [sample for sample in samples[60:] if recursion(snapshot(sample)) >= DEPTH - 1]
        assert len(whole) >= 30
        pauses = engine.pauses()
        assert pauses.count >= len(samples)
        assert 0 < pauses.p50_ns <= pauses.p99_ns <= pauses.max_ns <= pauses.total_ns


def test_a_sleeping_thread_is_never_stopped() -> None:
    with opened(IDLE) as target:
        plan = main_thread(target)
        # Node works for a moment after it printed, and V8 has the odd task of its own: look at a
        # period in which the thread slept throughout.
        for _ in range(40):
            before = voluntary_switches(target)
            with PtraceEngine(499) as engine:
                engine.set_target(target, PLAN, [plan])
                batches = [batch for batch, _ in zip(engine.samples(), range(2), strict=False)]
            if voluntary_switches(target) == before and engine.stats.idle > 100:
                break
        else:
            pytest.fail("the target never slept")
        assert engine.stats.requested == 0
        assert engine.pauses() == PauseStats()
        assert batches == [[], []]


def voluntary_switches(target: Target) -> str:
    """How often the main thread went to sleep."""
    text = procfs.ProcessFiles(target.pid).read("status").decode()
    return text.partition("\nvoluntary_ctxt_switches:\t")[2].partition("\n")[0]


def test_a_waiting_thread_is_read_without_a_stop() -> None:
    with opened(WAITING) as target, PtraceEngine(499, mode=Mode.WALL) as engine:
        engine.set_target(target, PLAN, [main_thread(target)])
        engine_start = engine.pauses()
        samples = take(engine, lambda samples: len(samples) >= 40)
        samples = [sample for sample in samples if sample.state.is_idle]
        assert len(samples) >= 30
        assert engine_start == PauseStats()
        for sample in samples:
            capture = snapshot(sample)
            assert capture.registers.rip
            assert capture.registers.rbp == 0
            assert capture.stack_start == capture.registers.rsp & ~7
            assert capture.stack_complete
            assert recursion(capture) >= DEPTH


def test_samples_that_fall_due_while_we_are_busy_are_counted() -> None:
    with opened(BUSY) as target, PtraceEngine(499) as engine:
        engine.set_target(target, None, [main_thread(target)])
        samples: list[RawSample] = []
        start = time.monotonic_ns()
        for batch in engine.samples():
            samples += batch
            if len(samples) >= 8:
                break
            time.sleep(0.03)
        elapsed = time.monotonic_ns() - start
        assert_accounts(engine, samples)
        stats = engine.stats
        assert stats.lost[LossReason.LATE] >= 7 * 12
        # All ticks are accounted for, and none came twice.
        ticks = elapsed * 499 / 1e9
        assert stats.requested + stats.idle <= ticks + 1
        gaps = [after.time_ns - before.time_ns for before, after in pairwise(samples)]
        assert min(gaps) >= 30_000_000


def test_heartbeat_of_a_slow_engine() -> None:
    with opened(BUSY) as target, PtraceEngine(0.1) as engine:
        engine.set_target(target, None, [main_thread(target)])
        start = time.monotonic()
        for count, _ in enumerate(engine.samples()):
            if count == 4:
                break
        assert time.monotonic() - start < 10
        assert engine.stats.requested <= 1


def test_the_iterator_ends_with_the_last_target() -> None:
    with nodes.running(VERSION, BUSY) as one, nodes.running(VERSION, BUSY) as two:
        targets = [Target.open(process.pid) for process in (one, two)]
        with PtraceEngine(199) as engine:
            for target in targets:
                engine.set_target(target, PLAN, [main_thread(target)])
            seen: Counter[int] = Counter()
            after: Counter[int] = Counter()
            for batch in engine.samples():
                seen.update(sample.pid for sample in batch)
                if one.process.poll() is None:
                    if min(seen[one.pid], seen[two.pid]) >= 5:
                        one.process.kill()
                        one.process.wait()
                else:
                    after.update(sample.pid for sample in batch)
                    if after[two.pid] >= 5:
                        two.process.kill()
            assert set(after) == {two.pid}
        for target in targets:
            target.close()


def test_worker_threads_are_sampled_each() -> None:
    program = """
    const { Worker } = require('worker_threads');
    let left = 2;
    for (let i = 0; i < 2; i++) {
      new Worker(`require('worker_threads').parentPort.postMessage(0);
        const end = Date.now() + 60000; while (Date.now() < end);`, { eval: true })
        .on('message', () => { if (!--left) console.log('ready'); });
    }
    """
    with opened(program) as target, PtraceEngine(199) as engine:
        space = target.address_space(refresh=True)
        plans = []
        for tid in target.threads():
            mapping = space.find(ptrace.read_registers(tid).rsp)
            assert mapping is not None
            plans.append(ThreadPlan(tid, Address(0), mapping.end))
        engine.set_target(target, None, plans)
        busiest: Counter[int] = Counter()

        def enough(samples: list[RawSample]) -> bool:
            busiest.clear()
            busiest.update(sample.tid for sample in samples)
            return sum(count >= 20 for count in busiest.values()) >= 2

        samples = take(engine, enough)
        assert_accounts(engine, samples)
        assert all(snapshot(sample).stack_complete for sample in samples)
        assert all(snapshot(sample).followed == {} for sample in samples)
        # Only those threads that are asked for.
        (one, _), (two, _) = busiest.most_common(2)
        engine.set_target(target, None, [plan for plan in plans if plan.tid == two])
        samples = take(engine, lambda samples: len(samples) >= 10)
        assert {sample.tid for sample in samples} == {two}
        assert one != two


def test_exec_ends_a_target() -> None:
    # Another program under the same pid: the plan is not its plan.
    with nodes.running("26.10.0", EXEC) as process:
        target = Target.open(process.pid)
        (stack,) = (it for it in target.address_space().mappings if it.path == "[stack]")
        with PtraceEngine(199) as engine:
            engine.set_target(target, None, [ThreadPlan(Tid(target.pid), Address(0), stack.end)])
            take_all = [sample for batch in engine.samples() for sample in batch]
        assert take_all
        assert process.process.poll() is None
        assert not target.is_alive()
        target.close()


def test_the_table() -> None:
    assert ENGINES["ptrace"] is PtraceEngine
    assert all(name == engine.name for name, engine in ENGINES.items())
