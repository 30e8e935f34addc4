"""The eBPF engine: a program in the kernel walks the stack at each tick of a thread's clock.

What a target can notice: a timer interrupt per sample and about 10 us in it. Its threads are not
stopped, its system calls are not disturbed, and no debugger is kept out. Only CPU time is sampled:
a thread that sleeps has no ticks.

Each thread has a perf event (software clock of the task) with the program of `bpf/walk.bpf.c`
attached to it by a link, whose cookie says which thread it is; so pid namespaces do not matter.
The program writes one record per sample into a ring, which is read 5 to 20 times a second. All of
it hangs on file descriptors of ours: when we are killed nothing is left behind.

`bpf/abi.h` describes the maps and records; the structures here are the same in Python.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar, Final

from jsspy.engines.base import Availability, Engine
from jsspy.errors import EngineUnavailable, MalformedData, ProcessExited
from jsspy.linux import bpf, caps, perf, procfs
from jsspy.model.capture import (
    ROW,
    SLOTS,
    CapturePlan,
    FrameChain,
    Registers,
    ThreadPlan,
)
from jsspy.model.mode import Mode
from jsspy.model.sample import LossReason, RawSample, ThreadState
from jsspy.model.units import Address, Pid, Tid
from jsspy.target.process import Target

OBJECT: Final = Path(__file__).with_name("walk.bpf.o")
"""Compiled from bpf/walk.bpf.c when the package is built."""

MIN_POLL_S, MAX_POLL_S = 0.05, 0.2
"""How often the ring is read. What a stack names should be looked at before the GC compacts: the
functions of 0 of 1000 frames had moved after 0.2 s."""

_POLL_SAMPLES: Final = 20
"""One thread's samples between two looks: after a sleep our own caches are cold."""

_HEARTBEAT_NS: Final = 250_000_000
_BATCH: Final = 256
"""Records per batch: whoever resolves them gets a turn at the clock in between."""

_MAX_ARGUMENT_BYTES: Final = 8 << 20
"""Arguments and environment of a program: a quarter of its stack limit at most."""

_MIN_RING_BYTES: Final = 4 << 20
_RING_SECONDS: Final = 0.5
_TYPICAL_RECORD_BYTES: Final = 12 << 10

# abi.h
MAX_THREADS: Final = 4096
MAX_PLANS: Final = 256
MAX_ISOLATE_BYTES: Final = 256
RED_ZONE_BYTES: Final = 128
WINDOW_BYTES: Final = 72
WINDOW_BELOW: Final = 40
SCRATCH_BYTES: Final = 415_728
PLAN: Final = struct.Struct("<4Q3Q2I2I4i4i5III2iI")
THREAD: Final = struct.Struct("<2QII")
HEADER: Final = struct.Struct(f"<Q6I21Q2Q{2 * MAX_ISOLATE_BYTES}s{RED_ZONE_BYTES}s")
PIECE: Final = struct.Struct("<2Q")
COMPLETE, TOO_DEEP, RED_ZONE = 1, 2, 4
_ABI: Final = struct.pack("<3I", HEADER.size, SCRATCH_BYTES, PLAN.size)
STEP_WALK, STEP_FINISH = 0, 1
STAT_SAMPLES, STAT_RING_FULL, STAT_NO_USER, STAT_COUNT = 0, 1, 2, 3

_NO_PLAN: Final = CapturePlan(0, 0, (), -8, (), (), -16, 0, ())
_NO_MARKER: Final = (1 << 64) - 1
_OTHER_REGISTERS: Final = (0,) * (len(Registers._fields) - 21)


