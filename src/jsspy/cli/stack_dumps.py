"""Whole stacks out of what perf dumped of a process that still runs.

A dump holds what generated code left on the stack, so functions that were interpreted have names
too. Which function that was is asked of the process now; the frame's own bytecode or code must
agree, or the frame is "(unknown)".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from jsspy.formats.perf_data import StackDump, read_dumps
from jsspy.model import transform
from jsspy.model.capture import StackSnapshot
from jsspy.model.profile import Profile
from jsspy.model.sample import RawSample, Sample, ThreadState
from jsspy.model.stack import Stack
from jsspy.model.units import Address, Pid, Tid
from jsspy.session import Session
from jsspy.symbolize.base import UNKNOWN

OpenSession = Callable[[int, int], Session | None]
"""(pid, time in ns) -> the process, if it ran at that time and still does; the caller closes it."""

Key = tuple[int, int]
"""Thread id, and time in ns."""


class _Process:
    """A process whose dumps are unwound."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._threads = {plan.tid: plan for plan in session.threads}

    def resolve(self, dump: StackDump) -> Sample | None:
        """Return a sample; None if nothing comes of the dump, or its thread runs no JavaScript."""
        plan = self._threads.get(Tid(dump.tid))
        if plan is None or not dump.stack:
            return None
        start = dump.registers.rsp
        raw = RawSample(
            Pid(dump.pid),
            Tid(dump.tid),
            dump.time_ns,
            0,
            ThreadState.RUNNING,
            StackSnapshot(
                dump.registers,
                Address(start),
                dump.stack,
                plan.isolate,
                b"",
                {},
                stack_complete=start + len(dump.stack) >= plan.stack_end,
            ),
            tuple(map(Address, dump.kernel_chain)),
        )
        sample = self.session.resolver.resolve(raw)
        return sample if isinstance(sample, Sample) else None


class Unwound(NamedTuple):
    """What came of the dumps of a perf.data."""

    stacks: dict[Key, Stack]
    is_all: bool
    """There is no sample without one."""


def unwind_dumps(file: BinaryIO, open_session: OpenSession) -> Unwound:
    """Return the stacks of the dumps in a perf.data whose processes can still be asked.

    Args:
        file: The perf.data.
        open_session: Opens processes.

    Raises:
        MalformedData: The file is broken.
    """
    processes: dict[int, _Process | None] = {}
    stacks: dict[Key, Stack] = {}
    is_all = True
    try:
        # Twice: of a closure that the collector has moved since, the bytecode is known once the
        # same function was seen in its new place.
        for unknown_only in (False, True):
            file.seek(0)
            for dump in read_dumps(file):
                if dump is None:
                    is_all = False
                    continue
                key = dump.tid, dump.time_ns
                if unknown_only and (key not in stacks or UNKNOWN not in stacks[key].frames):
                    continue
                if dump.pid not in processes:
                    session = open_session(dump.pid, dump.time_ns)
                    processes[dump.pid] = _Process(session) if session is not None else None
                process = processes[dump.pid]
                sample = process.resolve(dump) if process is not None else None
                if sample is None:
                    is_all = False
                else:
                    stacks[key] = sample.stack
    finally:
        for process in processes.values():
            if process is not None:
                process.session.close()
    return Unwound(stacks, is_all and bool(stacks))


def replace_stacks(profile: Profile, stacks: dict[Key, Stack]) -> tuple[Profile, int]:
    """Put these stacks in the place of what perf made of the same samples.

    Args:
        profile: Of `perf script`, with times to the nanosecond.
        stacks: By thread and time.

    Returns:
        A profile, and how many of its stacks were replaced.
    """
    replaced = 0
    for index, (thread, time) in enumerate(zip(profile.thread, profile.time_ns, strict=True)):
        stack = stacks.get((profile.threads[thread].tid, time))
        if stack is None:
            continue
        replaced += 1
        profile.stack[index] = profile.intern_stack(stack)
        if stack.truncated is not None:
            profile.truncated[index] = stack.truncated
    return transform.filter_samples(profile), replaced
