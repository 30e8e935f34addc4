"""The live view of a profile that grows: what is hot now, and since the start.

"Now" is a window of the last few seconds. Shares are of the window's time, so a thread that is busy
all along has 100 %, as in top(1). Time in which samples were lost is taken out of the window: a
lost sample might have been of anything.

Sums since the start are kept up to date for the view that is shown, and made anew when it changes;
those of the window are made anew each time, of as many samples as fit into it.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import pairwise
from typing import NamedTuple, TypeVar

from jsspy.model.growth import Growth, add_growth, discard_samples
from jsspy.model.names import NO_STACK, VM_KINDS, clean, display_place, function_name
from jsspy.model.phase import Phase, phase_marked_by
from jsspy.model.profile import Profile, ProfileMeta, SamplingStats
from jsspy.model.sample import VmState
from jsspy.model.stack import Frame, FrameKind
from jsspy.model.transform import Grouping, coarser

MAX_SAMPLES = 1 << 20
"""Samples that are kept to be saved: 3 hours of a thread at 99 Hz, 40 MiB."""

NATIVE_KINDS = frozenset(
    {
        FrameKind.NATIVE,
        FrameKind.KERNEL,
        FrameKind.BUILTIN,
        FrameKind.BYTECODE_HANDLER,
        FrameKind.REGEXP,
        FrameKind.VM_STATE,
    }
)
"""What is not JavaScript: hidden, its time is its caller's own."""

NO_JS = Frame("(no JavaScript)", FrameKind.UNKNOWN)
"""Stands for a stack without JavaScript where only JavaScript is shown."""

_Word = TypeVar("_Word", VmState, Phase)

_Like = Counter[tuple[int, int, bool]]
"""Weights by (row of the stack table, thread, whether garbage was collected)."""

_HIDDEN = -1
_THREAD_KEY = 1 << 40
"""Keys from here on are threads; below they are what frames become in a view."""


class View(Enum):
    """What one row is. Values are the words on the screen."""

    FUNCTION = "function"
    LINE = "line"
    FILE = "file"
    PACKAGE = "package"
    THREAD = "thread"


class Column(Enum):
    """What rows can be sorted by. Values are the headings."""

    OWN_SHARE = "%Own"
    TOTAL_SHARE = "%Total"
    OWN = "OwnTime"
    TOTAL = "TotalTime"
    GC = "%GC"
    NAME = "Name"


class Row(NamedTuple):
    """One line of the table. Shares are of the window's time, times since the start."""

    key: int
    name: str
    place: str
    own_share: float
    total_share: float
    own_ns: int
    total_ns: int
    gc_share: float
    """Of the window's time: garbage was collected while this was on the stack."""


class Edge(NamedTuple):
    """A caller or callee of the row that one looks at."""

    key: int
    name: str
    place: str
    weight: int
    share: float
    """Of the time of the row that one looks at, since the start."""


class Neighbours(NamedTuple):
    """Who calls a row, and whom it calls, heaviest first."""

    callers: list[Edge]
    callees: list[Edge]
    name: str
    place: str
    own_ns: int
    total_ns: int


class Account(NamedTuple):
    """How sampling stands: counts since the start of the recording."""

    time_ns: int
    """CLOCK_MONOTONIC."""
    stats: SamplingStats
    meta: ProfileMeta


class State(NamedTuple):
    """What V8 and the event loop did in the window; shares of the threads' time, idle included."""

    vm: dict[VmState, float]
    phases: dict[Phase, float]
    """Of the time that is not idle."""
    idle: float


@dataclass(slots=True)
class _Sums:
    """Weights by key."""

    own: Counter[int] = field(default_factory=Counter)
    total: Counter[int] = field(default_factory=Counter)
    gc: Counter[int] = field(default_factory=Counter)

    def add(self, keys: tuple[int, ...], weight: int, *, is_gc: bool) -> None:
        """Add a stack: its distinct keys, leaf first."""
        self.own[keys[0]] += weight
        total, gc = self.total, self.gc
        for key in keys:
            total[key] += weight
            if is_gc:
                gc[key] += weight