def encode_plan(plan: CapturePlan) -> bytes:
    """Return a plan as the program in the kernel reads it.

    Raises:
        ValueError: It asks for more than a record has room for.
    """
    slots = plan.frame_slots or (plan.marker_slot, plan.follow_slot, 0, 0, 0)
    sizes = (plan.isolate_size, plan.isolate_size_2)
    if max(sizes) > MAX_ISOLATE_BYTES:
        raise ValueError(f"a window of the isolate has more than {MAX_ISOLATE_BYTES} bytes")
    markers = [*plan.entry_markers] or [_NO_MARKER]
    registers = [Registers._fields.index(name) for name in plan.follow_registers]
    return PLAN.pack(
        *_fill(markers, 4, markers[0]),
        *(plan.tag, plan.tag_mask, plan.detail_mask),
        *(plan.isolate_start, plan.isolate_start_2, *sizes),
        *_fill(list(plan.exit_slots), 4, -1),
        *_fill(list(plan.saved_exit_slots), 4, 0),
        *map(_window_index, slots),
        *(_window_index(plan.marker_slot), plan.follow_word),
        *_fill(registers, 2, -1),
        0,
    )


def _fill(values: list[int], count: int, filler: int) -> list[int]:
    if len(values) > count:
        raise ValueError(f"a plan has {len(values)} slots of a kind; {count} can be walked with")
    return values + [filler] * (count - len(values))


def _window_index(slot: int) -> int:
    if slot % 8 or not -WINDOW_BELOW <= slot <= WINDOW_BYTES - WINDOW_BELOW - 8:
        raise ValueError(f"slot {slot} of a frame is out of the window that is read")
    return (slot + WINDOW_BELOW) // 8


class _Kernel:
    """What is loaded into the kernel, once per engine.

    Raises:
        bpf.Refused: The kernel does not take it.
        MalformedData: The object file is none.
        OSError: The object file cannot be read.
    """

    def __init__(self, ring_bytes: int) -> None:
        code = bpf.Object(OBJECT)
        if code.data.get("abi") != _ABI:
            raise MalformedData(OBJECT.name, "it was built from other sources: pip install again")
        self._open: list[bpf.Map | bpf.Program] = []
        try:
            self.plans = self._map(bpf.MapType.ARRAY, PLAN.size, MAX_PLANS, "plans")
            self.threads = self._map(bpf.MapType.ARRAY, THREAD.size, MAX_THREADS, "threads")
            cpus = bpf.possible_cpus()
            scratch = self._map(bpf.MapType.ARRAY, SCRATCH_BYTES, cpus, "scratch")
            steps = self._map(bpf.MapType.PROG_ARRAY, 4, 2, "steps")
            ring = self._map(bpf.MapType.RINGBUF, 0, ring_bytes, "ring")
            self.stats = self._map(bpf.MapType.PERCPU_ARRAY, 8, STAT_COUNT, "stats")
            maps = {
                "plans": self.plans.fd,
                "threads": self.threads.fd,
                "scratch": scratch.fd,
                "steps": steps.fd,
                "ring": ring.fd,
                "stats": self.stats.fd,
            }
            for step, name in ((STEP_WALK, "walk"), (STEP_FINISH, "finish")):
                program = self._program(code, name, maps)
                steps.update(step, struct.pack("<I", program.fd))
            self.program = self._program(code, "sample", maps)
            self.ring = bpf.Ring(ring, ring_bytes)
        except BaseException:
            self._close_all()
            raise

    def _map(self, kind: bpf.MapType, value_size: int, count: int, name: str) -> bpf.Map:
        made = bpf.Map(kind, value_size, count, f"jsspy_{name}")
        self._open.append(made)
        return made

    def _program(self, code: bpf.Object, name: str, maps: Mapping[str, int]) -> bpf.Program:
        program = bpf.Program(code.code(f"perf_event/{name}", maps), f"jsspy_{name}")
        self._open.append(program)
        return program

    def count(self, index: int) -> int:
        """Return a counter, summed over all CPUs."""
        values = self.stats.lookup(index)
        return sum(struct.unpack(f"<{len(values) // 8}Q", values))

    def _close_all(self) -> None:
        for it in self._open:
            it.close()
        self._open.clear()

    def close(self) -> None:
        """Unload everything."""
        self.ring.close()
        self._close_all()


