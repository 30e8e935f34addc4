"""Record many node processes at once, and watch what the recorder takes.

    python bench/fleet.py [--count 50] [--minutes 5] [--rate 49] [--engine auto] [--churn 20]

Runs `jsspy record --all` beside `--count` processes that sleep most of the time and work in bursts;
every `--churn` seconds one of them ends and another one begins. Printed is, every ten seconds, how
much memory and CPU time jsspy has taken, and at the end the account of the recording. Exits with 1
if memory grows once all processes are known, or if samples and losses do not add up.
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
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
NODES = Path(os.environ.get("JSSPY_NODES", HERE.parent / ".cache" / "nodes"))

GROWTH = 1.06
"""The median of the last third over that of the middle third."""
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LOOK_S = 10.0

PROGRAM = """
let sink = 0;
function burn(n) { let s = 0; for (let i = 0; i < n; i++) s += Math.sqrt(i ^ s); return s; }
function handle(n) { return Array.from({ length: n }, (_, i) => JSON.stringify({ i })); }
function burst() {
  const end = Date.now() + 20;
  while (Date.now() < end) sink += burn(2000) + handle(50).length;
  setTimeout(burst, 1000 + Math.random() * 2000);
}
setTimeout(burst, Math.random() * 2000);
console.log('ready');
"""


def start(node: Path, program: Path) -> subprocess.Popen[bytes]:
    """Start a process that works in bursts."""
    process = subprocess.Popen([node, program], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def end_all(processes: list[subprocess.Popen[bytes]]) -> None:
    """Kill them."""
    for process in processes:
        process.kill()


def family(pid: int) -> list[int]:
    """Return a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *map(int, children)]


def usage(pids: list[int]) -> tuple[float, float]:
    """Return the resident memory (MB) and the CPU time (s) of processes."""
    memory = cpu = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        cpu += (int(fields[11]) + int(fields[12])) / _TICKS
        memory += int(fields[21]) * _PAGE / 1e6
    return memory, cpu


def watch(
    jsspy: subprocess.Popen[str],
    fleet: list[subprocess.Popen[bytes]],
    replace: Callable[[], subprocess.Popen[bytes]],
    churn_s: float,
) -> list[float]:
    """Look at jsspy until it ends; return its memory over time, in MB."""
    memory: list[float] = []
    begin = time.monotonic()
    churned = begin
    while True:
        with suppress(subprocess.TimeoutExpired):
            jsspy.wait(_LOOK_S)
        if jsspy.returncode is not None:
            return memory
        megabytes, cpu = usage(family(jsspy.pid))
        memory.append(megabytes)
        now = time.monotonic()
        print(f"{now - begin:7.0f} s {megabytes:8.1f} MB {cpu:7.2f} s of CPU", flush=True)
        if churn_s and now - churned >= churn_s:
            churned = now
            oldest = fleet.pop(0)
            oldest.kill()
            oldest.wait()
            fleet.append(replace())


def judge(memory: list[float], account: dict[str, Any]) -> list[str]:
    """Return what is wrong."""
    wrong = []
    third = len(memory) // 3
    if third >= 3:
        growth = median(memory[-third:]) / median(memory[third : 2 * third])
        print(f"memory of the last third over the middle third: {growth:.3f}")
        if growth > GROWTH:
            wrong.append(f"memory grew by {100 * (growth - 1):.0f} %")
    if account["requested"] != account["stacks"] + account["truncated"] + account["lost"]:
        wrong.append("samples and losses do not add up")
    return wrong


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=int, default=49)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--churn", type=float, default=20.0, help="seconds; 0 is never")
    parser.add_argument("--node", default="22.23.3")
    options = parser.parse_args()
    node = NODES / f"v{options.node}" / "bin" / "node"
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program = directory / "fleet-target.js"
        program.write_text(PROGRAM, encoding="utf-8")
        fleet: list[subprocess.Popen[bytes]] = []
        stack.callback(end_all, fleet)
        fleet += (start(node, program) for _ in range(options.count))
        command = [sys.executable, "-m", "jsspy", "record", "--name", program.name, "--json"]
        command += ["-d", str(60 * options.minutes), "-r", str(options.rate)]
        command += ["--engine", options.engine, "-o", str(directory / "fleet.jsspy")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as jsspy:
            stack.callback(jsspy.kill)
            memory = watch(jsspy, fleet, lambda: start(node, program), options.churn)
            assert jsspy.stdout is not None
            account = json.loads(jsspy.stdout.read())
    targets = account.pop("targets")
    print(json.dumps(account, indent=2))
    share = account["profiler_cpu_s"] / account["duration_s"]
    print(f"{len(targets)} processes seen; {100 * share:.2f} % of a CPU")
    wrong = judge(memory, account)
    print("\n".join(wrong) or "all is well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
