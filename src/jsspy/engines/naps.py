"""What threads do while they do not run, and for how long.

A *nap* lasts from the moment at which a thread leaves its CPU until it runs again. The stack stays
as it is meanwhile, so one capture stands for all of it; its weight is the time. A nap that lasts is
told of again and again, so that whoever watches need not wait for its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from jsspy.model.sample import RawSample, ThreadState

_UNINTERRUPTIBLE: Final = 0x2
_STOPPED: Final = 0x4 | 0x8
"""Of `__state` in a task_struct. Source: include/linux/sched.h, at v6.12."""

_EPOLL_CALLS: Final = frozenset({232, 281, 441})
"""epoll_wait, epoll_pwait, epoll_pwait2."""

_FUTEX_CALLS: Final = frozenset({202, 449, 455})
"""futex, futex_waitv, futex_wait. Source: arch/x86/entry/syscalls/syscall_64.tbl, at v6.12."""


def waiting_state(call: int) -> ThreadState:
    """Return what a thread that can be interrupted waits for.

    Args:
        call: Number of the system call that it is in.
    """
    if call in _EPOLL_CALLS:
        return ThreadState.EPOLL
    return ThreadState.FUTEX if call in _FUTEX_CALLS else ThreadState.SLEEPING


def napping_state(task_state: int, call: int, *, preempted: bool) -> ThreadState:
    """Return why a thread left its CPU.

    Args:
        task_state: Bits of the kernel's; 0: not known.
        call: Number of the system call that it is in; negative: in none.
        preempted: It could have run on.
    """
    if preempted or (not task_state and call < 0):
        return ThreadState.RUNNABLE
    if task_state & _UNINTERRUPTIBLE:
        return ThreadState.DISK
    if task_state & _STOPPED:
        return ThreadState.STOPPED
    return waiting_state(call)


@dataclass(slots=True)
class _Nap:
    sample: RawSample
    since_ns: int
    told_ns: int
    """Up to where its time was told."""
    scale: int


class Naps:
    """The naps that go on, by thread."""

    def __init__(self) -> None:
        self._naps: dict[int, _Nap] = {}

    def __contains__(self, thread: int) -> bool:
        return thread in self._naps

    def begin(self, thread: int, sample: RawSample, since_ns: int, scale: int = 1) -> None:
        """Begin a nap.

        Args:
            thread: Any key.
            sample: Of the thread as it is; the weight does not count.
            since_ns: CLOCK_MONOTONIC.
            scale: If it turns out to be short, it stands for so many.
        """
        self._naps[thread] = _Nap(sample, since_ns, since_ns, scale)

    def end(self, thread: int, time_ns: int, short_ns: int = 0) -> RawSample | None:
        """End a nap; return its time that was not told yet, or None if there was no such nap.

        Args:
            thread: As in `begin`.
            time_ns: CLOCK_MONOTONIC.
            short_ns: Naps below that are short.
        """
        nap = self._naps.pop(thread, None)
        if nap is None:
            return None
        sample = _tell(nap, time_ns)
        if sample is not None and time_ns - nap.since_ns < short_ns:
            return sample._replace(weight_ns=sample.weight_ns * nap.scale)
        return sample

    def forget(self, thread: int) -> None:
        """Drop a nap."""
        self._naps.pop(thread, None)

    def tell(self, time_ns: int) -> list[RawSample]:
        """Return the time of all naps that was not told yet; they go on."""
        told = [_tell(nap, time_ns) for nap in self._naps.values()]
        return [sample for sample in told if sample is not None]


def _tell(nap: _Nap, time_ns: int) -> RawSample | None:
    weight = time_ns - nap.told_ns
    if weight <= 0:
        return None
    sample = nap.sample._replace(time_ns=nap.told_ns, weight_ns=weight)
    nap.told_ns = time_ns
    return sample
