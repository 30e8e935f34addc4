"""Profile promfiler's demo for a long time, beside a twin that nobody profiles.

    python bench/soak.py --minutes 30 [--node 22.23.3] [--output soak.tsv]

Both twins get the same requests. Printed is, every few seconds, how much memory each of them and
the exporter hold, how long a scrape takes and how many series it has. At the end the series are
judged: nothing may grow once it is warm. Exits with 1 if something does.
"""

from __future__ import annotations

import argparse
import http.client
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import IO, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

HERE = Path(__file__).resolve().parent
NODES = Path(os.environ.get("JSSPY_NODES", HERE.parent / ".cache" / "nodes"))
MODULES = Path(os.environ.get("JSSPY_CONSUMERS", HERE.parent / ".cache" / "consumers"))

MAX_EXPORTER_MB = 150.0
MAX_SCRAPE_S = 0.2
MAX_STACKS = 5000
GROWTH = 1.06
"""The median of the last third over that of the middle third."""
NOISE_MB = 4.0
_REQUEST_S = 60.0


class Row(NamedTuple):
    """How it stands at one moment; memory is resident, in MB."""

    second: float
    target_mb: float
    twin_mb: float
    exporter_mb: float
    sampler_mb: float
    """Part of `exporter_mb`."""
    target_cpu_s: float
    twin_cpu_s: float
    exporter_cpu_s: float
    scrape_s: float
    stacks: int
    series: int
    samples: float


def resident_mb(pids: Sequence[int]) -> float:
    """Return the resident memory of processes."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(pids: Sequence[int]) -> float:
    """Return the CPU time that processes used so far."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for path in lists for word in path.read_text("ascii").split()]


