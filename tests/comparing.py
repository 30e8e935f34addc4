"""Profiles of one process by V8's own CPU profiler and by us, in turn, and how far they differ.

Two profiles by V8 of the same work differ as well. How far any two differ depends on how many
samples they have, so only as many of each are compared: `COUNT`. Ours may be as far from either of
V8's as those are from each other, and `SLACK` more.

**Why that is sound.** Total variation distance of two samplings of the same distribution is
never 0: with 1,300 functions and 1,000 samples it is 0.45. But of three samplings of one
distribution any two are as far apart in expectation, and one sample moves a distance by at most
1/1000. A fault of ours shows: time charged to the wrong function adds to the distance where
the function is hot, and where all are small the sums by line of the hottest lines are compared too.

**Why the profiles are comparable.** Each begins and ends with a turn of the program's work. They
alternate, V8's and ours, so drift of the program is in all of them. The length of a profile is CPU
time of the thread: a busy machine makes it longer, not smaller.

All threads of the program share one CPU. V8's profiler sends a signal from a thread of its own, and
on another CPU the program goes on until that arrives: if it returns from a system call meanwhile,
the call gets the tick. Of a server, writes to sockets had 24 % of V8's ticks on two CPUs and 14 %
of ours; on one CPU they agree.

One difference is left. V8's profiler counts the time in which a thread waits (for helpers of the
garbage collector, for a lock), ours does not, unless it is asked to (`Mode.WALL`, which only the
ptrace engine can). That matters on a busy machine. The garbage collector's own time is left out.
"""

from __future__ import annotations

import os
import random
import select
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import nodes
from hotlines import Line, Lines, by_function, only, scripted
from jsspy.engines import ENGINES, choose_engine
from jsspy.engines.base import Engine
from jsspy.engines.ptrace import PtraceEngine
from jsspy.model.mode import Mode
from jsspy.model.profile import Profile
from jsspy.recorder import Recorder
from jsspy.target.process import Target

Key = TypeVar("Key")

COUNT = 1000
"""Samples of each profile that are compared."""

SLACK = 0.05
HOTTEST = 10
RATE_HZ = 797
"""About V8's own: 1000."""

SLICE_MS = 700
MOST_SLICES = 24
LEAST_SHARE = 0.01
_DRAWS = 5


class Distances(NamedTuple):
    """Total variation distances of V8's profiles, called A and B, and ours."""

    a_b: float
    ours_a: float
    ours_b: float

    @property
    def excess(self) -> float:
        """How much further ours is from V8's than they are from each other."""
        return max(self.ours_a, self.ours_b) - self.a_b

    def __str__(self) -> str:
        return f"V8-V8 {self.a_b:.3f}, ours-V8 {self.ours_a:.3f} {self.ours_b:.3f}"


class Comparison:
    """What V8 said before and after, and what we said, of one process."""

    def __init__(self, version: str) -> None:
        self.names_outer = names_outer(version)
        self.first, self.second, self.ours = Lines(), Lines(), Lines()
        self.js_frames = self.js_frames_named = self.samples = self.truncated = 0

    def add(self, profile: Profile, start_ns: int, end_ns: int) -> None:
        """Add the part of a profile of ours that is between two times."""
        self.ours.add_profile(profile, start_ns, end_ns, names_outer=self.names_outer)
        self.js_frames += profile.stats.js_frames
        self.js_frames_named += profile.stats.js_frames_named
        self.samples += len(profile)
        self.truncated += len(profile.truncated)

    @property
    def is_enough(self) -> bool:
        """Whether each of the three has `COUNT` samples of script functions."""
        return all(
            scripted(it.weights).total() >= COUNT for it in (self.first, self.second, self.ours)
        )

    def by_function(self) -> Distances:
        """Compare self time by function, all of them."""
        return _distances(*self._functions())

    def by_hot_function(self) -> Distances:
        """Compare the functions that have 1 % of V8's time; the rest is one row."""
        first, second, ours = self._functions()
        theirs = first + second
        hot = [key for key in theirs if theirs[key] >= LEAST_SHARE * theirs.total()]
        return _distances(*(only(table, hot) for table in (first, second, ours)))

    def by_hot_line(self) -> Distances:
        """Compare the hottest lines; the rest is one row."""
        tables = [scripted(it.weights) for it in (self.first, self.second, self.ours)]
        hottest = [line for line, _ in (tables[0] + tables[1]).most_common(HOTTEST)]
        return _distances(*(only(table, hottest) for table in tables))

    def _functions(self) -> tuple[Counter[Line], Counter[Line], Counter[Line]]:
        first, second, ours = self.first, self.second, self.ours
        return (
            scripted(by_function(first, second, ours)),
            scripted(by_function(second, first, ours)),
            scripted(by_function(ours, first, second)),
        )


