"""A profile: a weighted call tree, interned, with its samples in time order.

`Profile` holds a frame table, a `StackTable` of (parent, frame) rows with parents before
children, and sample columns. A sample is one integer plus weight. Self and total are derived,
never stored. Trees are walked with loops, never by recursion: stacks are deeper than Python's
recursion limit.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from jsspy.model.sample import LossReason, Sample, ThreadState, VmState
from jsspy.model.stack import Frame, Stack, Truncation
from jsspy.model.units import Pid, Tid


class ValueType(Enum):
    """What the weights of a profile measure. Values are the words used in files."""

    CPU = "cpu"
    WALL = "wall"
    OFF_CPU = "off-cpu"
    SAMPLES = "samples"
    """Weights are counts, not nanoseconds (imported folded stacks)."""

    @property
    def words(self) -> str:
        """What is written on an axis."""
        return _WORDS[self]


_WORDS = {
    ValueType.CPU: "CPU time",
    ValueType.WALL: "wall time",
    ValueType.OFF_CPU: "time off the CPU",
    ValueType.SAMPLES: "samples",
}


class ThreadInfo(NamedTuple):
    """One thread of a profile. Samples name it by its index in `Profile.threads`."""

    pid: Pid
    tid: Tid
    name: str
    process_name: str = "node"
    isolate: int = 0


class PauseStats(NamedTuple):
    """How long the target's threads were stopped, in ns; all 0 for engines that stop nothing."""

    count: int = 0  # type: ignore[assignment]  # tuple.count is of no use here
    p50_ns: int = 0
    p99_ns: int = 0
    max_ns: int = 0
    total_ns: int = 0


@dataclass(slots=True)
class SamplingStats:
    """The account of a recording: requested = stacks + truncated + lost."""

    requested: int = 0
    idle: int = 0
    """Samples that were due while the thread slept and were left out on purpose; not requested."""
    lost: dict[LossReason, int] = field(default_factory=dict)
    truncated: dict[Truncation, int] = field(default_factory=dict)
    pauses: PauseStats = field(default_factory=PauseStats)
    js_frames: int = 0
    js_frames_named: int = 0
    """JS frames whose SharedFunctionInfo could be read (anonymous functions count as named)."""
    profiler_cpu_ns: int = 0
    """CPU time that jsspy itself used."""


@dataclass(slots=True)
class ProfileMeta:
    """Where a profile comes from."""

    value_type: ValueType = ValueType.CPU
    period_ns: int = 0
    """Nanoseconds between samples of one thread; 0 if not known."""
    start_time_unix_ns: int = 0
    """Wall clock at `start_ns`; 0 if not known."""
    start_ns: int = 0
    """CLOCK_MONOTONIC at the start of sampling."""
    duration_ns: int = 0
    engine: str = ""
    command: str = ""
    node_version: str = ""
    v8_version: str = ""
    jsspy_version: str = ""
    notes: list[str] = field(default_factory=list)
    """Things that the reader of the profile must know, one sentence each."""


class StackTable:
    """Interned stacks: row i is (parent row or -1, frame index); parents come before children."""

    __slots__ = ("_rows", "frame", "parent")

    def __init__(self) -> None:
        self.parent = array("i")
        self.frame = array("i")
        self._rows: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self.parent)

    def intern(self, parent: int, frame: int) -> int:
        """Return the row of `frame` called from row `parent`, adding it if it is new."""
        key = (parent, frame)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = len(self.parent)
            self.parent.append(parent)
            self.frame.append(frame)
        return row


