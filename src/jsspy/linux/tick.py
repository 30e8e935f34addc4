"""What a tick of a thread's clock costs that thread: no counter of the kernel knows."""

from __future__ import annotations

import os
import threading
import time
from typing import Final

from jsspy.linux import perf

_PERIOD_NS: Final = 100_000
_TURNS: Final = 100_000
"""Of an empty loop: about a millisecond, ten ticks."""
_TRIALS: Final = 6


def measure_tick_ns() -> float:
    """Return the CPU time that a thread loses to a tick, in ns, measured on our own in about 15 ms.

    Work is timed under a clock and without one, in turn. The least of each is what it takes where
    nothing else strikes.

    Raises:
        perf.Refused: A clock is not permitted.
    """
    plain, ticking = [], []
    for _ in range(_TRIALS):
        plain.append(_work_ns())
        clock = perf.open_clock(threading.get_native_id(), _PERIOD_NS, kernel=False)
        try:
            ticking.append(_work_ns())
        finally:
            os.close(clock)
    return max(min(ticking) - min(plain), 0) / (min(ticking) / _PERIOD_NS)


def _work_ns() -> int:
    start = time.thread_time_ns()
    for _ in range(_TURNS):
        pass
    return time.thread_time_ns() - start
