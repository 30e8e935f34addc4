"""The perf engine: the kernel dumps the top of a thread's stack at each tick of its clock.

For those who may not load programs into the kernel: one's own processes may be sampled so by any
user, as far as kernel.perf_event_paranoid (2 or less) and no sandbox forbid it.

What a target can notice: a timer interrupt per sample, in which up to 60 KiB of stack are copied.
Its threads are not stopped. Only CPU time is sampled: a thread that sleeps has no ticks. Without
CAP_PERFMON and with perf_event_paranoid at 2, ticks that strike in the kernel give no sample: they
are counted as lost.

Each sample wakes us, so that the JSFunctions of its frames are read before the garbage collector
moves them: of a program that did little else than to make closures, 0.5 % had moved by then. The
isolate's words are not in a dump, and read later they may belong to another moment: native code is
unwound by its own tables into V8's. What is below rsp is not in a dump either; read later it serves
where the rest proves it right.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final

from jsspy.engines.base import Availability, Engine
from jsspy.errors import EngineUnavailable, ProcessExited
from jsspy.linux import caps, perf
from jsspy.model.capture import CapturePlan, Registers, StackSnapshot, ThreadPlan
from jsspy.model.mode import Mode
from jsspy.model.sample import LossReason, RawSample, ThreadState
from jsspy.model.units import Address, Pid, Tid
from jsspy.target.process import Target

DUMP_BYTES: Final = 60 << 10
"""Stack per sample, about as much as a record can hold. Only what is in use is copied: most Node
stacks have 10 to 16 KiB."""

MAX_RING_BYTES: Final = 2 << 20
MIN_RING_BYTES: Final = 128 << 10
"""Locked memory is limited per user: rings are made as large as is allowed."""

MAX_FOLLOWED: Final = 1000
"""Distinct objects read per sample; one process_vm_readv."""

RED_ZONE_BYTES: Final = 128

_HEARTBEAT_NS: Final = 250_000_000
_NO_PLAN: Final = CapturePlan(0, 0, (), 0, (), (), 0, 0, ())
_DENIED: Final = (errno.EACCES, errno.EPERM)


class _Thread:
    """A thread with its clock and its ring.

    Raises:
        ProcessExited: The thread is gone.
        perf.Refused: Not permitted.
    """

    def __init__(self, pid: Pid, plan: ThreadPlan, period_ns: int, *, kernel: bool) -> None:
        self.pid = pid
        self.tid: Tid = plan.tid
        self.plan = plan
        self._period_ns = period_ns
        self._due = 0
        self._counted_ns = 0
        """When the period changed last, on the thread's clock, and how often it had struck then."""
        self.lost = 0
        """Samples for which the ring had no room."""
        self.event = perf.open_clock(
            plan.tid, period_ns, kernel=kernel, dump_bytes=DUMP_BYTES, enabled=False
        )
        size = MAX_RING_BYTES
        while True:
            try:
                self.ring = perf.Ring(self.event, size, kernel=kernel)
                break
            except perf.Refused:
                size //= 2
                if size < MIN_RING_BYTES:
                    os.close(self.event)
                    raise
        perf.enable(self.event)

    def set_period(self, period_ns: int) -> None:
        """Let the clock strike more or less often."""
        self._due, self._counted_ns = self.due(), perf.read_count(self.event)
        self._period_ns = period_ns
        perf.set_period(self.event, period_ns)

    def due(self) -> int:
        """Return how often the clock has struck."""
        return self._due + (perf.read_count(self.event) - self._counted_ns) // self._period_ns

    def close(self) -> None:
        self.ring.close()
        os.close(self.event)


class _Sampled:
    """A target with its plan, and its threads by file descriptor."""

    def __init__(self, target: Target, plan: CapturePlan) -> None:
        self.target = target
        self.threads: dict[int, _Thread] = {}
        self.set_plan(plan)

    def set_plan(self, plan: CapturePlan) -> None:
        self.plan = plan
        self.marker = plan.marker_slot >> 3
        self.follow = plan.follow_slot >> 3
        self.saved = tuple(slot >> 3 for slot in plan.saved_exit_slots)
        self.follow_registers = tuple(map(Registers._fields.index, plan.follow_registers))


