"""Keeps what sampling costs below a limit: the rate goes down, and up again when there is room.

What counts is measured: the CPU time of our own processes, the time that threads of the targets are
stopped, how long the program in the kernel runs, and the ticks of their clocks, each at what one
costs here. What the perf engine's copies of stacks take is not: no counter knows it.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Final

from jsspy.engines.base import Engine

LOOK_NS: Final = 1_000_000_000
"""How often the cost is looked at. A second holds enough samples to tell what they cost."""

MIN_RATE_HZ: Final = 1.0

_AIM: Final = 0.8
"""Of the limit: where the rate is set to."""
_HIGH: Final = 0.95
_LOW: Final = 0.6
_MAX_RISE: Final = 1.5
"""Per look. What was never seen before costs more than what was: down at once, up in steps."""
_SMOOTHING: Final = 0.5
_CLOCK_OF_PROCESS: Final = 2
"""CPUCLOCK_SCHED, from include/linux/posix-timers.h at v6.12: a clock id is made of a pid."""


def read_cpu_ns(pid: int) -> int:
    """Return the CPU time of a process so far, or 0 if it is gone."""
    with suppress(OSError):
        return time.clock_gettime_ns(~pid << 3 | _CLOCK_OF_PROCESS)
    return 0


class Governor:
    """Sets the rate of an engine once a second.

    Args:
        engine: What samples, in this process.
        limit: Share of one CPU.

    Attributes:
        share: What sampling costs at this rate, of one CPU; 0 until a second is over.
        lowest_hz: The lowest rate so far.
    """

    def __init__(self, engine: Engine, limit: float) -> None:
        self.limit = limit
        self.share = 0.0
        self._engine = engine
        self._full_hz = self._rate_hz = self.lowest_hz = 1e9 / engine.period_ns
        self._seen_ns = 0
        self._costs: dict[int, int] = {}
        self._taken_ns = 0
        self._is_new_rate = True
        """What was measured before is of another rate."""

    def turn(self, now_ns: int, companions: list[int]) -> None:
        """Look at what it costs, if that is due.

        Args:
            now_ns: CLOCK_MONOTONIC.
            companions: Processes whose CPU time counts like ours.
        """
        passed = now_ns - self._seen_ns
        if passed < LOOK_NS:
            return
        costs = {pid: read_cpu_ns(pid) for pid in companions}
        costs[0] = time.process_time_ns()
        taken = self._engine.cost_ns()
        spent = taken - self._taken_ns
        spent += sum(max(cost - self._costs.get(pid, cost), 0) for pid, cost in costs.items())
        is_first = not self._seen_ns
        self._seen_ns, self._costs, self._taken_ns = now_ns, costs, taken
        if is_first:
            return
        share = spent / passed
        if not self._is_new_rate:
            share = _SMOOTHING * share + (1 - _SMOOTHING) * self.share
        self.share, self._is_new_rate = share, False
        aim = _AIM * self.limit / max(self.share, 1e-9)
        if self.share > _HIGH * self.limit:
            self._set(self._rate_hz * aim)
        elif self.share < _LOW * self.limit:
            self._set(self._rate_hz * min(aim, _MAX_RISE))

    def _set(self, rate_hz: float) -> None:
        rate_hz = min(max(rate_hz, MIN_RATE_HZ), self._full_hz)
        if rate_hz != self._rate_hz:
            self._rate_hz = rate_hz
            self._is_new_rate = True
            self.lowest_hz = min(self.lowest_hz, rate_hz)
            self._engine.set_rate(rate_hz)

    def describe(self) -> str:
        """Return what came of it, in a sentence."""
        rates = f"{self._rate_hz:.3g} of {self._full_hz:.3g} Hz"
        if self.lowest_hz < self._rate_hz:
            rates += f", {self.lowest_hz:.3g} Hz at times"
        is_kept = self.share <= self.limit
        limit = f"the limit of {100 * self.limit:g} % is {'kept' if is_kept else 'not kept yet'}"
        return f"Sampling took {100 * self.share:.2g} % of a CPU in the end, at {rates}: {limit}."