class LiveTable:
    """A growing profile, what is shown of it, and the rows that this gives."""

    def __init__(self, *, window_ns: int) -> None:
        self.profile = Profile()
        self.window_ns = window_ns
        self._view = View.FUNCTION
        self._thread: int | None = None
        self._only_js = False
        self._accounts: deque[tuple[int, int, int, int]] = deque()
        """(time_ns, samples, idle, lost), since before the window."""
        self._now_ns = 0
        self._before = SamplingStats()
        """The account at the last reset."""
        self._discarded = 0
        self._latest = SamplingStats()
        self._like: _Like = Counter()
        """All samples since the last reset."""
        self._sums = _Sums()
        """Those that are shown."""
        self._keys: dict[Frame, int] = {}
        self._frames: list[Frame] = []
        """By key."""
        self._key_of: list[int] = []
        """By frame of the profile."""
        self._phase_of: list[Phase] = []
        """By row of the stack table."""
        self._marks: list[Phase | None] = []

    # What is shown

    @property
    def view(self) -> View:
        """What one row is."""
        return self._view

    @view.setter
    def view(self, view: View) -> None:
        if view is not self._view:
            self._view = view
            self._begin()

    @property
    def thread(self) -> int | None:
        """The only thread that counts, as an index of `profile.threads`; None is all."""
        return self._thread

    @thread.setter
    def thread(self, thread: int | None) -> None:
        if thread != self._thread:
            self._thread = thread
            self._begin()

    @property
    def only_js(self) -> bool:
        """Only JavaScript is shown; what it calls counts as its own."""
        return self._only_js

    @only_js.setter
    def only_js(self, value: bool) -> None:
        if value is not self._only_js:
            self._only_js = value
            self._begin()

    def _begin(self) -> None:
        """Make the sums for another view."""
        self._keys.clear()
        self._frames.clear()
        self._key_of.clear()
        self._update_keys()
        self._sums = self._sum(self._like)

    # What comes in

    def add(self, growth: Growth, account: Account) -> None:
        """Take in new samples, and how sampling stands.

        Raises:
            ValueError: Something is missing since the last time.
        """
        profile = self.profile
        start = len(profile)
        add_growth(profile, growth)
        self._update_keys()
        new = self._count(start)
        self._like.update(new)
        self._sum(new, self._sums)
        if len(profile) > MAX_SAMPLES:
            count = len(profile) - MAX_SAMPLES // 2
            self._discarded += count
            discard_samples(profile, count)
        self._take_account(account)

    def _take_account(self, account: Account) -> None:
        stats, before = account.stats, self._before
        self._now_ns = account.time_ns
        start = max(account.meta.start_ns, self.profile.meta.start_ns)
        self.profile.meta = replace(
            account.meta,
            start_ns=start,
            start_time_unix_ns=account.meta.start_time_unix_ns + start - account.meta.start_ns,
            duration_ns=max(account.time_ns - start, 0) if start else 0,
        )
        lost = {why: count - before.lost.get(why, 0) for why, count in stats.lost.items()}
        self.profile.stats = replace(
            stats,
            requested=stats.requested - before.requested - self._discarded,
            idle=stats.idle - before.idle,
            lost={why: count for why, count in lost.items() if count},
            truncated=dict(Counter(self.profile.truncated.values())),
            js_frames=stats.js_frames - before.js_frames,
            js_frames_named=stats.js_frames_named - before.js_frames_named,
            profiler_cpu_ns=stats.profiler_cpu_ns - before.profiler_cpu_ns,
        )
        self._latest = stats
        accounts = self._accounts
        if not accounts and start:
            accounts.append((start, 0, 0, 0))
        all_lost = sum(stats.lost.values())
        accounts.append((account.time_ns, stats.requested - all_lost, stats.idle, all_lost))
        while len(accounts) > 1 and accounts[1][0] <= account.time_ns - self.window_ns:
            accounts.popleft()

    def reset(self) -> None:
        """Forget all samples and begin again with what is to come."""
        profile = self.profile
        if not self._accounts:
            return
        self._before = self._latest
        self._discarded = 0
        discard_samples(profile, len(profile))
        shift = self._now_ns - profile.meta.start_ns
        profile.meta.start_ns += shift
        profile.meta.start_time_unix_ns += shift
        profile.meta.duration_ns = 0
        profile.stats = SamplingStats(pauses=self._latest.pauses)
        last = self._accounts[-1]
        self._accounts.clear()
        self._accounts.append(last)
        self._like.clear()
        self._sums = _Sums()

    def _update_keys(self) -> None:
        """Give keys to the frames, and phases to the stack rows, that are new."""
        profile = self.profile
        frames = profile.frames
        grouping = None if self._view is View.THREAD else Grouping(self._view.value)
        for frame in frames[len(self._marks) :]:
            self._marks.append(phase_marked_by(frame))
        parents, stack_frames = profile.stacks.parent, profile.stacks.frame
        for row in range(len(self._phase_of), len(parents)):
            mark = self._marks[stack_frames[row]]
            parent = parents[row]
            inherited = self._phase_of[parent] if parent >= 0 else Phase.OTHER
            self._phase_of.append(mark or inherited)
        hidden = VM_KINDS | NATIVE_KINDS if self._only_js else VM_KINDS
        for frame in frames[len(self._key_of) :]:
            if frame.kind in hidden or grouping is None:
                self._key_of.append(_HIDDEN)
            else:
                coarse = coarser(frame, grouping)
                if grouping in {Grouping.FILE, Grouping.PACKAGE}:
                    coarse = Frame(coarse.name, FrameKind.UNKNOWN)  # whatever kinds are in it
                self._key_of.append(self._key(coarse))

    def _key(self, frame: Frame) -> int:
        key = self._keys.get(frame)
        if key is None:
            key = self._keys[frame] = len(self._frames)
            self._frames.append(frame)
        return key

    # What comes out

    def _count(self, start: int) -> _Like:
        """Return the samples from an index on, like ones together."""
        profile = self.profile
        like: _Like = Counter()
        for row, thread, weight, state in zip(
            profile.stack[start:],
            profile.thread[start:],
            profile.weight[start:],
            profile.vm_state[start:],
            strict=True,
        ):
            like[row, thread, state is VmState.GC] += weight
        return like

    def _sum(self, like: _Like, sums: _Sums | None = None) -> _Sums:
        """Add up, by key, the samples that are shown."""
        sums = sums or _Sums()
        for (row, thread, is_gc), weight in like.items():
            if self._thread is not None and thread != self._thread:
                continue
            if self._view is View.THREAD:
                sums.add((_THREAD_KEY + thread,), weight, is_gc=is_gc)
            else:
                keys = tuple(dict.fromkeys(self._iter_keys(row)))
                sums.add(
                    keys or (self._key(NO_JS if self._only_js else NO_STACK),), weight, is_gc=is_gc
                )
        return sums

    def _iter_keys(self, row: int) -> Iterator[int]:
        """Yield the keys of a stack that are shown, leaf first."""
        parents, frames, key_of = (
            self.profile.stacks.parent,
            self.profile.stacks.frame,
            self._key_of,
        )
        while row >= 0:
            key = key_of[frames[row]]
            if key != _HIDDEN:
                yield key
            row = parents[row]

    def _window_start(self) -> int:
        """Return the first sample in the window."""
        times = self.profile.time_ns
        since = self._now_ns - self.window_ns
        start = len(times)
        while start and times[start - 1] >= since:
            start -= 1
        return start

    def _window_counts(self) -> tuple[int, int, int, int]:
        """Return (duration, samples, idle, lost) of the window."""
        if not self._accounts:
            return 0, 0, 0, 0
        first, last = self._accounts[0], self._accounts[-1]
        # The first account may be somewhat older than the window.
        duration, taken, idle, lost = (new - old for new, old in zip(last, first, strict=True))
        return duration, taken, idle, lost

    def _window_time(self) -> float:
        """Return the window's time without the part in which samples were lost, in ns."""
        duration, taken, idle, lost = self._window_counts()
        seen = taken + idle
        return min(duration, self.window_ns) * (seen / (seen + lost)) if seen else 0.0

    def rows(
        self,
        sort: Column = Column.OWN_SHARE,
        *,
        ascending: bool = False,
        pattern: re.Pattern[str] | None = None,
    ) -> list[Row]:
        """Return the rows of the view, sorted.

        Args:
            sort: By what; equals go by time since the start, then by name.
            ascending: The smallest first. Names: Z first.
            pattern: Only rows in whose name or place it is found.
        """
        window = self._sum(self._count(self._window_start()))
        time = self._window_time()
        rows = []
        for key in self._sums.total | window.total:
            name, place = self._describe(key)
            if pattern is not None and not pattern.search(f"{name} {place}"):
                continue
            rows.append(
                Row(
                    key,
                    name,
                    place,
                    window.own[key] / time if time else 0.0,
                    window.total[key] / time if time else 0.0,
                    self._sums.own[key],
                    self._sums.total[key],
                    window.gc[key] / time if time else 0.0,
                )
            )
        return _sorted(rows, sort, ascending=ascending)

    def neighbours(self, key: int) -> Neighbours:
        """Return who calls a row and whom it calls, since the start.

        A stack counts once for each of its callers and callees, however often they are in it.
        """
        callers: Counter[int] = Counter()
        callees: Counter[int] = Counter()
        own = total = 0
        for (row, thread, _), weight in self._like.items():
            if self._thread is not None and thread != self._thread:
                continue
            keys = list(self._iter_keys(row))
            if key not in keys:
                continue
            total += weight
            own += weight if keys[0] == key else 0
            pairs = list(pairwise(keys))
            for caller in {caller for callee, caller in pairs if callee == key}:
                callers[caller] += weight
            for callee in {callee for callee, caller in pairs if caller == key}:
                callees[callee] += weight
        name, place = self._describe(key)
        return Neighbours(
            self._edges(callers, total), self._edges(callees, total), name, place, own, total
        )

    def _edges(self, weights: Counter[int], total: int) -> list[Edge]:
        edges = [
            Edge(key, *self._describe(key), weight, weight / total)
            for key, weight in weights.items()
        ]
        return sorted(edges, key=lambda edge: (-edge.weight, edge.name, edge.place, edge.key))

    def _describe(self, key: int) -> tuple[str, str]:
        """Return name and place of a row."""
        if key >= _THREAD_KEY:
            thread = self.profile.threads[key - _THREAD_KEY]
            return clean(thread.name), f"{clean(thread.process_name)} {thread.pid}/{thread.tid}"
        frame = self._frames[key]
        if self._view in {View.FILE, View.PACKAGE}:
            return clean(frame.name), ""
        name, place = function_name(frame), display_place(frame)
        if not place and frame.module is not None:
            place = clean(frame.module.path.rpartition("/")[2])
        return name, "" if name.startswith(place) else place

    def thread_of(self, key: int) -> int | None:
        """Return the thread that a row of the thread view is; None for other rows."""
        return key - _THREAD_KEY if key >= _THREAD_KEY else None

    def state(self) -> State:
        """Return what V8 and the event loop did in the window, of all threads."""
        profile = self.profile
        states: Counter[VmState] = Counter()
        phases: Counter[Phase] = Counter()
        asleep = 0
        for sample in range(self._window_start(), len(profile)):
            if profile.state[sample].is_idle:
                asleep += 1
                continue
            states[profile.vm_state[sample]] += 1
            row = profile.stack[sample]
            phases[self._phase_of[row] if row >= 0 else Phase.OTHER] += 1
        _, taken, left_out, _ = self._window_counts()
        looks = taken + left_out
        idle = min((left_out + asleep) / looks, 1.0) if looks else 0.0
        return State(_shares(states, 1 - idle), _shares(phases, 1.0), idle)


def _shares(counts: Counter[_Word], whole: float) -> dict[_Word, float]:
    count = counts.total()
    return {what: number / count * whole for what, number in counts.most_common()}


def _sorted(rows: Iterable[Row], sort: Column, *, ascending: bool) -> list[Row]:
    by_name = sorted(rows, key=lambda row: (row.name, row.place, row.key))
    if sort is Column.NAME:
        return by_name[::-1] if ascending else by_name
    position = _POSITIONS[sort]
    by_time = sorted(by_name, key=lambda row: -row.total_ns)
    return sorted(by_time, key=lambda row: row[position], reverse=not ascending)


_POSITIONS = {
    Column.OWN_SHARE: Row._fields.index("own_share"),
    Column.TOTAL_SHARE: Row._fields.index("total_share"),
    Column.OWN: Row._fields.index("own_ns"),
    Column.TOTAL: Row._fields.index("total_ns"),
    Column.GC: Row._fields.index("gc_share"),
}
