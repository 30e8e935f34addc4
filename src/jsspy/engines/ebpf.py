"""The eBPF engine: a program in the kernel walks the stack at each tick of a thread's clock.

What a target can notice: a timer interrupt per sample and about 10 us in it. Its threads are not
stopped, its system calls are not disturbed, and no debugger is kept out. A thread that sleeps has
no ticks; where time asleep is wanted the program also runs as a thread leaves its CPU, at most a
few hundred times a second, and 0.1 us of it at each switch between any two tasks of the machine.

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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

from jsspy.engines.base import Availability, Engine
from jsspy.engines.ebpf_kernel import (
    COMPLETE,
    HEADER,
    MAX_CODE_AREAS,
    MAX_PLANS,
    MAX_THREADS,
    NAP_DEAD,
    NAP_PREEMPTED,
    OBJECT,
    PIECE,
    RED_ZONE,
    STAT_NO_USER,
    STAT_RING_FULL,
    STAT_TICKS,
    SWITCH_COOKIE,
    SWITCHED,
    THREAD,
    TOO_DEEP,
    WAKE,
    Kernel,
    encode_plan,
)
from jsspy.engines.naps import Naps, napping_state
from jsspy.engines.ptrace import PtraceEngine
from jsspy.errors import EngineUnavailable, MalformedData, PermissionDenied, ProcessExited
from jsspy.linux import bpf, caps, perf, procfs
from jsspy.model.capture import (
    ROW,
    SLOTS,
    CapturePlan,
    FrameChain,
    Registers,
    RepeatedChain,
    ThreadPlan,
)
from jsspy.model.mode import Mode
from jsspy.model.sample import LossReason, RawSample, ThreadState
from jsspy.model.units import Address, Pid, Tid
from jsspy.target.process import Target

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

_DRAIN_NS: Final = 1_000_000_000
"""How often counts are taken from the kernel. For so long a stack keeps the names it had."""

_AREA_BYTES: Final = 1 << 32
_USER_END: Final = 1 << 47

_MAX_NAPS_HZ: Final = 250
"""Stacks per second and thread that are taken as it leaves its CPU. Of more switches a share that
is drawn by lot stands for all."""

_MAX_SKIP: Final = 1 << 16

_KEY: Final = 7
_REGISTERS: Final = slice(8, 29)
_ORIG_RAX: Final = 8 + Registers._fields.index("orig_rax")
"""Fields of a header."""

_NEEDED: Final = {Mode.CPU: (5, 17), Mode.WALL: (5, 18), Mode.OFFCPU: (5, 18)}
"""Version of Linux, by mode; see bpf/README.md."""

_NO_PLAN: Final = CapturePlan(0, 0, (), -8, (), (), -16, 0, ())
_OTHER_REGISTERS: Final = (0,) * (len(Registers._fields) - 21)


class _Thread:
    """A thread with what strikes for it: its clock, and leaving a CPU."""

    __slots__ = (
        *("_events", "_links", "clock", "index", "joined_ns", "pid", "plan", "skip_mask"),
        *("stack_end", "switches", "tid"),
    )

    def __init__(self, pid: Pid, plan: ThreadPlan, index: int) -> None:
        self.pid = pid
        self.tid: Tid = plan.tid
        self.plan = plan
        self.stack_end = plan.stack_end
        """Up to where the stack is copied."""
        self.index = index
        self.clock = -1
        self.joined_ns = time.monotonic_ns()
        self.switches = 0
        self.skip_mask = 0
        self._events: list[int] = []
        self._links: list[bpf.Link] = []

    def start(self, program: bpf.Program, period_ns: int, mode: Mode = Mode.CPU) -> None:
        """Open what strikes in a mode and attach the program to it.

        Raises:
            ProcessExited: The thread is gone.
            perf.Refused: Not permitted.
            bpf.Refused: Not permitted, or not supported.
        """
        if mode is not Mode.OFFCPU:
            self.clock = perf.open_clock(self.tid, period_ns, kernel=True, enabled=False)
            self._attach(program, self.clock, self.index)
        if mode is not Mode.CPU:
            self._attach(program, perf.open_switches(self.tid), self.index | SWITCH_COOKIE)

    def _attach(self, program: bpf.Program, event: int, cookie: int) -> None:
        self._events.append(event)
        self._links.append(bpf.Link(program, event, cookie))
        perf.enable(event)

    def set_period(self, period_ns: int) -> None:
        if self.clock >= 0:
            perf.set_period(self.clock, period_ns)

    def close(self) -> None:
        for link in self._links:
            link.close()
        self._links.clear()
        for event in self._events:
            os.close(event)
        self._events.clear()
        self.clock = -1


class _Sampled:
    """A target and its threads, by thread id."""

    def __init__(self, target: Target, plan_index: int) -> None:
        self.target = target
        self.plan: CapturePlan | None = None
        self.plan_index = plan_index
        self.code: tuple[tuple[int, int], ...] = ()
        self.threads: dict[Tid, _Thread] = {}


class EbpfEngine(Engine):
    """Samples by a program in the kernel.

    Args:
        rate_hz: Samples per second of CPU time and thread.
        mode: One of `modes`.
    """

    name: ClassVar[str] = "ebpf"
    modes: ClassVar[frozenset[Mode]] = frozenset(Mode)

    def __init__(self, rate_hz: float, *, mode: Mode = Mode.CPU) -> None:
        super().__init__(rate_hz, mode=mode)
        self._poll_s = min(max(_POLL_SAMPLES / rate_hz, MIN_POLL_S), MAX_POLL_S)
        self._kernel: Kernel | None = None
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
        self._naps = Naps()
        self._is_counting = False
        self._counted: dict[int, RawSample] = {}
        """Stacks that the program counts, by key."""

    def count_stacks(self) -> None:
        """Count equal stacks in the kernel; see `CountingEngine`."""
        self._is_counting = True

    def set_rate(self, rate_hz: float) -> None:
        """Take so many samples per second from now on; see `Engine.set_rate`."""
        super().set_rate(rate_hz)
        for sampled in self._targets.values():
            for thread in sampled.threads.values():
                thread.set_period(self.period_ns)
                self._describe(self._load(), sampled, thread)

    def probe(self, target: Target) -> Availability:
        """Say whether the program can be loaded, and attached to a thread of `target`.

        What was loaded stays: that takes longer than all the rest of a start.
        """
        thread = _Thread(target.pid, ThreadPlan(Tid(target.pid), Address(0), Address(0)), 0)
        try:
            thread.start(self._load().program, 1_000_000_000, self.mode)
        except EngineUnavailable as err:
            return Availability(available=False, reason=err.reason, hint=err.hint)
        except ProcessExited as err:
            return Availability(available=False, reason=err.message)
        except perf.Refused as err:
            reason, hint = caps.explain_perf_refused(err.code, err.message, kernel=True)
            return Availability(available=False, reason=reason, hint=hint)
        except bpf.Refused as err:
            reason, hint = caps.explain_bpf_refused(err.code, err.message, _NEEDED[self.mode])
            return Availability(available=False, reason=reason, hint=hint)
        finally:
            thread.close()
            if self._kernel is not None:
                self._kernel.forget_naps(thread.index)
        return Availability(available=True)

    def _load(self) -> Kernel:
        """Load the program, the first time that it is needed.

        Raises:
            EngineUnavailable: It cannot be loaded.
        """
        if self._kernel is None:
            try:
                self._kernel = Kernel(self._ring_bytes, switches=self.mode is not Mode.CPU)
            except bpf.Refused as err:
                reason, hint = caps.explain_bpf_refused(err.code, err.message, _NEEDED[self.mode])
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
            sampled.plan = plan
            sampled.code = self._find_code(target)
            kernel.plans.update(sampled.plan_index, encode_plan(plan, sampled.code))
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

    def _find_code(self, target: Target) -> tuple[tuple[int, int], ...]:
        """Return where code is or will be; nothing if stacks are not counted.

        Code that a program begins with may lie below 4 GiB, as many other numbers do. Where V8 and
        libraries put theirs it is taken by the 4 GiB.
        """
        if not self._is_counting:
            return ()
        low = [0, 0]
        areas = set()
        for mapping in target.address_space().mappings:
            if mapping.is_executable and mapping.start < _USER_END:
                if mapping.end <= _AREA_BYTES:
                    low = [low[0] or mapping.start, mapping.end]
                else:
                    areas.add(mapping.start & -_AREA_BYTES)
                    areas.add(mapping.end - 1 & -_AREA_BYTES)
        found = [(start, _AREA_BYTES) for start in sorted(areas)]
        if low[1]:
            found.append((low[0], low[1] - low[0]))
        return tuple(found) if len(found) <= MAX_CODE_AREAS else ()

    def _drain(self, kernel: Kernel, batch: list[RawSample]) -> None:
        """Add what was counted to a batch; begin anew to send stacks."""
        for key, sample in self._counted.items():
            count = kernel.take_count(key)
            if count:
                capture = RepeatedChain(key)
                weight_ns = count * sample.weight_ns
                batch.append(sample._replace(weight_ns=weight_ns, capture=capture))
        self._counted.clear()
        for sampled in self._targets.values():
            code = self._find_code(sampled.target)
            if sampled.plan is not None and code != sampled.code:
                sampled.code = code
                plan = encode_plan(sampled.plan, code)
                kernel.plans.update(sampled.plan_index, plan)

    def _describe(self, kernel: Kernel, sampled: _Sampled, thread: _Thread) -> None:
        isolate, stack_end = thread.plan.isolate, thread.plan.stack_end
        if int(thread.tid) == int(thread.pid):
            # What the kernel put above the first frame - arguments, environment - is not copied.
            stat = procfs.read_stat(thread.tid)
            start = stat.start_stack if stat is not None else 0
            if start < stack_end <= start + _MAX_ARGUMENT_BYTES:
                stack_end = Address(start)
        thread.stack_end = stack_end
        value = THREAD.pack(
            isolate, stack_end, sampled.plan_index, thread.skip_mask, self.period_ns
        )
        kernel.threads.update(thread.index, value)

    def _add(self, kernel: Kernel, sampled: _Sampled, plan: ThreadPlan) -> None:
        """Start sampling a thread, unless it is gone."""
        if not self._free_threads:
            raise EngineUnavailable(self.name, f"more than {MAX_THREADS} threads")
        thread = _Thread(sampled.target.pid, plan, self._free_threads.popleft())
        self._describe(kernel, sampled, thread)
        self._threads[thread.index] = thread
        try:
            thread.start(kernel.program, self.period_ns, self.mode)
        except ProcessExited:
            self._retire(thread)
            return
        except (perf.Refused, bpf.Refused) as err:
            self._retire(thread)
            raise EngineUnavailable(self.name, err.message) from err
        sampled.threads[thread.tid] = thread
        if self.mode is Mode.CPU:
            self._pace.join(thread.pid, thread.tid)

    def _retire(self, thread: _Thread) -> None:
        thread.close()
        self._pace.leave(thread.tid)
        self._naps.forget(thread.index)
        if self._kernel is not None and self.mode is not Mode.CPU:
            self._kernel.forget_naps(thread.index)
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
        drain = clock() + _DRAIN_NS
        while self._targets and self._kernel is not None:
            retired = len(self._retired)
            now = clock()
            records = self._kernel.ring.read(_BATCH)
            is_empty = len(records) < _BATCH
            batch: list[RawSample] = []
            for record in records:
                self._take(record, batch)
            if self._is_counting and is_empty and (retired or now >= drain):
                drain = now + _DRAIN_NS
                self._drain(self._kernel, batch)
            if is_empty:
                self._forget(retired)
                # Who had woken before `now` would have said so in a record.
                batch += self._naps.tell(now)
            batch.sort(key=_time)
            is_due = now >= beat
            if is_due:
                beat = now + _HEARTBEAT_NS
                self._account()
                for pid in [p for p, it in self._targets.items() if not it.target.is_alive()]:
                    self.remove_target(pid)
                if self.mode is not Mode.CPU:
                    self._look_around(self._kernel)
            self._delivered += len(batch)
            self.stats.requested += len(batch)
            if batch or is_due:
                yield batch
            if is_empty:
                time.sleep(self._poll_s)
        self._account()

    def _take(self, record: bytes, batch: list[RawSample]) -> None:
        """Add what a record says to a batch."""
        if len(record) == WAKE.size:
            self._wake(record, batch)
            return
        fields = HEADER.unpack_from(record)
        thread = self._threads.get(fields[1])
        if thread is None:
            return
        sample = self._decode(record, fields, thread)
        flags, key = fields[2], fields[_KEY]
        if key and not flags & SWITCHED:
            self._counted[key] = sample
        if self.mode is Mode.CPU:
            batch.append(sample)
            return
        # The program did not know the thread yet, or there was no room for the record of its end.
        before = self._naps.end(thread.index, sample.time_ns)
        if before is not None:
            batch.append(before)
        if not flags & SWITCHED:
            batch.append(sample)
        elif not flags >> 16 & NAP_DEAD:
            call = fields[_ORIG_RAX]
            state = napping_state(
                flags >> 16 & ~NAP_PREEMPTED,
                call - (call >> 63 << 64),
                preempted=bool(flags >> 16 & NAP_PREEMPTED),
            )
            sample = sample._replace(state=state)
            self._naps.begin(thread.index, sample, sample.time_ns, scale=key)

    def _wake(self, record: bytes, batch: list[RawSample]) -> None:
        time_ns, since_ns, index, is_walked = WAKE.unpack(record)
        if index not in self._threads:
            return
        sample = self._naps.end(index, time_ns, self.period_ns)
        if sample is not None:
            batch.append(sample)
        elif not is_walked:
            self.stats.lose(LossReason.SKIPPED, (time_ns - since_ns) // self.period_ns)

    def _look_around(self, kernel: Kernel) -> None:
        """Find threads whose nap we do not know, and adapt to how often threads nap."""
        for sampled in self._targets.values():
            for thread in sampled.threads.values():
                nap = kernel.nap(thread.index)
                naps_hz = (nap.switches - thread.switches) * 1_000_000_000 // _HEARTBEAT_NS
                thread.switches = nap.switches
                skip_mask = 0
                while naps_hz > _MAX_NAPS_HZ * (skip_mask + 1) and skip_mask < _MAX_SKIP:
                    skip_mask = 2 * skip_mask + 1
                if skip_mask != thread.skip_mask:
                    thread.skip_mask = skip_mask
                    self._describe(kernel, sampled, thread)
                is_unknown = not nap.task or (nap.since_ns and not nap.is_walked)
                if is_unknown and thread.index not in self._naps:
                    sample = self._look(sampled, thread)
                    if sample is not None and kernel.nap(thread.index) == nap:
                        self._naps.begin(thread.index, sample, nap.since_ns or thread.joined_ns)

    @staticmethod
    def _look(sampled: _Sampled, thread: _Thread) -> RawSample | None:
        """Copy the stack of a thread that sleeps; None if it does not."""
        with PtraceEngine(1, mode=Mode.WALL) as reader:
            reader.set_target(sampled.target, sampled.plan, [thread.plan])
            try:
                return reader.look(thread.pid)
            except (ProcessExited, PermissionDenied):
                return None

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
        self.stats.requested = self._delivered + sum(self.stats.lost.values())
        self.stats.idle = self._pace.idle()

    def _decode(self, record: bytes, fields: tuple[Any, ...], thread: _Thread) -> RawSample:
        """Turn a record into a sample."""
        time_ns, _, flags, frames, pieces, kernel_bytes, isolate_bytes = fields[:7]
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
            Registers(*fields[_REGISTERS], *_OTHER_REGISTERS),
            plan.isolate,
            fields[31][:isolate_bytes],
            thread.stack_end,
            rows,
            slots,
            tuple(copied),
            fields[29:31],
            bool(flags & COMPLETE),
            bool(flags & TOO_DEEP),
            fields[32] if flags & RED_ZONE else b"",
            0 if flags & SWITCHED else fields[_KEY],
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
        """Return what the ticks took, and the program: the kernel counts from the first call on."""
        if self._kernel is None:
            return 0
        if self._run_time is None:
            with suppress(bpf.Refused):
                self._run_time = bpf.RunTime()
        ticks = self._kernel.count(STAT_TICKS)
        return self._pace.cost_ns(ticks) + self._kernel.program.run_time_ns()

    def close(self) -> None:
        """Detach and unload everything."""
        if self._kernel is not None:
            counted = sum(map(self._kernel.take_count, self._counted))
            self._counted.clear()
            if counted:
                self.stats.lose(LossReason.LATE, counted)
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
