"""The ptrace engine: stop one thread for some tens of microseconds and copy its stack.

What a target can notice: the thread that is sampled stands still for the time that `pauses`
reports, its main thread at most once per sample. A system call that the thread enters between our
look at its state and the stop can be restarted, and epoll_wait can return EINTR (libuv retries).
While a thread is stopped, /proc/PID/status names us as its tracer. A debugger and this engine
exclude each other.

A thread that sleeps is never stopped: it counts as idle and is left out, or (`Mode.WALL`) is read
where it sleeps. Its pc and sp are in `/proc/PID/task/TID/syscall`, its newest V8 frame in the
isolate, and nothing on its stack changes until it wakes, which is checked after the copy.

In the stopped block the engine does what cannot wait and nothing else: registers, one read for
stack and isolate, the walk along the frame pointers of the copy, one read of the objects found.
The buffers are allocated before. Python's cyclic garbage collector is off meanwhile.
"""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

from jsspy.engines.base import Availability, Engine
from jsspy.engines.naps import waiting_state
from jsspy.errors import FaultError, PermissionDenied, ProcessExited
from jsspy.linux import procfs, ptrace, vm
from jsspy.model.capture import (
    NO_PLAN,
    CapturePlan,
    Registers,
    StackSnapshot,
    StoppedReader,
    ThreadPlan,
)
from jsspy.model.mode import Mode
from jsspy.model.profile import PauseStats
from jsspy.model.sample import LossReason, RawSample, ThreadState
from jsspy.model.units import Address, Pid
from jsspy.target.process import Target

MAX_STACK_BYTES: Final = 2 << 20
"""Stack copied per sample. V8 limits JS to 984 KiB of it; native code and `--stack-size` may take
more."""

MAX_WALKED_FRAMES: Final = 2048
"""Frames whose function is read while the thread is stopped: bounds the pause at about 1 ms on any
stack. In deeper recursion the functions repeat."""

MAX_FOLLOWED: Final = 1000
"""Distinct objects copied per sample; fits into one process_vm_readv."""

MAX_MORE_READS: Final = 200
MAX_MORE_NS: Final = 1_000_000
"""What a `StoppedReader` may do per sample. Callers that wait took 1.5 reads and 10 us each."""

_HEARTBEAT_NS: Final = 250_000_000
"""An empty batch goes out at least this often, and so often the targets are looked after."""

_LINGER_NAP_NS: Final = 1_000_000
"""How often threads that we gave up on are looked at: how long one may stand still."""

_CLOSE_TIMEOUT_NS: Final = 2_000_000_000

_COLD_NS: Final = 5_000_000
"""Period from which on the caches have forgotten us between samples. Then the copying is rehearsed
on the running thread, at the place of the last sample, just before it is stopped. At 99 Hz that
took the median pause from 163 to 102 us, for 1 % of a CPU."""

_NO_FRAME: Final = (0, 0)

_PADDING_BYTES: Final = 256
"""Zeros in front of the stack copy: slots below a frame that is just being pushed read as 0."""


_RED_ZONE_BYTES: Final = 128
"""Below rsp, where code that runs may have data. Source: x86-64 psABI, 3.2.2."""

_RIP, _RSP, _RBP = (Registers._fields.index(name) for name in ("rip", "rsp", "rbp"))

_RUNNING: Final = b"running\n"
"""What `ThreadState.read` returns for a thread that runs or waits for a CPU."""

_MAX_TRIES: Final = 3
"""How often a thread is looked at that changes between running and sleeping meanwhile."""

_STATES: Final = {
    "D": ThreadState.DISK,
    "T": ThreadState.STOPPED,
    "t": ThreadState.STOPPED,
}


