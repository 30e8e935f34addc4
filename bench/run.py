"""Measure what jsspy costs, and compare with budget.toml.

    python bench/run.py [--node 20.20.2 --node 24.15.0] [setup pause slowdown resolve]

Every figure is measured in this run. Slowdown is measured inside one process, sampling on and off
in turn, so that it does not depend on how two runs of a program differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from jsspy.engines.ptrace import PtraceEngine
from jsspy.formats import load_profile
from jsspy.model.sample import RawSample
from jsspy.recorder import Recorder
from jsspy.resolve import Resolver
from jsspy.target.process import Target
from jsspy.v8.isolates import find_threads
from jsspy.v8.metadata import load_layout
from jsspy.v8.plan import make_plan

HERE = Path(__file__).resolve().parent
BUDGET = tomllib.loads((HERE / "budget.toml").read_text(encoding="utf-8"))
NODES = Path(os.environ.get("JSSPY_NODES", HERE.parent / ".cache" / "nodes"))

RATE_HZ = 99
PERIOD_NS = 10**9 // RATE_HZ
RECORD_S = 10
WINDOW_S = 0.25
WINDOWS = 60
SAMPLES = 300

failures: list[str] = []


def report(name: str, value: float, unit: str, limit: float, *, at_least: bool = False) -> None:
    """Print one figure beside its budget."""
    good = value >= limit if at_least else value <= limit
    if not good:
        failures.append(name)
    relation = ">=" if at_least else "<="
    verdict = "ok" if good else "OVER"
    print(f"  {name:34} {value:12.4g} {unit:10} {relation} {limit:g}  {verdict}", flush=True)


@contextmanager
def target(version: str) -> Iterator[tuple[int, Path]]:
    """Run bench/targets/work.js; yield its pid and the file with the times of its work items."""
    with tempfile.TemporaryDirectory() as scratch:
        times = Path(scratch) / "times"
        node = NODES / f"v{version}" / "bin" / "node"
        process = subprocess.Popen(
            [str(node), str(HERE / "targets" / "work.js"), str(times)], stdout=subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid, times
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


class Run:
    """One run of the command line: how long it took and what it used."""

    def __init__(self, arguments: list[str], cache: str) -> None:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        self.start_ns = time.monotonic_ns()
        process = subprocess.Popen(
            [sys.executable, "-m", "jsspy", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        self.output = process.stdout.read()
        errors = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        self.wall_s = (time.monotonic_ns() - self.start_ns) / 1e9
        process.returncode = os.waitstatus_to_exitcode(status)
        process.stdout.close()
        process.stderr.close()
        if process.returncode:
            raise SystemExit(errors.decode())
        self.cpu_s = usage.ru_utime + usage.ru_stime
        self.rss_mb = usage.ru_maxrss / 1024


def cold_and_warm(arguments: list[str], cold: int, warm: int) -> tuple[list[Run], list[Run]]:
    """Run the command line with an empty cache, `cold` times, and with a filled one."""
    colds = []
    for _ in range(cold):
        with tempfile.TemporaryDirectory() as cache:
            colds.append(Run(arguments, cache))
    with tempfile.TemporaryDirectory() as cache:
        Run(["dump", "--pid", arguments[arguments.index("--pid") + 1]], cache)
        warms = [Run(arguments, cache) for _ in range(warm)]
    return colds, warms


def bench_setup(version: str) -> None:
    """From command to first sample and to finished file."""
    budget = BUDGET["setup"]
    with target(version) as (pid, _), tempfile.TemporaryDirectory() as scratch:
        colds, warms = cold_and_warm(["dump", "--pid", str(pid)], 3, 9)
        report("dump, cold", median(r.wall_s for r in colds), "s", budget["dump_cold_s"])
        report("dump, warm", median(r.wall_s for r in warms), "s", budget["dump_warm_s"])

        out = Path(scratch) / "out.jsspy"
        short = ["record", "--pid", str(pid), "-d", "0.5", "-o", str(out)]
        firsts = {}
        for name, index in (("cold", 0), ("warm", 1)):
            seconds = []
            for _ in range(3):
                run = cold_and_warm(short, 1 - index, index)[index][0]
                first_ns = load_profile(out).time_ns[0]
                seconds.append((first_ns - run.start_ns) / 1e9)
            firsts[name] = median(seconds)
        report("first sample, cold", firsts["cold"], "s", budget["first_sample_cold_s"])
        report("first sample, warm", firsts["warm"], "s", budget["first_sample_warm_s"])

        html = Path(scratch) / "out.html"
        long = ["record", "--pid", str(pid), "-d", str(RECORD_S), "-o", str(html)]
        colds, warms = cold_and_warm(long, 1, 2)
        extra = [r.wall_s - RECORD_S for r in (*colds, *warms)]
        report("record, cold, beyond its duration", extra[0], "s", budget["record_extra_cold_s"])
        report(
            "record, warm, beyond its duration", min(extra[1:]), "s", budget["record_extra_warm_s"]
        )
        report("record, peak RSS, cold", colds[0].rss_mb, "MB", budget["peak_rss_mb"])
        report("record, peak RSS, warm", warms[0].rss_mb, "MB", budget["peak_rss_mb"])
        report("record, CPU share", warms[0].cpu_s / RECORD_S, "cores", budget["cpu_share"])


def bench_pause(version: str) -> None:
    """How long a thread stands still for one sample."""
    budget = BUDGET["ptrace"]
    with (
        target(version) as (pid, _),
        Recorder(PtraceEngine(RATE_HZ)) as recorder,
    ):
        recorder.add(pid)
        for _ in recorder.run(duration_ns=10 * 10**9):
            pass
    pauses = recorder.profile.stats.pauses
    frames = sum(1 for _ in recorder.profile.iter_frames(recorder.profile.stack[-1]))
    print(
        f"  {pauses.count} pauses, {frames} frames in the last stack, "
        f"max {pauses.max_ns / 1e3:.0f} us"
    )
    report("pause, p50", pauses.p50_ns / 1e3, "us", budget["pause_p50_us"])
    report("pause, p99", pauses.p99_ns / 1e3, "us", budget["pause_p99_us"])


def bench_slowdown(version: str) -> None:
    """Speed of fixed work under sampling, relative to plain; and of a switch that does nothing."""
    with target(version) as (pid, times):
        on: list[tuple[int, int]] = []
        off: list[tuple[int, int]] = []
        control: list[tuple[int, int]] = []
        for _ in range(WINDOWS):
            with Recorder(PtraceEngine(RATE_HZ)) as recorder:
                recorder.add(pid)
                start = time.monotonic_ns()
                for _ in recorder.run(duration_ns=int(WINDOW_S * 1e9)):
                    pass
                on.append((start, time.monotonic_ns()))
            for windows in (off, control):
                start = time.monotonic_ns()
                time.sleep(WINDOW_S)
                windows.append((start, time.monotonic_ns()))
        items = [tuple(map(int, line.split())) for line in times.read_text().splitlines()]
    plain = _trimmed_mean(items, off)
    report(
        "speed of a switch that does nothing",
        plain / _trimmed_mean(items, control),
        "ratio",
        0.0,
        at_least=True,
    )
    report(
        "speed at 99 Hz",
        plain / _trimmed_mean(items, on),
        "ratio",
        BUDGET["ptrace"]["speed_at_99_hz"],
        at_least=True,
    )


def _trimmed_mean(items: list[tuple[int, ...]], windows: list[tuple[int, int]]) -> float:
    """Mean duration of the items that lie within `windows`, without the slowest 5 %."""
    durations = []
    index = 0
    for start, duration in items:
        while index < len(windows) and windows[index][1] < start + duration:
            index += 1
        if index == len(windows):
            break
        if windows[index][0] <= start:
            durations.append(duration)
    durations.sort()
    kept = durations[: len(durations) * 95 // 100]
    return sum(kept) / len(kept)


def bench_resolve(version: str) -> None:
    """CPU time from captured bytes to names."""
    budget = BUDGET["resolve"]
    with target(version) as (pid, _):
        process = Target.open(pid)
        v8 = process.find_v8()
        assert v8 is not None
        layout = load_layout(v8.elf)
        captured: list[RawSample] = []
        with PtraceEngine(RATE_HZ * 4) as engine:
            engine.set_target(process, make_plan(layout), find_threads(process, v8, layout))
            for batch in engine.samples():
                captured += batch
                if len(captured) >= SAMPLES:
                    break

        # Cold is a process that was never looked at, not an interpreter that never ran our code.
        _timed(Resolver(process, v8, layout), captured[:1])
        colds = [_timed(Resolver(process, v8, layout), [raw]) for raw in captured[:9]]
        frames, cold_s = min(colds, key=lambda timed: timed[1] / timed[0])
        resolver = Resolver(process, v8, layout)
        _timed(resolver, captured)
        warm_frames, warm_s = _timed(resolver, captured)
        process.close()
    report("warm, a 30-frame stack", warm_s / warm_frames * 30 * 1e6, "us", budget["warm_stack_us"])
    report("cold", frames / cold_s, "frames/s", budget["cold_frames_per_s"], at_least=True)
    report("warm", warm_frames / warm_s, "frames/s", budget["warm_frames_per_s"], at_least=True)


def _timed(resolver: Resolver, captured: list[RawSample]) -> tuple[int, float]:
    frames = 0
    start = time.process_time()
    for raw in captured:
        sample = resolver.resolve(raw)
        frames += len(sample.stack.frames) if hasattr(sample, "stack") else 0
    return frames, time.process_time() - start


BENCHES: dict[str, Callable[[str], None]] = {
    "setup": bench_setup,
    "pause": bench_pause,
    "slowdown": bench_slowdown,
    "resolve": bench_resolve,
}


def main() -> None:
    """Run the benches named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--node", action="append", help="node version; repeatable")
    parser.add_argument("bench", nargs="*", choices=[*BENCHES, []], help="default: all")
    options = parser.parse_args()
    for version in options.node or ["20.20.2", "24.15.0"]:
        for name in options.bench or BENCHES:
            print(f"{name}, node {version}", flush=True)
            BENCHES[name](version)
    print(json.dumps({"over_budget": failures}))
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
