"""Measure what jsspy costs, and compare with budget.toml.

    python bench/run.py [--node 20.20.2 --node 24.15.0] [setup pause resolve beside]

Every figure is measured in this run. `beside` is what a program loses under jsspy and under other
profilers; see beside.py. `--cycles 2` makes it short and rough, `--write README.md` puts its table
between the marks of that file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import beside
from report import BUDGET, failures, report
from work import working

from jsspy.engines.ptrace import PtraceEngine
from jsspy.formats import load_profile
from jsspy.model.sample import RawSample
from jsspy.recorder import Recorder
from jsspy.resolve import Resolver
from jsspy.target.process import Target
from jsspy.v8.isolates import find_threads
from jsspy.v8.metadata import load_layout
from jsspy.v8.plan import make_plan

RATE_HZ = 99
PERIOD_NS = 10**9 // RATE_HZ
RECORD_S = 10
SAMPLES = 300
BEGIN, END = "<!-- make bench -->", "<!-- /make bench -->"


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
    with working(version) as work, tempfile.TemporaryDirectory() as scratch:
        colds, warms = cold_and_warm(["dump", "--pid", str(work.pid)], 3, 9)
        report("dump, cold", median(r.wall_s for r in colds), "s", budget["dump_cold_s"])
        report("dump, warm", median(r.wall_s for r in warms), "s", budget["dump_warm_s"])

        out = Path(scratch) / "out.jsspy"
        short = ["record", "--pid", str(work.pid), "-d", "0.5", "-o", str(out)]
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
        long = ["record", "--pid", str(work.pid), "-d", str(RECORD_S), "-o", str(html)]
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
        working(version) as work,
        Recorder(PtraceEngine(RATE_HZ)) as recorder,
    ):
        recorder.add(work.pid)
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


def bench_resolve(version: str) -> None:
    """CPU time from captured bytes to names."""
    budget = BUDGET["resolve"]
    with working(version) as work:
        process = Target.open(work.pid)
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


def bench_beside(length: beside.Length, rows: dict[str, list[beside.Row]], version: str) -> None:
    """What a program loses under jsspy, and under others; adds what was measured to `rows`."""
    rows[version] = beside.measure(version, length)
    beside.check(rows[version])
    for engine in ("ebpf", "perf"):
        share = beside.without_javascript(version, engine, length.native_samples)
        limit = BUDGET["beside"][f"{engine}_without_javascript"]
        report(f"{engine}, samples without JavaScript", share, "of 1", limit)


BENCHES: dict[str, Callable[[str], None]] = {
    "setup": bench_setup,
    "pause": bench_pause,
    "resolve": bench_resolve,
}


def write_between_marks(path: Path, text: str) -> None:
    """Replace what a Markdown file has between the two marks."""
    whole = path.read_text(encoding="utf-8")
    head, begin, rest = whole.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not end:
        raise SystemExit(f"{path} has no marks {BEGIN} and {END}")
    path.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")


def main() -> None:
    """Run the benches named on the command line, or all."""
    length = beside.Length()
    rows: dict[str, list[beside.Row]] = {}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--node", action="append", help="node version; repeatable")
    parser.add_argument("--cycles", type=int, default=length.cycles, help="of beside")
    parser.add_argument("--window", type=float, default=length.window_s, help="of beside, seconds")
    parser.add_argument("--write", type=Path, help="Markdown file that shows the table")
    names = [*BENCHES, "beside"]
    parser.add_argument("bench", nargs="*", choices=[*names, []], help="default: all")
    options = parser.parse_args()
    length = replace(length, cycles=options.cycles, window_s=options.window)
    benches = BENCHES | {"beside": partial(bench_beside, length, rows)}
    for version in options.node or ["20.20.2", "24.15.0"]:
        for name in options.bench or names:
            print(f"{name}, node {version}", flush=True)
            benches[name](version)
    if rows:
        text = beside.table(rows)
        print(text)
        if options.write:
            write_between_marks(options.write, text)
    print(json.dumps({"over_budget": failures}))
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()
