"""The perf engine: the kernel dumps the top of a thread's stack at each tick of its clock.

For those who may not load programs into the kernel: one's own processes may be sampled so by any
user, as far as kernel.perf_event_paranoid (2 or less) and no sandbox forbid it.

What a target can notice: a timer interrupt per sample, in which up to 60 KiB of stack are copied.
Its threads are not stopped. Only CPU time is sampled: a thread that sleeps has no ticks. Without
CAP_PERFMON and with perf_event_paranoid at 2, ticks that strike in the kernel give no sample: they
are counted as lost.

Samples wake us within 10 ms, so that the JSFunctions of their frames are read before the garbage
collector moves them: of a program that does little else than to make closures 3 % have by then.
When 100 samples pointed to nothing that was not known, and as it was, samples wait for the end of
their batch, until one of them points to something new.

The isolate's words are not in a dump, and read later they may belong to another moment: native code
is unwound by its own tables into V8's. What is below rsp is not in a dump either; read later it
serves where the rest proves it right.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Iterator, Sequence
from typing import ClassVar, Final, NamedTuple

from jsspy.engines.base import Availability, Engine
from jsspy.engines.pointers import ObjectReader, PointerFinder
from jsspy.errors import EngineUnavailable, ProcessExited
from jsspy.linux import caps, perf
from jsspy.model.capture import NO_PLAN, CapturePlan, Registers, StackSnapshot, ThreadPlan
from jsspy.model.mode import Mode
from jsspy.model.sample import LossReason, RawSample, ThreadState
from jsspy.model.units import Address, Pid, Tid
from jsspy.target.process import Target

DUMP_BYTES: Final = 60 << 10
"""Stack per sample, about as much as a record can hold. Only what is in use is copied: most Node
stacks have 10 to 16 KiB."""

_RECORD_BYTES: Final = 64 << 10
"""Room that one takes in a ring, at most."""

MAX_RING_BYTES: Final = 2 << 20
MIN_RING_BYTES: Final = 128 << 10
"""Locked memory is limited per user: rings are made as large as is allowed."""

RED_ZONE_BYTES: Final = 128

_HEARTBEAT_NS: Final = 250_000_000
_FRESH_NS: Final = 10_000_000
"""How long a sample may wait until what its frames point to is read."""

_MIN_BATCH_NS: Final = 50_000_000
_MAX_BATCH_NS: Final = 200_000_000
_BATCH_SAMPLES: Final = 20
"""One thread's samples that are given on together, if that takes neither too long nor too short."""
_CALM_SAMPLES: Final = 100
"""After so many in which nothing was new they wait: of those who do few point to something new."""
_BATCH: Final = 256
"""Samples that are given on at once at most: whoever names them gets a turn at the clock."""
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
        self.exits: list[int] = []
        """Where the isolate said that the newest exit frame is, when it was asked last."""
        self.objects = ObjectReader(NO_PLAN)
        self.event = perf.open_clock(
            plan.tid,
            period_ns,
            kernel=kernel,
            dump_bytes=DUMP_BYTES,
            wakeup_samples=max(_FRESH_NS // period_ns, 1),
            enabled=False,
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


class _Later(NamedTuple):
    """What was read after the dumps."""

    followed: dict[int, bytes]
    exit_fp: int
    red_zones: list[bytes]
    """Of each dump."""


class _Sampled:
    """A target with its plan, and its threads by file descriptor."""

    def __init__(self, target: Target, plan: CapturePlan) -> None:
        self.target = target
        self.threads: dict[int, _Thread] = {}
        self.set_plan(plan)

    def set_plan(self, plan: CapturePlan) -> None:
        self.plan = plan
        for thread in self.threads.values():
            thread.objects = ObjectReader(plan)
        self._finder = PointerFinder(plan)
        self._registers = [Registers._fields.index(name) for name in plan.follow_registers]

    def find_pointers(self, dumps: Sequence[perf.Dump], exits: Sequence[int]) -> frozenset[int]:
        """Return what the frames of dumps point to, from rbp and from exit frames on."""
        find = self._finder.find
        found = {
            find(stack, registers.rsp, fp)
            for _, registers, stack, _ in dumps
            for fp in (registers.rbp, *exits)
        }
        return frozenset[int]().union(*found)

    def followed_registers(self, dumps: Sequence[perf.Dump]) -> list[int]:
        """Return what registers may point to."""
        tag, mask = self.plan.tag, self.plan.tag_mask
        words = {dump.registers[index] for dump in dumps for index in self._registers}
        return [word for word in words if word & mask == tag]


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
        batch_ns = int(_BATCH_SAMPLES * 1e9 / rate_hz)
        self._batch_ns = min(max(batch_ns, _MIN_BATCH_NS), _MAX_BATCH_NS)
        self._kernel = True
        self._targets: dict[Pid, _Sampled] = {}
        self._poll = select.poll()
        self._calm = 0
        """Samples since one pointed to something new."""
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
        plan = plan or NO_PLAN
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
            thread.objects = ObjectReader(plan)
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
        """Yield what the rings hold; see `Engine.samples`.

        Samples are given on in batches: whoever names them needs one look at what they share.
        """
        clock = time.monotonic_ns
        heartbeat = clock() + _HEARTBEAT_NS
        due = clock() + self._batch_ns
        batch: list[RawSample] = []
        is_busy = False
        while self._targets:
            patience_ns = self._patience_ns() if is_busy else 0
            if patience_ns > _FRESH_NS:
                time.sleep(max(min(due - clock(), patience_ns), 0) / 1e9)
            timeout_ns = 0 if patience_ns > _FRESH_NS else max(due - clock(), 0)
            ready = dict(self._poll.poll(timeout_ns / 1e6))
            now, before = clock(), self._delivered
            is_due = now >= due
            for sampled in tuple(self._targets.values()):
                # Of a thread that sleeps by now there may be too few samples to wake us.
                for event in tuple(sampled.threads if is_due else ready.keys() & sampled.threads):
                    thread = sampled.threads[event]
                    batch += self._take(sampled, thread)
                    if ready.get(event, 0) & (select.POLLHUP | select.POLLERR):
                        # The thread has ended.
                        self._drop(sampled, thread)
            is_busy = self._delivered > before
            if is_due:
                due = now + self._batch_ns
            beats = now >= heartbeat
            if beats:
                heartbeat = now + _HEARTBEAT_NS
                self._account()
                for pid in [p for p, it in self._targets.items() if not it.target.is_alive()]:
                    self.remove_target(pid)
            if beats or (batch and is_due) or len(batch) >= _BATCH or not self._targets:
                batch.sort(key=_time)
                yield batch
                batch = []
        self._account()

    def _patience_ns(self) -> int:
        """Return how long samples may wait: until half of a ring is full, if nothing is new."""
        if self._calm < _CALM_SAMPLES:
            return 0
        threads = [it for sampled in self._targets.values() for it in sampled.threads.values()]
        room = min([thread.ring.size_bytes // _RECORD_BYTES for thread in threads], default=0)
        return self.period_ns * room // 2

    def _take(self, sampled: _Sampled, thread: _Thread) -> list[RawSample]:
        """Turn the records of a ring into samples."""
        dumps = thread.ring.read()
        if thread.ring.lost > thread.lost:
            self._ring_full += thread.ring.lost - thread.lost
            thread.lost = thread.ring.lost
        if not dumps:
            return []
        try:
            later = self._read_later(sampled, thread, dumps)
        except ProcessExited:
            later = _Later({}, 0, [b""] * len(dumps))
        stack_end, isolate = thread.plan.stack_end, thread.plan.isolate
        samples = [
            RawSample(
                thread.pid,
                thread.tid,
                dump.time_ns,
                self._pace.period_at(dump.time_ns),
                ThreadState.RUNNING,
                StackSnapshot(
                    dump.registers,
                    Address(dump.registers.rsp),
                    dump.stack,
                    isolate,
                    b"",
                    later.followed,
                    stack_complete=dump.registers.rsp + len(dump.stack) >= stack_end,
                    late_red_zone=red_zone,
                    late_exit_fp=later.exit_fp,
                ),
                tuple(map(Address, dump.kernel_chain)),
            )
            for dump, red_zone in zip(dumps, later.red_zones, strict=True)
        ]
        self._calm = 0 if thread.objects.has_news else self._calm + len(samples)
        self._delivered += len(samples)
        self.stats.requested += len(samples)
        return samples

    def _read_later(self, sampled: _Sampled, thread: _Thread, dumps: list[perf.Dump]) -> _Later:
        """Read what is not in dumps, and may be gone soon.

        Raises:
            ProcessExited: The target is gone.
        """
        plan, isolate = sampled.plan, thread.plan.isolate
        memory, read = sampled.target.memory, thread.objects.read
        exits = [(isolate + slot, 8) for slot in plan.exit_slots if isolate]
        zones = [(max(it.registers.rsp - RED_ZONE_BYTES, 0), RED_ZONE_BYTES) for it in dumps]
        registers = sampled.followed_registers(dumps)
        objects = [(word - plan.tag, plan.follow_size) for word in registers]
        # Mostly the exit frame is where it was, and this is all that has to be read.
        pointers = sampled.find_pointers(dumps, thread.exits)
        followed, words = read(memory.reader, pointers, exits + zones + objects)
        newest = [int.from_bytes(word or b"", "little") for word in words[: len(exits)]]
        if newest != thread.exits:
            thread.exits = newest
            more = sampled.find_pointers(dumps, newest) - pointers
            followed = {**followed, **thread.objects.read_each(memory.reader, more)}
        found = zip(registers, words[len(words) - len(registers) :], strict=True)
        if in_registers := {word: data for word, data in found if data is not None}:
            followed = {**followed, **in_registers}
        return _Later(
            followed,
            next(filter(None, newest), 0),
            [word or b"" for word in words[len(exits) : len(exits) + len(dumps)]],
        )

    def _due(self) -> int:
        """Return how often the clocks have struck."""
        return self._past_due + sum(
            thread.due()
            for sampled in self._targets.values()
            for thread in sampled.threads.values()
        )

    def cost_ns(self) -> int:
        """Return what the ticks took, but for the copies of stacks."""
        return self._pace.cost_ns(self._due())

    def _account(self) -> None:
        """Bring the statistics up to date."""
        lost = self.stats.lost
        if self._ring_full:
            lost[LossReason.RING_FULL] = self._ring_full
        unseen = self._due() - self._delivered - self._ring_full
        if not self._kernel and unseen > lost.get(LossReason.IN_KERNEL, 0):
            lost[LossReason.IN_KERNEL] = unseen
        self.stats.requested = self._delivered + sum(lost.values())
        self.stats.idle = self._pace.idle()

    def close(self) -> None:
        """Close all clocks and rings."""
        self._account()
        for pid in tuple(self._targets):
            self.remove_target(pid)


def _time(sample: RawSample) -> int:
    return sample.time_ns