@contextmanager
def started(*command: str, env: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Run a command until the block ends."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def line_of(stream: IO[str] | None, start: str) -> str:
    """Return the last word of the first line that begins so."""
    assert stream is not None
    for line in stream:
        if line.startswith(start):
            return line.split()[-1]
    raise SystemExit(f"it ended before it said '{start}'")


def pass_on(stream: IO[str]) -> None:
    """Show what else is said."""
    for line in stream:
        print(line, end="", file=sys.stderr, flush=True)


def load(port: int, per_second: float, stop: threading.Event) -> None:
    """Ask a server for pages, so many a second."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_REQUEST_S)
    number = 0
    due = time.monotonic()
    while not stop.wait(max(0.0, due - time.monotonic())):
        # A server that is late gets what it missed at most a second later.
        due = max(due + 1 / per_second, time.monotonic() - 1)
        number += 1
        connection.request("GET", "/paths" if number % 2 else "/")
        connection.getresponse().read()
    connection.close()


def scrape(url: str) -> tuple[float, dict[str, float]]:
    """Return how long a scrape took, and its series."""
    begin = time.monotonic()
    with urllib.request.urlopen(url, timeout=_REQUEST_S) as answer:  # noqa: S310 - our own
        text = answer.read().decode()
    took = time.monotonic() - begin
    series: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            assert list(sample.labels) == ["signature"], sample
            series[sample.labels["signature"]] = sample.value
    return took, series


def judge(rows: Sequence[Row]) -> list[str]:
    """Return what is wrong with the second and the last third of a run."""
    third = len(rows) // 3
    middle, last = rows[third : 2 * third], rows[2 * third :]
    wrong = []
    twin_growth = 1.0
    for name in ("twin_mb", "target_mb", "exporter_mb"):
        before = median(getattr(row, name) for row in middle)
        after = median(getattr(row, name) for row in last)
        # While the application itself still grows, the profiled one may grow as its twin does.
        allowed = max(GROWTH, twin_growth) if name == "target_mb" else GROWTH
        is_flat = after <= allowed * before + NOISE_MB
        print(f"{name:12} {before:8.1f} MB, then {after:8.1f} MB  {'flat' if is_flat else 'GROWS'}")
        if name == "twin_mb":
            twin_growth = after / before
        elif not is_flat:
            wrong.append(f"{name} grows")
    most = max(row.exporter_mb for row in rows)
    print(f"exporter: {most:.1f} MB at most (<= {MAX_EXPORTER_MB:g})")
    if most > MAX_EXPORTER_MB:
        wrong.append("the exporter is too large")
    scrapes = sorted(row.scrape_s for row in rows)
    typical = median(scrapes)
    print(
        f"scrape: median {1000 * typical:.0f} ms (<= {1000 * MAX_SCRAPE_S:g}), 95 % within "
        f"{1000 * scrapes[int(0.95 * len(scrapes))]:.0f} ms, at most {1000 * scrapes[-1]:.0f} ms"
    )
    if typical > MAX_SCRAPE_S:
        wrong.append("scrapes are slow")
    stacks = max(row.stacks for row in rows)
    print(f"stacks: {stacks} at most (<= {MAX_STACKS} and the rest)")
    if stacks > MAX_STACKS + 1:
        wrong.append("stacks are not bounded")
    if rows[-1].samples <= rows[third].samples:
        wrong.append("nothing is sampled any more")
    if any(after.samples < before.samples for before, after in pairwise(rows)):
        wrong.append("the sum of all samples fell")
    seconds = rows[-1].second - rows[0].second
    for name in ("target_cpu_s", "twin_cpu_s", "exporter_cpu_s"):
        share = (getattr(rows[-1], name) - getattr(rows[0], name)) / seconds
        print(f"{name:14} {100 * share:6.2f} % of a core")
    return wrong


def run(arguments: argparse.Namespace) -> list[Row]:
    """Run both twins, and look at them again and again."""
    node = NODES / f"v{arguments.node}" / "bin" / "node"
    env = os.environ | {
        "NODE_PATH": str(MODULES / "node_modules"),
        "PATH": f"{node.parent}{os.pathsep}{os.environ['PATH']}",
        "PORT": "0",
    }
    app = str(HERE / "targets" / "demo.js")
    rows: list[Row] = []
    with ExitStack() as stack:
        promfiler = (sys.executable, "-m", "jsspy", "promfiler", "-h", "127.0.0.1", "-p", "0")
        profiled = stack.enter_context(started(*promfiler, *arguments.option, app, env=env))
        twin = stack.enter_context(started(str(node), app, env=env))
        ports = [int(line_of(one.stdout, "ready on port")) for one in (profiled, twin)]
        url = line_of(profiled.stderr, "Serving ")
        threading.Thread(target=pass_on, args=(profiled.stderr,), daemon=True).start()
        stop = threading.Event()
        stack.callback(stop.set)
        for port in ports:
            threading.Thread(target=load, args=(port, arguments.load, stop), daemon=True).start()
        (sampler, *_) = children(profiled.pid)
        (target, *_) = children(sampler)
        begin = time.monotonic()
        print("\t".join(Row._fields), file=arguments.output, flush=True)
        while (second := time.monotonic() - begin) < 60 * arguments.minutes:
            took, series = scrape(url)
            exporter = (profiled.pid, sampler)
            row = Row(
                second,
                *(resident_mb([target]), resident_mb([twin.pid])),
                *(resident_mb(exporter), resident_mb([sampler])),
                *(cpu_s([target]), cpu_s([twin.pid]), cpu_s(exporter)),
                took,
                sum(1 for value in series.values() if value),
                len(series),
                sum(series.values()),
            )
            rows.append(row)
            print("\t".join(f"{value:.6g}" for value in row), file=arguments.output, flush=True)
            time.sleep(arguments.step)
    return rows


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--node", default="22.23.3")
    parser.add_argument("--step", type=float, default=5.0, help="seconds between two looks")
    parser.add_argument("--load", type=float, default=12.0, help="requests a second to each")
    parser.add_argument("--output", type=argparse.FileType("w"), default=sys.stdout)
    parser.add_argument("option", nargs="*", help="of jsspy promfiler, after --")
    wrong = judge(run(parser.parse_args()))
    for what in wrong:
        print(f"FAILED: {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
