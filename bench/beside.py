"""What a program under a profiler loses, for jsspy beside the others, all in one run.

A profiler that can be switched is switched on and off in turn, inside one process that does fixed
work; the ratio of each stretch to the plain ones around it is one figure. Those that are flags of
node run in processes of their own, of which one at a time is let run. A figure is the time that a
piece of work took, less what it waited for a CPU; *wall* is with that. Given are the mean of the
middle 60 % of all stretches and the interval in which 95 % of such means of resampled stretches
lie. Stretches are short, as what a machine does beside drifts: a pair of them, near each other, has
it in common. jsspy's own CPU time is taken in longer ones, in which nothing is switched.

The floor is an event of the same clock with an empty program: the price of the interrupt.
"""

from __future__ import annotations

import math
import os
import random
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import NamedTuple, Protocol

from report import BUDGET, report
from work import MIXED, Window, Work, mean_within, working

from jsspy.engines import ENGINES
from jsspy.engines.inspector import Inspector, open_inspector
from jsspy.linux import bpf, perf
from jsspy.model.stack import FrameKind
from jsspy.recorder import Recorder
from jsspy.target.process import Target
from jsspy.v8.isolates import find_threads
from jsspy.v8.metadata import load_layout

HERE = Path(__file__).resolve().parent

RATES_HZ = (99, 999)
SETTLE_S = 0.05
"""Not measured after a switch: caches fill, a profiler gets into step."""
CONTROL = "no-op switch"
FLOOR = "floor: an empty program"
PERF_RECORD = "perf record -g"
PLAIN = "node"
FLAGS: dict[str, tuple[str, ...]] = {
    "node, another process": (),
    "node --cpu-prof": ("--cpu-prof",),
    "node --prof": ("--prof",),
    "node --perf-basic-prof": ("--perf-basic-prof",),
}
RATE_OF_FLAG = {"node --cpu-prof": "1 ms", "node --prof": "1 ms"}
GENERATIONS = 3
"""Times that processes with flags are started: where code and data come to lie differs."""
RESAMPLES = 1000
NATIVE_RATE_HZ = 999


@dataclass(frozen=True)
class Length:
    """How long to measure."""

    window_s: float = 0.25
    cycles: int = 40
    """On-stretches of each profiler."""
    steady_s: float = 5
    """For the CPU time of jsspy itself."""
    flag_cycles: int = 12
    """Stretches of each process with a flag, per generation."""
    native_samples: int = 5000
    """Of the mixed native load, per engine."""


class Switch(Protocol):
    """A profiler of one process that can be turned on and off."""

    def on(self) -> None: ...

    def off(self) -> None: ...


@dataclass
class Row:
    """What was measured of one profiler."""

    name: str
    rate: str
    ratios: list[float] = field(default_factory=list)
    walls: list[float] = field(default_factory=list)
    own: float | None = None
    """CPU time of jsspy itself, per CPU time of the program: of a core, if that has one."""
    samples: int = 0
    """That jsspy took and named meanwhile."""
    in_target_ns: float = 0.0
    """Per sample: time that the thread was stopped, or that the program in the kernel ran."""


class Interval(NamedTuple):
    """A figure, and where 95 % of what resampled stretches give lie."""

    low: float
    middle: float
    high: float


class Nothing:
    """A switch that does nothing."""

    def on(self) -> None: ...

    def off(self) -> None: ...


class Floor:
    """The clock of each JavaScript thread, with an empty program."""

    def __init__(self, pid: int, rate_hz: int) -> None:
        target = Target.open(pid)
        v8 = target.find_v8()
        assert v8 is not None
        self._tids = [plan.tid for plan in find_threads(target, v8, load_layout(v8.elf))]
        target.close()
        self._period_ns = 10**9 // rate_hz
        # r0 = 0; exit
        code = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 0, 0x95, 0, 0, 0)
        program = bpf.Code(code, (0,))
        self._program = bpf.Program(bpf.ProgramType.PERF_EVENT, program, "bench_floor")
        self._open: list[tuple[int, bpf.Link]] = []

    def on(self) -> None:
        for tid in self._tids:
            event = perf.open_clock(tid, self._period_ns, kernel=True, enabled=False)
            self._open.append((event, bpf.Link(self._program, event, 0)))
            perf.enable(event)

    def off(self) -> None:
        for event, link in self._open:
            link.close()
            os.close(event)
        self._open.clear()

    def close(self) -> None:
        self.off()
        self._program.close()


class Sampler:
    """jsspy, in a process of its own; see sampler.py."""

    def __init__(self, pid: int, rate_hz: int, engine: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "sampler.py"), engine, str(rate_hz), str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid
        self.samples = 0
        """Taken and named, when it was switched last."""
        self.in_target_ns = 0
        """Of the program's time, as far as the engine knows."""
        self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the sampler ended with {self._process.wait()}")
        self.samples, self.in_target_ns = map(int, line.split())

    def _switch(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b".")
        self._process.stdin.flush()
        self._answer()

    on = off = _switch

    def close(self) -> None:
        self._process.communicate()


