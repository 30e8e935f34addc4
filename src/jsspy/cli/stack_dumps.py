"""Whole stacks out of what perf dumped of a process that still runs.

A dump holds what generated code left on the stack, so functions that were interpreted have names
too. Which function that was is asked of the process now; the frame's own bytecode or code must
agree, or the frame is "(unknown)".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, NamedTuple

from jsspy.errors import JsspyError, ProcessExited
from jsspy.formats.perf_data import StackDump, read_dumps
from jsspy.model import transform
from jsspy.model.capture import StackSnapshot, ThreadPlan
from jsspy.model.profile import Profile
from jsspy.model.sample import RawSample, Sample, ThreadState
from jsspy.model.stack import Stack
from jsspy.model.units import Address, Pid, Tid
from jsspy.resolve import Resolver
from jsspy.symbolize.base import UNKNOWN
from jsspy.target.process import Target
from jsspy.v8.isolates import find_threads
from jsspy.v8.metadata import load_layout

OpenTarget = Callable[[int, int], Target | None]
"""(pid, time in ns) -> the process, if it ran at that time and still does; the caller closes it."""

Key = tuple[int, int]
"""Thread id, and time in ns."""


class _Process:
    """A process whose dumps are unwound."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._resolver: Resolver | None = None
        self._threads: dict[int, ThreadPlan] = {}
        v8 = target.find_v8()
        if v8 is None:
            return
        layout = load_layout(v8.elf)
        self._threads = {plan.tid: plan for plan in find_threads(target, v8, layout)}
        self._resolver = Resolver(target, v8, layout)

    def resolve(self, dump: StackDump) -> Sample | None:
        """Return a sample; None if nothing comes of the dump, or its thread runs no JavaScript."""
        plan = self._threads.get(dump.tid)
        if plan is None or self._resolver is None or not dump.stack:
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
        sample = self._resolver.resolve(raw)
        return sample if isinstance(sample, Sample) else None


class Unwound(NamedTuple):
    """What came of the dumps of a perf.data."""

    stacks: dict[Key, Stack]
    is_all: bool
    """There is no sample without one."""


def unwind_dumps(file: BinaryIO, open_target: OpenTarget) -> Unwound:
    """Return the stacks of the dumps in a perf.data whose processes can still be asked.

    Args:
        file: The perf.data.
        open_target: Opens processes.

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
                    processes[dump.pid] = _open(open_target(dump.pid, dump.time_ns))
                process = processes[dump.pid]
                sample = process.resolve(dump) if process is not None else None
                if sample is None:
                    is_all = False
                else:
                    stacks[key] = sample.stack
    finally:
        for process in processes.values():
            if process is not None:
                process.target.close()
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


def _open(target: Target | None) -> _Process | None:
    if target is None:
        return None
    try:
        return _Process(target)
    except (JsspyError, ProcessExited):
        target.close()
        return None