class PauseHistogram:
    """Durations in log-linear buckets: counts are exact, quantiles are at most 1/32 too high."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._count = 0
        self._total_ns = 0
        self._max_ns = 0

    def add(self, duration_ns: int) -> None:
        """Count one duration."""
        shift = max(duration_ns.bit_length() - 6, 0)
        # The upper edge of the bucket is its key.
        edge = ((duration_ns >> shift) + 1 << shift) - 1
        self._counts[edge] = self._counts.get(edge, 0) + 1
        self._count += 1
        self._total_ns += duration_ns
        self._max_ns = max(self._max_ns, duration_ns)

    def quantile(self, numerator: int, denominator: int) -> int:
        """Return the smallest edge that has numerator/denominator of all durations below it."""
        wanted = -(-self._count * numerator // denominator)
        seen = 0
        for edge in sorted(self._counts):
            seen += self._counts[edge]
            if seen >= wanted:
                return min(edge, self._max_ns)
        return 0

    def stats(self) -> PauseStats:
        """Summarize."""
        return PauseStats(
            count=self._count,
            p50_ns=self.quantile(50, 100),
            p99_ns=self.quantile(99, 100),
            max_ns=self._max_ns,
            total_ns=self._total_ns,
        )


class _Thread:
    """A thread that is sampled, with what is kept open for it."""

    __slots__ = ("frame", "has_more", "is_new", "isolate", "stack_end", "state", "tid", "tracee")

    def __init__(self, pid: Pid, plan: ThreadPlan) -> None:
        self.tid = plan.tid
        self.isolate = plan.isolate
        self.stack_end = plan.stack_end
        self.tracee = ptrace.Tracee(plan.tid)
        self.state = procfs.ThreadState(pid, plan.tid)
        self.frame = _NO_FRAME
        """rsp and rbp of the last sample."""
        self.has_more = False
        """A `StoppedReader` read more than once for it."""
        self.is_new = True
        """No tick was due yet: it cannot have missed any."""


class _Sampled:
    """A target with its plan, turned into word offsets, and its threads."""

    def __init__(self, target: Target, plan: CapturePlan) -> None:
        self.target = target
        self.pid = target.pid
        self.plan = plan
        self.threads: list[_Thread] = []
        self.isolate_size = plan.isolate_size + plan.isolate_size_2
        self.exit_words = tuple(place >> 3 for place in plan.isolate_slots().values())
        self.follow_registers = tuple(map(Registers._fields.index, plan.follow_registers))
        self.marker = plan.marker_slot >> 3
        self.follow = plan.follow_slot >> 3
        self.saved = tuple(slot >> 3 for slot in plan.saved_exit_slots)
        slots = (plan.marker_slot, plan.follow_slot, *plan.saved_exit_slots)
        if min(slots) < -_PADDING_BYTES or max(slots) > 0:
            raise ValueError(f"slots of a plan must be within {_PADDING_BYTES} bytes below fp")
        if any(not 0 <= word < self.isolate_size >> 3 for word in self.exit_words):
            raise ValueError("exit slots of a plan must be within the isolate words")

    def drop(self, thread: _Thread) -> None:
        thread.state.close()
        self.threads.remove(thread)

    def close(self) -> None:
        for thread in self.threads:
            thread.state.close()
        self.threads.clear()


class _Copier:
    """The buffers of a sample, and the work on them while a thread cannot change its stack."""

    def __init__(self) -> None:
        self._gather = vm.Gather(4, 3)
        self._followers: dict[int, vm.Gather] = {}
        """By the size of the objects that they read: targets may be of different versions."""
        self._stack = vm.Buffer(_PADDING_BYTES + MAX_STACK_BYTES)
        self._red_zone = vm.Buffer(_RED_ZONE_BYTES)
        self._isolate = vm.Buffer(8)
        self._followed = vm.Buffer(8)
        self._pointers: list[int] = []
        self._read: list[tuple[int, int]] = []
        self.start = 0
        self.size = 0
        self.red_zone_size = 0
        self.isolate_size = 0

    def prepare(self, plan: CapturePlan) -> None:
        """Make the buffers large enough for a plan. Not while anything is stopped."""
        isolate_size = plan.isolate_size + plan.isolate_size_2
        if isolate_size > len(self._isolate.bytes):
            self._isolate = vm.Buffer(isolate_size)
        if plan.follow_size * MAX_FOLLOWED > len(self._followed.bytes):
            self._followed = vm.Buffer(plan.follow_size * MAX_FOLLOWED)
        if plan.follow_size not in self._followers:
            follower = vm.Gather(MAX_FOLLOWED, 1)
            follower.remote[1::2] = array("Q", [plan.follow_size] * MAX_FOLLOWED)
            self._followers[plan.follow_size] = follower

    def copy(self, sampled: _Sampled, thread: _Thread, sp: int) -> None:
        """Copy the stack from `sp` on, the red zone below it, and the isolate words.

        Raises:
            ProcessExited: The target is gone.
            PermissionDenied: Reading is not allowed any more.
        """
        plan = sampled.plan
        self.start = start = sp & ~7
        size = thread.stack_end - start
        if not 0 < size <= MAX_STACK_BYTES:
            # Larger than the cap, or not the stack that the plan knows.
            size = MAX_STACK_BYTES
        isolate_size = sampled.isolate_size if thread.isolate else 0
        gather, reader = self._gather, sampled.target.memory.reader
        gather.local[0] = self._isolate.address
        gather.local[1] = isolate_size
        gather.local[2] = self._stack.address + _PADDING_BYTES
        gather.local[3] = size
        gather.local[4] = self._red_zone.address
        gather.local[5] = _RED_ZONE_BYTES
        gather.remote[0] = thread.isolate + plan.isolate_start
        gather.remote[1] = plan.isolate_size if thread.isolate else 0
        gather.remote[2] = thread.isolate + plan.isolate_start_2
        gather.remote[3] = plan.isolate_size_2 if thread.isolate else 0
        gather.remote[4] = start
        gather.remote[5] = size
        gather.remote[6] = start - _RED_ZONE_BYTES
        gather.remote[7] = _RED_ZONE_BYTES
        count = gather.read(reader, 0, 3, 0, 4)
        if count < isolate_size:
            # No isolate there: the stack alone.
            isolate_size = 0
            count = gather.read(reader, 1, 2, 2, 2)
        self.isolate_size = isolate_size
        # A transfer that meets an unmapped page ends somewhere before it; so the red zone, which
        # may lie on a page that the stack has not grown to, comes last.
        count -= isolate_size
        self.size = min(count, size) & ~7
        self.red_zone_size = _RED_ZONE_BYTES if count == size + _RED_ZONE_BYTES else 0

    def follow(self, sampled: _Sampled, starts: list[int], pointers: set[int]) -> None:
        """Walk the copied stack and copy the objects that its frames point to.

        Args:
            sampled: Whose plan to follow.
            starts: Frame pointers to begin at; those from the isolate are added.
            pointers: Words from registers; those from frames are added.
        """
        plan = sampled.plan
        self._pointers = []
        if not plan.follow_size:
            return
        if self.isolate_size:
            words = self._isolate.words
            starts.extend([words[index] for index in sampled.exit_words])
        self._walk(sampled, starts, pointers)
        tag, mask = plan.tag, plan.tag_mask
        found = [word for word in pointers if word & mask == tag][:MAX_FOLLOWED]
        self._pointers = found
        self._read = []
        if not found:
            return
        count = len(found)
        size = plan.follow_size
        gather, reader = self._followers[size], sampled.target.memory.reader
        gather.remote[0 : 2 * count : 2] = array("Q", [word - tag for word in found])
        first = 0
        while first < count:
            gather.local[0] = self._followed.address + first * size
            gather.local[1] = (count - first) * size
            done = first + gather.read(reader, 0, 1, first, count - first) // size
            self._read.append((first, done))
            # The one at `done` cannot be read, or there is none.
            first = done + 1

    def _walk(self, sampled: _Sampled, starts: list[int], pointers: set[int]) -> None:
        words = self._stack.words
        start = self.start
        end = start + self.size
        base = _PADDING_BYTES >> 3
        marker, follow, saved = sampled.marker, sampled.follow, sampled.saved
        markers = sampled.plan.entry_markers
        add = pointers.add
        seen = set()
        left = MAX_WALKED_FRAMES
        for fp in starts:  # grows while it is walked: each start is a frame that was counted
            while start <= fp < end and not fp & 7 and fp not in seen and left:
                left -= 1
                seen.add(fp)
                index = base + ((fp - start) >> 3)
                add(words[index + follow])
                if words[index + marker] in markers:
                    starts.extend([words[index + slot] for slot in saved])
                caller = words[index]
                if caller <= fp:
                    break
                fp = caller  # noqa: PLW2901 - the loop over starts is done with it

    def snapshot(
        self,
        sampled: _Sampled,
        thread: _Thread,
        registers: Registers,
        more: dict[int, bytes] | None = None,
    ) -> StackSnapshot:
        """Turn the buffers into a value. The thread may run again."""
        followed = {}
        size = sampled.plan.follow_size
        objects = self._followed.bytes
        for first, last in self._read if self._pointers else ():
            data = bytes(objects[first * size : last * size])
            for index in range(first, last):
                offset = (index - first) * size
                followed[self._pointers[index]] = data[offset : offset + size]
        return StackSnapshot(
            registers=registers,
            stack_start=Address(self.start),
            stack=bytes(self._stack.bytes[_PADDING_BYTES : _PADDING_BYTES + self.size]),
            isolate=thread.isolate,
            isolate_words=bytes(self._isolate.bytes[: self.isolate_size]),
            followed=followed,
            stack_complete=self.start + self.size == thread.stack_end,
            more=more,
            red_zone=bytes(self._red_zone.bytes[: self.red_zone_size]),
        )


class _Keeper:
    """Reads for a `StoppedReader`, within bounds, and keeps what was read."""

    def __init__(self, sampled: _Sampled, thread: _Thread, reader: StoppedReader) -> None:
        self.kept: dict[int, bytes] = {}
        self._memory = sampled.target.memory
        self._left = MAX_MORE_READS
        self._end_ns = time.monotonic_ns() + MAX_MORE_NS
        if thread.isolate:
            reader.read(thread.isolate, self._read)

    def _read(self, address: int, size: int) -> bytes:
        self._left -= 1
        if self._left < 0 or time.monotonic_ns() > self._end_ns:
            raise FaultError(Address(address), size)
        data = self.kept[address] = self._memory.read(Address(address), size)
        return data


class PtraceEngine(Engine):
    """Samples by stopping threads.

    Args:
        rate_hz: Samples per second and thread.
        mode: `WALL`: also sample threads that sleep, without stopping them.
    """

    name: ClassVar[str] = "ptrace"
    modes: ClassVar[frozenset[Mode]] = frozenset({Mode.CPU, Mode.WALL})

    def __init__(self, rate_hz: float, *, mode: Mode = Mode.CPU) -> None:
        super().__init__(rate_hz, mode=mode)
        self._idle = mode is Mode.WALL
        self._targets: dict[Pid, _Sampled] = {}
        self._copier = _Copier()
        self._pauses = PauseHistogram()
        self._readers: dict[Pid, StoppedReader] = {}

    def probe(self, target: Target) -> Availability:
        """Say whether `target` can be traced; stops nothing."""
        if not ptrace.is_allowed():
            return Availability(available=False, reason="ptrace(2) is forbidden (seccomp)")
        status = procfs.read_status(target.pid)
        if status is None:
            return Availability(available=False, reason=f"process {target.pid} is gone")
        try:
            procfs.ThreadState(target.pid, target.pid).close()
        except ProcessExited:
            return Availability(available=False, reason=f"process {target.pid} is gone")
        except PermissionDenied:
            status = status._replace(tracer=-1)
        if status.tracer:
            from jsspy.linux import caps

            reason, hint = caps.explain_ptrace_denied(target.pid)
            return Availability(available=False, reason=reason, hint=hint)
        return Availability(available=True)

    def set_target(
        self, target: Target, plan: CapturePlan | None, threads: Sequence[ThreadPlan]
    ) -> None:
        """Add a target, or replace the plan and threads that are sampled of it."""
        sampled = _Sampled(target, plan or NO_PLAN)
        self._copier.prepare(sampled.plan)
        known = {}
        if target.pid in self._targets:
            known = {thread.tid: thread for thread in self._targets[target.pid].threads}
        for wanted in threads:
            thread = known.pop(wanted.tid, None)
            if thread is None:
                try:
                    thread = _Thread(target.pid, wanted)
                except ProcessExited:
                    continue
            thread.isolate = wanted.isolate
            thread.stack_end = wanted.stack_end
            sampled.threads.append(thread)
        for thread in known.values():
            thread.state.close()
        self._targets[target.pid] = sampled

    def set_reader(self, pid: Pid, reader: StoppedReader) -> None:
        """Call `reader` for each sample of a target; see `StoppingEngine`."""
        self._readers[pid] = reader

    def remove_target(self, pid: Pid) -> None:
        """Stop sampling a target."""
        self._readers.pop(pid, None)
        sampled = self._targets.pop(pid, None)
        if sampled is not None:
            sampled.close()

    def samples(self) -> Iterator[list[RawSample]]:
        """Yield what was captured, one batch per tick; see `Engine.samples`."""
        clock = time.monotonic_ns
        deadline = clock()
        beat = deadline + _HEARTBEAT_NS
        lingering = 0
        try:
            while self._targets:
                now = clock()
                nap = min(deadline, beat) - now
                if lingering:
                    lingering = ptrace.release_lingering()
                    nap = min(nap, _LINGER_NAP_NS)
                if nap > 0:
                    time.sleep(nap / 1e9)
                    continue
                batch: list[RawSample] = []
                if now >= deadline:
                    period = self.period_ns
                    late = (now - deadline) // period
                    batch = self._tick(late)
                    deadline += (late + 1) * period
                    lingering = ptrace.release_lingering()
                if now >= beat:
                    self._remove_ended()
                if batch or now >= beat:
                    beat = now + _HEARTBEAT_NS
                    yield batch
        finally:
            ptrace.release_lingering()

    def _remove_ended(self) -> None:
        for pid in [pid for pid, it in self._targets.items() if not it.target.is_alive()]:
            self.remove_target(pid)

    def _tick(self, late: int) -> list[RawSample]:
        """Sample every thread of every target once.

        Args:
            late: Ticks that were missed before this one. A thread missed as many samples, if what
                it does now is what it did then.
        """
        batch = []
        for sampled in tuple(self._targets.values()):
            for thread in tuple(sampled.threads):
                try:
                    sample = self._sample(sampled, thread, 0 if thread.is_new else late)
                except ProcessExited:
                    sampled.drop(thread)
                    continue
                thread.is_new = False
                if sample is None:
                    continue
                if sampled.target.memory.alive:
                    batch.append(sample)
                else:  # of a program that came by exec
                    self.stats.lose(LossReason.THREAD_GONE)
                    sampled.drop(thread)
        return batch

    def _sample(self, sampled: _Sampled, thread: _Thread, missed: int) -> RawSample | None:
        """Sample one thread, and account for it and for the samples of it that were missed.

        Raises:
            ProcessExited: The thread is gone.
        """
        stats = self.stats
        line = thread.state.read()
        if line != _RUNNING and not self._idle:
            stats.idle += 1 + missed
            return None
        stats.requested += 1 + missed
        if missed:
            stats.lose(LossReason.LATE, missed)
        try:
            for _ in range(_MAX_TRIES):
                sample = (
                    self._stop(sampled, thread)
                    if line == _RUNNING
                    else self._look(sampled, thread, line)
                )
                if sample is not None:
                    return sample
                line = thread.state.read()
        except ProcessExited:
            stats.lose(LossReason.THREAD_GONE)
            raise
        except (ptrace.NotStopped, PermissionDenied):
            # Uninterruptible, or a debugger has it.
            pass
        stats.lose(LossReason.NOT_STOPPED)
        return None

    def _stop(self, sampled: _Sampled, thread: _Thread) -> RawSample | None:
        """Sample a thread that runs; None if its stack cannot be read."""
        copier, tracee = self._copier, thread.tracee
        reader = self._readers.get(sampled.pid)
        if self.period_ns >= _COLD_NS and thread.frame != _NO_FRAME:
            copier.copy(sampled, thread, thread.frame[0])
            copier.follow(sampled, [thread.frame[1]], set())
            if reader is not None and thread.has_more:
                _Keeper(sampled, thread, reader)
        more = None
        was_collecting = gc.isenabled()
        gc.disable()
        try:
            with tracee:
                values = tracee.read_registers()
                thread.frame = frame = (values[_RSP], values[_RBP])
                copier.copy(sampled, thread, frame[0])
                pointers = {values[index] for index in sampled.follow_registers}
                copier.follow(sampled, [frame[1]], pointers)
                if reader is not None:
                    more = _Keeper(sampled, thread, reader).kept
            self._pauses.add(tracee.resumed_ns - tracee.stopped_since_ns)
        finally:
            if was_collecting:
                gc.enable()
        thread.has_more = more is not None and len(more) > 1
        if not copier.size:
            return None
        return RawSample(
            sampled.pid,
            thread.tid,
            tracee.stopped_since_ns,
            self.period_ns,
            ThreadState.RUNNING,
            copier.snapshot(sampled, thread, Registers._make(values), more),
        )

    def look(self, pid: Pid) -> RawSample | None:
        """Sample the first thread of a target where it sleeps; None if it does not.

        Raises:
            ProcessExited: It is gone.
            PermissionDenied: It may not be read.
        """
        sampled = self._targets[pid]
        thread = next(iter(sampled.threads), None)
        return self._look(sampled, thread, thread.state.read()) if thread is not None else None

    def _look(self, sampled: _Sampled, thread: _Thread, line: bytes) -> RawSample | None:
        """Sample a thread that sleeps, by reading it; None if it did not sleep all the time."""
        call = procfs.decode_syscall(line)
        if call is None:
            return None
        time_ns = time.monotonic_ns()
        copier = self._copier
        copier.copy(sampled, thread, call.sp)
        copier.follow(sampled, [], set())
        reader = self._readers.get(sampled.pid)
        more = _Keeper(sampled, thread, reader).kept if reader is not None else None
        stat = procfs.read_stat(sampled.pid, thread.tid)
        state = _STATES.get(stat.state) if stat else None
        if stat is not None and stat.state in {"S", "I"}:
            state = waiting_state(call.number)
        if not copier.size or state is None or thread.state.read() != line:
            return None
        return RawSample(
            sampled.pid,
            thread.tid,
            time_ns,
            self.period_ns,
            state,
            copier.snapshot(sampled, thread, Registers(rip=call.pc, rsp=call.sp), more),
        )

    def pauses(self) -> PauseStats:
        """Return how long threads were stopped.

        Each pause is counted from the last moment at which the thread was seen not yet stopped, so
        the figures are upper bounds.
        """
        return self._pauses.stats()

    def close(self) -> None:
        """Release every thread, waiting a moment for those that would not stop."""
        end = time.monotonic_ns() + _CLOSE_TIMEOUT_NS
        while ptrace.release_lingering() and time.monotonic_ns() < end:
            time.sleep(_LINGER_NAP_NS / 1e9)
        for pid in tuple(self._targets):
            self.remove_target(pid)