class PerfEngine(Engine):
    """Samples by stack dumps of the kernel.

    Args:
        rate_hz: Samples per second of CPU time and thread.
        mode: One of `modes`.
    """

    name: ClassVar[str] = "perf"
    modes: ClassVar[frozenset[Mode]] = frozenset({Mode.CPU})

    def __init__(self, rate_hz: float, *, mode: Mode = Mode.CPU) -> None:
        super().__init__(rate_hz, mode=mode)
        self._kernel = True
        self._targets: dict[Pid, _Sampled] = {}
        self._poll = select.poll()
        self._past_due = 0
        self._delivered = 0
        self._ring_full = 0

    def set_rate(self, rate_hz: float) -> None:
        """Take so many samples per second from now on; see `Engine.set_rate`."""
        super().set_rate(rate_hz)
        for sampled in self._targets.values():
            for thread in sampled.threads.values():
                thread.set_period(self.period_ns)

    def probe(self, target: Target) -> Availability:
        """Say whether the main thread of `target` can be given a clock and a ring."""
        plan = ThreadPlan(Tid(target.pid), Address(0), Address(0))
        for kernel in (True, False):
            try:
                _Thread(target.pid, plan, 1_000_000_000, kernel=kernel).close()
            except ProcessExited as err:
                return Availability(available=False, reason=err.message)
            except perf.Refused as err:
                if kernel and err.code in _DENIED:
                    continue
                reason, hint = caps.explain_perf_refused(err.code, err.message, kernel=kernel)
                return Availability(available=False, reason=reason, hint=hint)
            return Availability(available=True)
        raise AssertionError("unreachable")  # the second round returns

    def set_target(
        self, target: Target, plan: CapturePlan | None, threads: Sequence[ThreadPlan]
    ) -> None:
        """Add a target, or replace the plan and threads that are sampled of it.

        Raises:
            EngineUnavailable: Its threads may not be sampled.
        """
        plan = plan or _NO_PLAN
        sampled = self._targets.get(target.pid)
        if sampled is None:
            sampled = self._targets[target.pid] = _Sampled(target, plan)
        sampled.target = target
        sampled.set_plan(plan)
        wanted = {thread.tid: thread for thread in threads}
        for thread in tuple(sampled.threads.values()):
            new = wanted.pop(thread.tid, None)
            if new is None:
                self._drop(sampled, thread)
            else:
                thread.plan = new
        for thread_plan in wanted.values():
            try:
                thread = self._open(target.pid, thread_plan)
            except ProcessExited:
                continue
            except perf.Refused as err:
                raise EngineUnavailable(self.name, err.message) from err
            sampled.threads[thread.event] = thread
            self._pace.join(thread.pid, thread.tid)
            self._poll.register(thread.event, select.POLLIN)

    def _open(self, pid: Pid, plan: ThreadPlan) -> _Thread:
        """Start sampling a thread, with what it does in the kernel if that is permitted."""
        try:
            return _Thread(pid, plan, self.period_ns, kernel=self._kernel)
        except perf.Refused as err:
            if not self._kernel or err.code not in _DENIED:
                raise
        thread = _Thread(pid, plan, self.period_ns, kernel=False)
        self._kernel = False
        return thread

    def _drop(self, sampled: _Sampled, thread: _Thread) -> None:
        del sampled.threads[thread.event]
        self._poll.unregister(thread.event)
        self._past_due += thread.due()
        thread.close()
        self._pace.leave(thread.tid)

    def remove_target(self, pid: Pid) -> None:
        """Stop sampling a target."""
        sampled = self._targets.pop(pid, None)
        if sampled is not None:
            for thread in tuple(sampled.threads.values()):
                self._drop(sampled, thread)

    def samples(self) -> Iterator[list[RawSample]]:
        """Yield what the rings hold; see `Engine.samples`."""
        clock = time.monotonic_ns
        beat = clock() + _HEARTBEAT_NS
        while self._targets:
            ready = self._poll.poll(max(beat - clock(), 0) / 1e6)
            batch: list[RawSample] = []
            for event, state in ready:
                for sampled in tuple(self._targets.values()):
                    thread = sampled.threads.get(event)
                    if thread is None:
                        continue
                    batch += self._take(sampled, thread)
                    if state & (select.POLLHUP | select.POLLERR):
                        # The thread has ended.
                        self._drop(sampled, thread)
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
        self._account()

    def _take(self, sampled: _Sampled, thread: _Thread) -> list[RawSample]:
        """Turn the records of a ring into samples."""
        samples = []
        dumps = thread.ring.read()
        if thread.ring.lost > thread.lost:
            self._ring_full += thread.ring.lost - thread.lost
            thread.lost = thread.ring.lost
        for dump in dumps:
            try:
                followed, below = self._follow(sampled, thread, dump)
            except ProcessExited:
                followed, below = {}, b""
            start = dump.registers.rsp
            self._delivered += 1
            capture = StackSnapshot(
                dump.registers,
                Address(start),
                dump.stack,
                thread.plan.isolate,
                b"",
                followed,
                stack_complete=start + len(dump.stack) >= thread.plan.stack_end,
                late_red_zone=below,
            )
            samples.append(
                RawSample(
                    thread.pid,
                    thread.tid,
                    dump.time_ns,
                    self._pace.period_at(dump.time_ns),
                    ThreadState.RUNNING,
                    capture,
                    tuple(map(Address, dump.kernel_chain)),
                )
            )
        self.stats.requested += len(samples)
        return samples

    def _follow(
        self, sampled: _Sampled, thread: _Thread, dump: perf.Dump
    ) -> tuple[dict[int, bytes], bytes]:
        """Read the objects that the frames of a dump point to, and what is below it.

        Raises:
            ProcessExited: The target is gone.
        """
        plan, memory = sampled.plan, sampled.target.memory
        # Where the isolate says that the newest frame is now: a hint where to look.
        slots = plan.exit_slots if thread.plan.isolate else ()
        wanted = [(dump.registers.rsp - RED_ZONE_BYTES, RED_ZONE_BYTES)]
        wanted += [(thread.plan.isolate + slot, 8) for slot in slots]
        below, *words = memory.read_many(wanted)
        pointers = {dump.registers[index] for index in sampled.follow_registers}
        starts = [int.from_bytes(word or b"", "little") for word in words]
        _walk(sampled, dump, [dump.registers.rbp, *starts], pointers)
        tag, mask = plan.tag, plan.tag_mask
        found = [word for word in pointers if word & mask == tag][:MAX_FOLLOWED]
        objects = memory.read_many([(word - tag, plan.follow_size) for word in found])
        followed = {
            word: data for word, data in zip(found, objects, strict=True) if data is not None
        }
        return followed, below or b""

    def _account(self) -> None:
        """Bring the statistics up to date."""
        due = self._past_due + sum(
            thread.due()
            for sampled in self._targets.values()
            for thread in sampled.threads.values()
        )
        lost = self.stats.lost
        if self._ring_full:
            lost[LossReason.RING_FULL] = self._ring_full
        unseen = due - self._delivered - self._ring_full
        if not self._kernel and unseen > lost.get(LossReason.IN_KERNEL, 0):
            lost[LossReason.IN_KERNEL] = unseen
        self.stats.requested = self._delivered + sum(lost.values())
        self.stats.idle = self._pace.idle()

    def close(self) -> None:
        """Close all clocks and rings."""
        self._account()
        for pid in tuple(self._targets):
            self.remove_target(pid)


def _walk(sampled: _Sampled, dump: perf.Dump, starts: list[int], pointers: set[int]) -> None:
    """Add the word that each frame points to; see `CapturePlan`, step 3."""
    start = dump.registers.rsp
    words = memoryview(dump.stack[: len(dump.stack) & ~7]).cast("Q")
    count = len(words)
    marker, follow, saved = sampled.marker, sampled.follow, sampled.saved
    markers = sampled.plan.entry_markers
    # Slots below rsp have not been pushed yet.
    lowest = -min((marker, follow, *saved))
    seen = set()
    for fp in starts:  # grows while it is walked: each start is a frame that was counted
        index = (fp - start) >> 3
        while lowest <= index < count and not fp & 7 and index not in seen:
            seen.add(index)
            pointers.add(words[index + follow])
            if words[index + marker] in markers:
                starts.extend([words[index + slot] for slot in saved])
            caller = words[index]
            if caller <= fp:
                break
            fp = caller  # noqa: PLW2901 - the loop over starts is done with it
            index = (fp - start) >> 3


def _time(sample: RawSample) -> int:
    return sample.time_ns