class Profile:
    """Samples of one recording.

    Columns `stack`, `thread`, `time_ns`, `weight`, `state`, `vm_state` have one entry per sample,
    in the order in which they were taken. `stack` is a row of `stacks`, or -1 for an empty stack.
    """

    def __init__(self, meta: ProfileMeta | None = None) -> None:
        self.meta = meta or ProfileMeta()
        self.stats = SamplingStats()
        self.frames: list[Frame] = []
        self.stacks = StackTable()
        self.threads: list[ThreadInfo] = []
        self.stack = array("i")
        self.thread = array("i")
        self.time_ns = array("q")
        self.weight = array("q")
        self.state: list[ThreadState] = []
        self.vm_state: list[VmState] = []
        self.truncated: dict[int, Truncation] = {}
        """Sample index -> why its stack does not reach the root."""
        self.sources: dict[str, str] = {}
        """Script url -> source text, where the recording keeps it."""
        self._frame_index: dict[Frame, int] = {}
        self._thread_index: dict[tuple[int, int], int] = {}
        self._last_frames: tuple[Frame, ...] = ()
        self._last_rows: list[int] = []
        """The last stack that was interned, and the row of each of its frames."""

    def __len__(self) -> int:
        return len(self.stack)

    def intern_frame(self, frame: Frame) -> int:
        """Return the index of `frame` in `frames`, adding it if it is new."""
        index = self._frame_index.get(frame)
        if index is None:
            index = self._frame_index[frame] = len(self.frames)
            self.frames.append(frame)
        return index

    def replace_frame(self, index: int, frame: Frame) -> None:
        """Put `frame`, which is none of the others, in the place of a frame of the table."""
        del self._frame_index[self.frames[index]]
        self._frame_index[frame] = index
        self.frames[index] = frame

    def intern_stack(self, stack: Stack) -> int:
        """Return the row of a stack (root first) in `stacks`; -1 for the empty one.

        A stack mostly begins as the one before it, with the very same frame objects. They are
        compared first: to look up a frame by its value takes a microsecond.
        """
        frames, rows = stack.frames, self._last_rows
        shared = 0
        for one, other in zip(frames, self._last_frames, strict=False):
            if one is not other:
                break
            shared += 1
        del rows[shared:]
        row = rows[-1] if rows else -1
        for frame in frames[shared:]:
            row = self.stacks.intern(row, self.intern_frame(frame))
            rows.append(row)
        self._last_frames = frames
        return row

    def intern_thread(self, info: ThreadInfo) -> int:
        """Return the index of the thread (pid, tid), adding it if it is new."""
        key = (info.pid, info.tid)
        index = self._thread_index.get(key)
        if index is None:
            index = self._thread_index[key] = len(self.threads)
            self.threads.append(info)
        return index

    def add(self, sample: Sample, thread: int) -> None:
        """Append a sample of `threads[thread]`."""
        if sample.stack.truncated is not None:
            self.truncated[len(self.stack)] = sample.stack.truncated
        self.add_row(
            self.intern_stack(sample.stack),
            thread,
            sample.time_ns,
            sample.weight_ns,
            sample.state,
            sample.vm_state,
        )

    def add_row(
        self,
        row: int,
        thread: int,
        time_ns: int,
        weight: int,
        state: ThreadState = ThreadState.RUNNING,
        vm_state: VmState = VmState.UNKNOWN,
    ) -> None:
        """Append a sample whose stack is already a row of `stacks`."""
        self.stack.append(row)
        self.thread.append(thread)
        self.time_ns.append(time_ns)
        self.weight.append(weight)
        self.state.append(state)
        self.vm_state.append(vm_state)

    def iter_frames(self, row: int) -> Iterator[Frame]:
        """Yield the frames of a stack row, leaf first."""
        parent, frame, frames = self.stacks.parent, self.stacks.frame, self.frames
        while row >= 0:
            yield frames[frame[row]]
            row = parent[row]

    def stack_frames(self, row: int) -> tuple[Frame, ...]:
        """Return the frames of a stack row, root first."""
        return tuple(self.iter_frames(row))[::-1]

    def processes_of_frames(self) -> dict[int, set[int]]:
        """Return, by index of frame, the pids of the processes that it was seen in."""
        parent, frame = self.stacks.parent, self.stacks.frame
        result: dict[int, set[int]] = {}
        seen: set[tuple[int, int]] = set()
        for sampled, thread in zip(self.stack, self.thread, strict=True):
            pid, row = int(self.threads[thread].pid), sampled
            while row >= 0 and (row, pid) not in seen:
                seen.add((row, pid))
                result.setdefault(frame[row], set()).add(pid)
                row = parent[row]
        return result

    def total_weight(self) -> int:
        """Return the sum of all weights."""
        return sum(self.weight)

    def check(self) -> None:
        """Verify the invariants of the tables.

        Raises:
            ValueError: A column is shorter than another, a parent follows its child, or an index
                points outside of its table.
        """
        count = len(self.stack)
        columns = (self.thread, self.time_ns, self.weight, self.state, self.vm_state)
        if any(len(column) != count for column in columns):
            raise ValueError("sample columns differ in length")
        for row, (parent, frame) in enumerate(
            zip(self.stacks.parent, self.stacks.frame, strict=True)
        ):
            if not -1 <= parent < row:
                raise ValueError(f"stack row {row}: parent {parent} does not come before it")
            if not 0 <= frame < len(self.frames):
                raise ValueError(f"stack row {row}: no frame {frame}")
        if count and not -1 <= min(self.stack) <= max(self.stack) < len(self.stacks):
            raise ValueError("a sample names a stack that does not exist")
        if count and not 0 <= min(self.thread) <= max(self.thread) < len(self.threads):
            raise ValueError("a sample names a thread that does not exist")
