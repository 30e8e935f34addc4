"""The pace of engines that a clock in the kernel drives: it strikes only while a thread runs."""

from __future__ import annotations

import time
from typing import Final

from jsspy.linux import procfs
from jsspy.linux.tick import measure_tick_ns
from jsspy.model.units import Pid, Tid

_KEPT_CHANGES: Final = 8
"""Changes of the rate that samples may be older than: they are read within a second."""


class Pace:
    """How often threads are sampled, and how often they were left out because they slept.

    Attributes:
        period_ns: Between two samples of a thread, now.
    """

    def __init__(self, rate_hz: float) -> None:
        self.period_ns = max(round(1e9 / rate_hz), 1)
        self._changes = [(0, self.period_ns)]
        self._threads: dict[Tid, _Thread] = {}
        self._idle = 0.0
        self._told = 0
        self._tick_ns: float | None = None

    def set_rate(self, rate_hz: float) -> None:
        """Change the period from now on."""
        self.idle()
        self.period_ns = max(round(1e9 / rate_hz), 1)
        self._changes.append((time.monotonic_ns(), self.period_ns))
        del self._changes[:-_KEPT_CHANGES]

    def period_at(self, time_ns: int) -> int:
        """Return the period of a moment that is not long ago: what a sample of it weighs."""
        for start_ns, period_ns in reversed(self._changes):
            if start_ns <= time_ns:
                return period_ns
        return self._changes[0][1]

    def cost_ns(self, ticks: int) -> int:
        """Return how much of the threads' time so many ticks of their clocks took."""
        if self._tick_ns is None:
            self._tick_ns = measure_tick_ns()
        return int(ticks * self._tick_ns)

    def join(self, pid: Pid, tid: Tid) -> None:
        """Begin to watch a thread."""
        self._threads[tid] = _Thread(pid, tid)

    def leave(self, tid: Tid) -> None:
        """End it. What it did since the last look is not known if it is gone already."""
        thread = self._threads.pop(tid, None)
        if thread is not None:
            self._idle += thread.asleep_ns() / self.period_ns

    def idle(self) -> int:
        """Return how many samples more there would be, had no thread ever slept."""
        slept = sum([thread.asleep_ns() for thread in self._threads.values()])
        self._idle += slept / self.period_ns
        # A look that was too early is made good later: what was told stands until then.
        self._told = max(self._told, int(self._idle))
        return self._told


class _Thread:
    """A thread, and how long it slept: the time that it neither ran nor waited for a CPU."""

    __slots__ = ("_busy_ns", "_pid", "_seen_ns", "_tid")

    def __init__(self, pid: Pid, tid: Tid) -> None:
        self._pid = pid
        self._tid = tid
        self._seen_ns = time.monotonic_ns()
        self._busy_ns = procfs.read_busy_ns(pid, tid)

    def asleep_ns(self) -> int:
        """Return for how long it slept since the last look.

        Negative where the last look was too early: the kernel adds up what has ended.
        """
        busy = procfs.read_busy_ns(self._pid, self._tid)
        if busy is None or self._busy_ns is None:
            return 0
        now = time.monotonic_ns()
        asleep = now - self._seen_ns - (busy - self._busy_ns)
        self._seen_ns, self._busy_ns = now, busy
        return asleep