class _Thread:
    """A thread with its clock."""

    __slots__ = ("event", "index", "link", "pid", "plan", "stack_end", "tid")

    def __init__(self, pid: Pid, plan: ThreadPlan, index: int) -> None:
        self.pid = pid
        self.tid: Tid = plan.tid
        self.plan = plan
        self.stack_end = plan.stack_end
        """Up to where the stack is copied."""
        self.index = index
        self.event = -1
        self.link: bpf.Link | None = None

    def start(self, program: bpf.Program, period_ns: int) -> None:
        """Open the clock and attach the program to it.

        Raises:
            ProcessExited: The thread is gone.
            perf.Refused: Not permitted.
            bpf.Refused: Not permitted, or not supported.
        """
        self.event = perf.open_clock(self.tid, period_ns, kernel=True, enabled=False)
        self.link = bpf.Link(program, self.event, self.index)
        perf.enable(self.event)

    def close(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None
        if self.event >= 0:
            os.close(self.event)
            self.event = -1


class _Sampled:
    """A target and its threads, by thread id."""

    def __init__(self, target: Target, plan_index: int) -> None:
        self.target = target
        self.plan: CapturePlan | None = None
        self.plan_index = plan_index
        self.threads: dict[Tid, _Thread] = {}


class EbpfEngine(Engine):
    """Samples by a program in the kernel.

    Args:
        rate_hz: Samples per second of CPU time and thread.
        mode: One of `modes`.
    """

    name: ClassVar[str] = "ebpf"
    modes: ClassVar[frozenset[Mode]] = frozenset({Mode.CPU})

    def __init__(self, rate_hz: float, *, mode: Mode = Mode.CPU) -> None:
        super().__init__(rate_hz, mode=mode)
        self._poll_s = min(max(_POLL_SAMPLES / rate_hz, MIN_POLL_S), MAX_POLL_S)
        self._kernel: _Kernel | None = None
        self._run_time: bpf.RunTime | None = None
        self._ring_bytes = _MIN_RING_BYTES
        while self._ring_bytes < rate_hz * _RING_SECONDS * _TYPICAL_RECORD_BYTES:
            self._ring_bytes *= 2
        self._targets: dict[Pid, _Sampled] = {}
        self._threads: dict[int, _Thread] = {}
        """By index; threads that are no longer sampled are kept until the ring has been read."""
        self._retired: list[_Thread] = []
        self._free_threads = deque(range(MAX_THREADS))
        self._free_plans = deque(range(MAX_PLANS))
        self._delivered = 0

    def set_rate(self, rate_hz: float) -> None:
        """Take so many samples per second from now on; see `Engine.set_rate`."""
        super().set_rate(rate_hz)
        for sampled in self._targets.values():
            for thread in sampled.threads.values():
                perf.set_period(thread.event, self.period_ns)

    def probe(self, target: Target) -> Availability:
        """Say whether the program can be loaded, and attached to a thread of `target`.

        What was loaded stays: that takes longer than all the rest of a start.
        """
        thread = _Thread(target.pid, ThreadPlan(Tid(target.pid), Address(0), Address(0)), 0)
        try:
            thread.start(self._load().program, 1_000_000_000)
        except EngineUnavailable as err:
            return Availability(available=False, reason=err.reason, hint=err.hint)
        except ProcessExited as err:
            return Availability(available=False, reason=err.message)
        except perf.Refused as err:
            reason, hint = caps.explain_perf_refused(err.code, err.message, kernel=True)
            return Availability(available=False, reason=reason, hint=hint)
        except bpf.Refused as err:
            reason, hint = caps.explain_bpf_refused(err.code, err.message)
            return Availability(available=False, reason=reason, hint=hint)
        finally:
            thread.close()
        return Availability(available=True)

    def _load(self) -> _Kernel:
        """Load the program, the first time that it is needed.

        Raises:
            EngineUnavailable: It cannot be loaded.
        """
        if self._kernel is None:
            try:
                self._kernel = _Kernel(self._ring_bytes)
            except bpf.Refused as err:
                reason, hint = caps.explain_bpf_refused(err.code, err.message)
                raise EngineUnavailable(self.name, reason, hint=hint) from err
            except OSError as err:
                reason = f"{OBJECT.name} is missing from the installation"
                hint = "pip install --force-reinstall jsspy"
                raise EngineUnavailable(self.name, reason, hint=hint) from err
            except MalformedData as err:
                raise EngineUnavailable(self.name, err.message) from err
        return self._kernel

    def set_target(
        self, target: Target, plan: CapturePlan | None, threads: Sequence[ThreadPlan]
    ) -> None:
        """Add a target, or replace the plan and threads that are sampled of it.

        Raises:
            EngineUnavailable: The program cannot be loaded, or not attached to its threads.
        """
        kernel = self._load()
        plan = plan or _NO_PLAN
        sampled = self._targets.get(target.pid)
        if sampled is None:
            if not self._free_plans:
                raise EngineUnavailable(self.name, f"more than {MAX_PLANS} processes")
            sampled = self._targets[target.pid] = _Sampled(target, self._free_plans.popleft())
        sampled.target = target
        if sampled.plan != plan:
            kernel.plans.update(sampled.plan_index, encode_plan(plan))
            sampled.plan = plan
        wanted = {thread.tid: thread for thread in threads}
        for tid in [tid for tid in sampled.threads if tid not in wanted]:
            self._retire(sampled.threads.pop(tid))
        for tid, thread_plan in wanted.items():
            thread = sampled.threads.get(tid)
            if thread is None:
                self._add(kernel, sampled, thread_plan)
            elif thread.plan != thread_plan:
                thread.plan = thread_plan
                self._describe(kernel, sampled, thread)

    def _describe(self, kernel: _Kernel, sampled: _Sampled, thread: _Thread) -> None:
        isolate, stack_end = thread.plan.isolate, thread.plan.stack_end
        if int(thread.tid) == int(thread.pid):
            # What the kernel put above the first frame - arguments, environment - is not copied.
            stat = procfs.read_stat(thread.tid)
            start = stat.start_stack if stat is not None else 0
            if start < stack_end <= start + _MAX_ARGUMENT_BYTES:
                stack_end = Address(start)
        thread.stack_end = stack_end
        value = THREAD.pack(isolate, stack_end, sampled.plan_index, 0)
        kernel.threads.update(thread.index, value)

    def _add(self, kernel: _Kernel, sampled: _Sampled, plan: ThreadPlan) -> None:
        """Start sampling a thread, unless it is gone."""
        if not self._free_threads:
            raise EngineUnavailable(self.name, f"more than {MAX_THREADS} threads")
        thread = _Thread(sampled.target.pid, plan, self._free_threads.popleft())
        self._describe(kernel, sampled, thread)
        self._threads[thread.index] = thread
        try:
            thread.start(kernel.program, self.period_ns)
        except ProcessExited:
            self._retire(thread)
            return
        except (perf.Refused, bpf.Refused) as err:
            self._retire(thread)
            raise EngineUnavailable(self.name, err.message) from err
        sampled.threads[thread.tid] = thread
        self._pace.join(thread.pid, thread.tid)

    def _retire(self, thread: _Thread) -> None:
        thread.close()
        self._pace.leave(thread.tid)
        self._retired.append(thread)

    def remove_target(self, pid: Pid) -> None:
        """Stop sampling a target."""
        sampled = self._targets.pop(pid, None)
        if sampled is not None:
            for thread in sampled.threads.values():
                self._retire(thread)
            self._free_plans.append(sampled.plan_index)

    def samples(self) -> Iterator[list[RawSample]]:
        """Yield what the ring holds; see `Engine.samples`."""
        clock = time.monotonic_ns
        beat = clock() + _HEARTBEAT_NS
        while self._targets and self._kernel is not None:
            retired = len(self._retired)
            records = self._kernel.ring.read(_BATCH)
            if len(records) < _BATCH:
                self._forget(retired)
            batch = [sample for record in records if (sample := self._decode(record)) is not None]
            batch.sort(key=_time)
            now = clock()
            is_due = now >= beat
            if is_due:
                beat = now + _HEARTBEAT_NS
                self._account()
                for pid in [p for p, it in self._targets.items() if not it.target.is_alive()]:
                    self.remove_target(pid)
            if batch or is_due:
                yield batch
            if len(records) < _BATCH:
                time.sleep(self._poll_s)
        self._account()

    def _forget(self, count: int) -> None:
        """Give free the indexes of threads that were retired before the ring was read."""
        for thread in self._retired[:count]:
            del self._threads[thread.index]
            self._free_threads.append(thread.index)
        del self._retired[:count]

    def _account(self) -> None:
        """Bring the statistics up to date."""
        if self._kernel is None:
            return
        lost = self._kernel.count(STAT_RING_FULL)
        if lost:
            self.stats.lost[LossReason.RING_FULL] = lost
        gone = self._kernel.count(STAT_NO_USER)
        if gone:
            self.stats.lost[LossReason.THREAD_GONE] = gone
        self.stats.requested = self._delivered + lost + gone
        self.stats.idle = self._pace.idle()

    def _decode(self, record: bytes) -> RawSample | None:
        """Turn a record into a sample; None if its thread is not known any more."""
        fields = HEADER.unpack_from(record)
        time_ns, index, flags, frames, pieces, kernel_bytes, isolate_bytes = fields[:7]
        thread = self._threads.get(index)
        if thread is None:
            return None
        self._delivered += 1
        self.stats.requested += 1
        at = HEADER.size
        rows = record[at : at + ROW.size * frames]
        at += ROW.size * frames
        slots = record[at : at + SLOTS.size * frames]
        at += SLOTS.size * frames
        copied: list[tuple[int, bytes]] = []
        end = 0
        for _ in range(pieces):
            address, size = PIECE.unpack_from(record, at)
            at += PIECE.size
            data = record[at : at + size]
            if address == end:
                # A copy that met a page which was never touched comes in parts.
                address, before = copied.pop()
                data = before + data
            copied.append((address, data))
            at += size
            end = address + len(data)
        chain: tuple[Address, ...] = ()
        if kernel_bytes:
            chain = struct.unpack_from(f"<{kernel_bytes // 8}Q", record, at)
        plan = thread.plan
        capture = FrameChain(
            Registers(*fields[7:28], *_OTHER_REGISTERS),
            plan.isolate,
            fields[30][:isolate_bytes],
            thread.stack_end,
            rows,
            slots,
            tuple(copied),
            fields[28:30],
            bool(flags & COMPLETE),
            bool(flags & TOO_DEEP),
            fields[31] if flags & RED_ZONE else b"",
        )
        return RawSample(
            thread.pid,
            thread.tid,
            time_ns,
            self._pace.period_at(time_ns),
            ThreadState.RUNNING,
            capture,
            chain,
        )

    def cost_ns(self) -> int:
        """Return how long the program has run. The kernel counts from the first call on."""
        if self._kernel is None:
            return 0
        if self._run_time is None:
            with suppress(bpf.Refused):
                self._run_time = bpf.RunTime()
        return self._kernel.program.run_time_ns()

    def close(self) -> None:
        """Detach and unload everything."""
        self._account()
        for pid in tuple(self._targets):
            self.remove_target(pid)
        self._forget(len(self._retired))
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
        if self._run_time is not None:
            self._run_time.close()
            self._run_time = None


def _time(sample: RawSample) -> int:
    return sample.time_ns