def distance(left: Counter[Key], right: Counter[Key]) -> float:
    """Return the total variation distance of two tables: 0 is equal, 1 is disjoint."""
    left_total, right_total = left.total(), right.total()
    assert left_total, "no samples on the left"
    assert right_total, "no samples on the right"
    return 0.5 * sum(
        abs(left[key] / left_total - right[key] / right_total) for key in left.keys() | right.keys()
    )


def _distances(*tables: Counter[Line]) -> Distances:
    """Compare `COUNT` samples of each table; which ones those are is averaged over some draws."""
    sums = [0.0, 0.0, 0.0]
    for draw in range(_DRAWS):
        chooser = random.Random(draw)
        a, b, ours = (Counter(chooser.sample(sorted(table.elements()), COUNT)) for table in tables)
        for index, (left, right) in enumerate(((a, b), (ours, a), (ours, b))):
            sums[index] += distance(left, right) / _DRAWS
    return Distances(*sums)


def compare(target: nodes.NodeProcess, scratch: Path) -> Comparison:
    """Have V8 and us profile a program that repeats itself by `profiled.js`, in turn."""
    result = Comparison(target.version)
    _use_one_cpu(target.pid)
    for number, lines in zip(range(MOST_SLICES), _alternating(result), strict=False):
        add_v8_profile(target, scratch / f"{number}.cpuprofile", lines)
        if number % 2 and result.is_enough:
            break
        _record(target, result)
    return result


def _use_one_cpu(pid: int) -> None:
    """Keep all threads of a process on one CPU; new ones inherit it."""
    allowed = sorted(os.sched_getaffinity(pid))
    for task in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208 - names only
        with suppress(ProcessLookupError):
            os.sched_setaffinity(int(task), {allowed[pid % len(allowed)]})


def add_v8_profile(target: nodes.NodeProcess, path: Path, lines: Lines) -> None:
    """Have V8 profile a program that repeats itself by `profiled.js`."""
    _ask(target, f"profile {SLICE_MS} {path}")
    assert target.line() == "profiled"
    lines.add_cpuprofile(path)
    path.unlink()


def names_outer(version: str) -> bool:
    """Say whether V8's profiler tells inlined lines as if they were of the file around them."""
    return int(version.partition(".")[0]) < 26


def _alternating(comparison: Comparison) -> Iterator[Lines]:
    while True:
        yield comparison.first
        yield comparison.second


def _record(target: nodes.NodeProcess, result: Comparison) -> None:
    """Record turns of the program's work."""
    output = target.process.stdout
    assert output is not None

    def is_over() -> bool:
        return bool(select.select([output], [], [], 0)[0])

    with Recorder(_make_engine(target.pid)) as recorder:
        recorder.add(target.pid)
        statuses = recorder.run(should_stop=is_over)
        next(statuses)
        _ask(target, f"watch {SLICE_MS}")
        for _ in statuses:
            pass
    word, start, end = target.line().split()
    assert word == "watched"
    result.add(recorder.profile, int(start), int(end))


def _make_engine(pid: int) -> Engine:
    """Return the engine that JSSPY_ENGINE names, or the one that disturbs least."""
    name = os.environ.get("JSSPY_ENGINE")
    if name == "ptrace":
        return PtraceEngine(RATE_HZ, mode=Mode.WALL)
    target = Target.open(pid)
    try:
        engine = choose_engine([target], RATE_HZ, names=[name] if name else ENGINES).engine
    finally:
        target.close()
    assert engine is not None
    return engine


def _ask(target: nodes.NodeProcess, command: str) -> None:
    assert target.process.stdin is not None
    target.process.stdin.write(command + "\n")
    target.process.stdin.flush()
