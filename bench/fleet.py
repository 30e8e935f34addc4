"""Record many node processes at once, and see whether the recorder grows.

    python bench/fleet.py [--count 50] [--minutes 5] [--churn-minutes 3] [--churn 1] [--rate 49]

Runs `jsspy record --name` beside `--count` processes that sleep most of the time and work in
bursts. For `--minutes` they are the same ones; then every `--churn` seconds one of them ends and
another one begins. Every two seconds it is looked how much memory, CPU time and descriptors jsspy
and its helper have.

**Flat** is a phase in which the median of the resident memory in the last minute is at most 3 %
above that in the second minute: in the first one every process is met for the first time. (Of a
phase of less than three minutes it is the last third and the second.) Samples are kept, of course:
40 bytes each, 0.06 MB a minute of these processes.

Exits with 1 if a phase is not flat, if descriptors grow, or if samples and losses do not add up.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
NODES = Path(os.environ.get("JSSPY_NODES", HERE.parent / ".cache" / "nodes"))

GROWTH = 1.03
"""Of a phase that is flat, at most."""
MORE_DESCRIPTORS = 20
"""At the end of a phase than a minute after its begin: some processes are just being opened."""

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_S = 2.0
_TOLD_S = 10.0
_PATIENCE_S = 60.0

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


class Look(NamedTuple):
    """What jsspy and its helper have."""

    time_s: float
    memory_mb: float
    cpu_s: float
    descriptors: int


class Phase(NamedTuple):
    """What was seen of a phase."""

    name: str
    looks: list[Look]
    ended: int


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


def look(pids: list[int]) -> Look:
    """Look at processes of ours."""
    kilobytes = ticks = descriptors = 0
    for pid in pids:
        proc = Path(f"/proc/{pid}")
        fields = (proc / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
        rollup = (proc / "smaps_rollup").read_text(encoding="ascii").splitlines()
        kilobytes += next(int(line.split()[1]) for line in rollup if line.startswith("Rss:"))
        descriptors += sum(1 for _ in (proc / "fd").iterdir())
    return Look(time.monotonic(), kilobytes / 1000, ticks / _TICKS, descriptors)


def watch(jsspy: subprocess.Popen[str], seconds: float, turn: Callable[[], None]) -> list[Look]:
    """Look at jsspy every two seconds; `turn` is called more often."""
    looks = [look(family(jsspy.pid))]
    begin = told = looks[0].time_s
    while (now := time.monotonic()) < begin + seconds:
        with suppress(subprocess.TimeoutExpired):
            raise SystemExit(f"jsspy ended by itself: {jsspy.wait(_LOOK_S / 10)}")
        turn()
        if now < looks[-1].time_s + _LOOK_S:
            continue
        looks.append(look(family(jsspy.pid)))
        if now >= told + _TOLD_S:
            told = now
            _, memory, cpu, descriptors = looks[-1]
            text = f"{now - begin:7.0f} s {memory:8.1f} MB {cpu:7.2f} s of CPU"
            print(f"{text} {descriptors:5d} descriptors", flush=True)
    return looks


class Churn:
    """Ends the oldest process and starts another one, now and then."""

    def __init__(
        self,
        fleet: list[subprocess.Popen[bytes]],
        replace: Callable[[], subprocess.Popen[bytes]],
        every_s: float,
    ) -> None:
        self.ended = 0
        self._fleet = fleet
        self._replace = replace
        self._every_s = every_s
        self._next = time.monotonic() + every_s

    def turn(self) -> None:
        """Do it if it is time to."""
        if time.monotonic() < self._next:
            return
        self._next += self._every_s
        oldest = self._fleet.pop(0)
        oldest.kill()
        oldest.communicate()
        self._fleet.append(self._replace())
        self.ended += 1


def judge(phase: Phase) -> list[str]:
    """Tell how a phase was; return what is wrong."""
    name, looks, ended = phase
    begin, end = looks[0].time_s, looks[-1].time_s
    part = min(60.0, (end - begin) / 3)
    early = [it for it in looks if begin + part <= it.time_s < begin + 2 * part]
    late = [it for it in looks if it.time_s >= end - part]
    before, after = (median(it.memory_mb for it in them) for them in (early, late))
    descriptors = [round(median(it.descriptors for it in them)) for them in (early, late)]
    is_flat = after <= GROWTH * before
    cpu = (looks[-1].cpu_s - looks[0].cpu_s) / (end - begin)
    print(
        f"{name}: {before:.1f} -> {after:.1f} MB ({100 * (after / before - 1):+.1f} %), "
        f"{'flat' if is_flat else 'NOT FLAT'}; {descriptors[0]} -> {descriptors[1]} descriptors; "
        f"{100 * cpu:.2f} % of a CPU"
        + (f"; {1000 * (after - before) / ended:+.0f} KB for each that ended" if ended else "")
    )
    wrong = [] if is_flat else [f"{name}: memory grew from {before:.1f} to {after:.1f} MB"]
    if descriptors[1] > descriptors[0] + MORE_DESCRIPTORS:
        wrong.append(f"{name}: descriptors grew from {descriptors[0]} to {descriptors[1]}")
    return wrong


def wait_sampling(jsspy: subprocess.Popen[str], log: Path) -> float:
    """Wait until jsspy says that it samples; return how long that took, in seconds."""
    begin = time.monotonic()
    while not re.search(r"^Sampling (?!with )", log.read_text(encoding="utf-8"), re.MULTILINE):
        if jsspy.poll() is not None or time.monotonic() > begin + _PATIENCE_S:
            raise SystemExit(f"jsspy does not sample: {log.read_text(encoding='utf-8')}")
        time.sleep(0.01)
    return time.monotonic() - begin


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--churn-minutes", type=float, default=3.0)
    parser.add_argument("--churn", type=float, default=1.0, help="seconds")
    parser.add_argument("--rate", type=int, default=49)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--node", default="22.23.3")
    options = parser.parse_args()
    node = NODES / f"v{options.node}" / "bin" / "node"
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program, log = directory / f"fleet-target-{os.getpid()}.js", directory / "log"
        program.write_text(PROGRAM, encoding="utf-8")
        fleet: list[subprocess.Popen[bytes]] = []
        stack.callback(end_all, fleet)
        fleet += (start(node, program) for _ in range(options.count))
        command = [sys.executable, "-m", "jsspy", "record", "--name", program.name, "--json"]
        command += ["-r", str(options.rate), "--engine", options.engine]
        command += ["-o", str(directory / "fleet.jsspy")]
        errors = stack.enter_context(log.open("w", encoding="utf-8"))
        jsspy = stack.enter_context(
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        )
        stack.callback(jsspy.kill)
        setup_s = wait_sampling(jsspy, log)
        setup_cpu_s = look(family(jsspy.pid)).cpu_s
        print(f"samples all after {setup_s:.2f} s, {setup_cpu_s:.2f} s of CPU")
        steady = watch(jsspy, 60 * options.minutes, lambda: None)
        phases = [Phase("steady", steady, 0)]
        if options.churn_minutes:
            churn = Churn(fleet, lambda: start(node, program), options.churn)
            looks = watch(jsspy, 60 * options.churn_minutes, churn.turn)
            phases.append(Phase("churn", looks, churn.ended))
        jsspy.send_signal(signal.SIGINT)
        assert jsspy.stdout is not None
        account: dict[str, Any] = json.loads(jsspy.stdout.read())
    targets = account.pop("targets")
    print(json.dumps(account, indent=2))
    share = account["profiler_cpu_s"] / account["duration_s"]
    print(f"{len(targets)} processes sampled; {100 * share:.2f} % of a CPU")
    wrong = [text for phase in phases for text in judge(phase)]
    if account["requested"] != account["stacks"] + account["truncated"] + account["lost"]:
        wrong.append("samples and losses do not add up")
    print("\n".join(wrong) or "all is well")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