class Devtools:
    """V8's own profiler, over the inspector, at its default of 1 ms."""

    def __init__(self, pid: int) -> None:
        self._url = open_inspector(pid).url
        self._inspector: Inspector | None = None

    def on(self) -> None:
        self._inspector = Inspector(self._url)
        self._inspector.start(1000)

    def off(self) -> None:
        if self._inspector is not None:
            self._inspector.stop()
            self._inspector.close()
            self._inspector = None

    close = off


class PerfRecord:
    """`perf record -g`, switched through its control descriptors."""

    def __init__(self, pid: int, rate_hz: int, scratch: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()
        self._control, self._acknowledged = ours[1], theirs[0]
        self._process = subprocess.Popen(
            [
                *("perf", "record", "-q", "-e", "cpu-clock", "-F", str(rate_hz), "-g"),
                *("-p", str(pid), "-o", str(scratch / f"perf.data.{rate_hz}")),
                *("-D", "-1", "--control", f"fd:{ours[0]},{theirs[1]}"),
            ],
            pass_fds=(ours[0], theirs[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])

    def _tell(self, command: bytes) -> None:
        os.write(self._control, command + b"\n")
        if not os.read(self._acknowledged, 16):
            raise RuntimeError(f"perf record ended with {self._process.wait()}")

    def on(self) -> None:
        self._tell(b"enable")

    def off(self) -> None:
        self._tell(b"disable")

    def close(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        os.close(self._control)
        os.close(self._acknowledged)


def run_ns(pid: int) -> int:
    """Return the CPU time that the main thread of a process used: none of them has others."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0])


def pause(seconds: float) -> Window:
    """Return the stretch of time that passes, less its beginning."""
    time.sleep(SETTLE_S)
    start = time.monotonic_ns()
    time.sleep(seconds)
    return Window(start, time.monotonic_ns())


def switched(work: Work, rows: list[tuple[Row, Switch]], length: Length) -> None:
    """Turn each profiler on and off, in turn, and measure into its row."""
    on: list[tuple[Row, Window]] = []
    off = [pause(length.window_s)]
    draw = random.Random(1)
    for _ in range(length.cycles):
        for row, switch in draw.sample(rows, len(rows)):
            switch.on()
            window = pause(length.window_s)
            switch.off()
            on.append((row, window))
            off.append(pause(length.window_s))
    items = work.items()
    for index, (row, window) in enumerate(on):
        for values, wall in ((row.ratios, False), (row.walls, True)):
            plain = [mean_within(items, it, wall=wall) for it in off[index : index + 2]]
            keep(values, mean_within(items, window, wall=wall) * 2 / sum(plain))


def steady(work: Work, row: Row, sampler: Sampler, seconds: float) -> None:
    """Leave jsspy on for a while, and measure what it costs itself."""
    sampler.on()
    samples, in_target_ns = sampler.samples, sampler.in_target_ns
    time.sleep(SETTLE_S)
    before = run_ns(sampler.pid), run_ns(work.pid)
    time.sleep(seconds)
    after = run_ns(sampler.pid), run_ns(work.pid)
    sampler.off()
    row.own = (after[0] - before[0]) / (after[1] - before[1])
    row.samples = sampler.samples - samples
    row.in_target_ns = (sampler.in_target_ns - in_target_ns) / max(row.samples, 1)


def keep(values: list[float], value: float) -> None:
    """Add a figure, unless a stretch was so crowded that no item was done in it."""
    if math.isfinite(value):
        values.append(value)


def flagged(version: str, length: Length) -> list[Row]:
    """Measure processes with a flag against one without; only one at a time is let run."""
    rows = {name: Row(name, RATE_OF_FLAG.get(name, "")) for name in FLAGS}
    for generation in range(GENERATIONS):
        with ExitStack() as stack:
            works: dict[str, Work] = {}
            for name, flags in {PLAIN: (), **FLAGS}.items():
                works[name] = stack.enter_context(working(version, flags=flags))
                os.kill(works[name].pid, signal.SIGSTOP)
            windows: dict[str, list[Window]] = {name: [] for name in works}
            draw = random.Random(generation)
            for _ in range(length.flag_cycles):
                for name in draw.sample(sorted(works), len(works)):
                    os.kill(works[name].pid, signal.SIGCONT)
                    windows[name].append(pause(length.window_s))
                    os.kill(works[name].pid, signal.SIGSTOP)
            items = {name: work.items() for name, work in works.items()}
        for name, row in rows.items():
            for values, wall in ((row.ratios, False), (row.walls, True)):
                for mine, plain in zip(windows[name], windows[PLAIN], strict=True):
                    base = mean_within(items[PLAIN], plain, wall=wall)
                    keep(values, mean_within(items[name], mine, wall=wall) / base)
    return list(rows.values())


def without_javascript(version: str, engine: str, samples: int) -> float:
    """Return the share of the main thread's samples on mixed native work without a JS frame."""
    with (
        working(version, program=MIXED, arguments=("sha512",)) as work,
        Recorder(ENGINES[engine](NATIVE_RATE_HZ)) as recorder,
    ):
        recorder.add(work.pid)
        for status in recorder.run(duration_ns=10**9 * samples // NATIVE_RATE_HZ * 2):
            if status.samples >= samples:
                break
    profile = recorder.profile
    mains = [
        row
        for row, thread in zip(profile.stack, profile.thread, strict=True)
        if profile.threads[thread].tid == work.pid
    ]
    bare = sum(all(f.kind is not FrameKind.JS for f in profile.iter_frames(row)) for row in mains)
    return bare / len(mains)


def measure(version: str, length: Length) -> list[Row]:
    """Measure everything under one version of node."""
    with ExitStack() as stack:
        work = stack.enter_context(working(version))
        rows: list[tuple[Row, Switch]] = [(Row(CONTROL, ""), Nothing())]
        for rate in RATES_HZ:
            floor = stack.enter_context(closing(Floor(work.pid, rate)))
            rows.append((Row(FLOOR, f"{rate} Hz"), floor))
            for engine in ENGINES:
                sampler = stack.enter_context(closing(Sampler(work.pid, rate, engine)))
                rows.append((Row(f"jsspy --engine {engine}", f"{rate} Hz"), sampler))
        switched(work, rows, length)
        for row, switch in rows:
            if isinstance(switch, Sampler):
                steady(work, row, switch, length.steady_s)
    found = [row for row, _ in rows]
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work = stack.enter_context(working(version, flags=("--perf-basic-prof",)))
        rows = []
        for rate in RATES_HZ:
            recorder = stack.enter_context(closing(PerfRecord(work.pid, rate, scratch)))
            rows.append((Row(PERF_RECORD, f"{rate} Hz"), recorder))
        switched(work, rows, length)
    found += [row for row, _ in rows]
    with ExitStack() as stack:
        work = stack.enter_context(working(version, flags=("--inspect-port=0",)))
        devtools = stack.enter_context(closing(Devtools(work.pid)))
        rows = [(Row("inspector, Profiler.start", "1 ms"), devtools)]
        switched(work, rows, length)
    found += [row for row, _ in rows]
    return found + flagged(version, length)


def check(rows: Sequence[Row]) -> None:
    """Report the figures that have a budget."""
    budget = BUDGET["beside"]
    by_name = {(row.name, row.rate): row for row in rows}
    for engine in ("ebpf", "perf", "ptrace"):
        for rate in RATES_HZ:
            row = by_name[f"jsspy --engine {engine}", f"{rate} Hz"]
            for other in (CONTROL, FLOOR, PERF_RECORD):
                word = re.match(r"[\w-]+", other)
                assert word is not None
                limit = budget.get(f"{engine}_{rate}_beyond_{word[0]}")
                if limit is not None:
                    base = by_name[other, "" if other == CONTROL else f"{rate} Hz"]
                    low, middle, high = difference(row.ratios, base.ratios)
                    report(
                        f"{engine} at {rate} Hz beyond {other}",
                        middle,
                        "ratio",
                        limit,
                        note=f"   ({low:.4f} to {high:.4f})",
                    )
            assert row.own is not None
            print(
                f"  {row.name} at {rate} Hz: {row.samples} samples named, "
                f"{row.in_target_ns / 1e3:.1f} us of the program's time each"
            )
            if (limit := budget.get(f"{engine}_{rate}_cpu")) is not None:
                report(f"{engine} at {rate} Hz, own CPU", row.own, "cores", limit)


def middle_mean(values: Sequence[float]) -> float:
    """Return the mean of the middle 60 %: steadier than a median, and as blind to outliers here."""
    left_out = len(values) // 5
    return mean(sorted(values)[left_out : len(values) - left_out])


def difference(values: Sequence[float], base: Sequence[float]) -> Interval:
    """Return by how much the middle of `values` is above that of `base`."""
    draw = random.Random(1)

    def drawn(of: Sequence[float]) -> float:
        return middle_mean(draw.choices(of, k=len(of)))

    found = sorted(drawn(values) - drawn(base) for _ in range(RESAMPLES))
    middle = middle_mean(values) - middle_mean(base)
    return Interval(found[RESAMPLES // 40], middle, found[-RESAMPLES // 40])


def table(rows_of: Mapping[str, Sequence[Row]]) -> str:
    """Return the Markdown of what was measured: versions side by side."""
    head = "".join(f" node {version}, 95 % interval | wall | own CPU |" for version in rows_of)
    lines = [f"| profiler | rate |{head}", "|---|---|" + "---|" * 3 * len(rows_of)]
    for rows in zip(*rows_of.values(), strict=True):
        line = f"| {rows[0].name} | {rows[0].rate} |"
        for row in rows:
            low, middle, high = difference(row.ratios, (0.0,))
            own = "" if row.own is None else f"{100 * row.own:.1f} %"
            line += (
                f" {middle:.3f} ({low:.3f} to {high:.3f}) | {middle_mean(row.walls):.3f} | {own} |"
            )
        lines.append(line)
    return "\n".join(lines)
