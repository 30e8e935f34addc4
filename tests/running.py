"""Run jsspy's command line as its users do: as a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import nodes

TIMEOUT_S = 60.0

BUSY = """
function leafWork(n) { let s = 0; for (let i = 0; i < n; i++) s += Math.sqrt(i ^ s); return s; }
function outerWork() {
  const end = Date.now() + 20;
  while (Date.now() < end) leafWork(20000);
  setImmediate(outerWork);
}
console.log('ready');
outerWork();
"""
"""Never sleeps; `outerWork` calls `leafWork`."""

IDLE = "setInterval(function () {}, 1 << 30); console.log('ready');"
"""Sleeps in the event loop."""


def environment() -> dict[str, str]:
    """Return an environment in which `python -m jsspy` is this working copy."""
    path = os.pathsep.join([str(nodes.ROOT / "src"), *os.environ.get("PYTHONPATH", "").split(":")])
    return os.environ | {"PYTHONPATH": path, "TERM": "dumb"}


AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    # So that python and we can be read wherever they lie; it does not count for ptrace.
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
)
"""Start of a command line that makes root another user."""


def jsspy(
    *arguments: str, cwd: Path | None = None, stdin: bytes = b"", prefix: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run jsspy to its end; `prefix` is the start of a command line."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "jsspy", *arguments],
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT_S,
        cwd=cwd,
        env=environment(),
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


@contextmanager
def starting(*arguments: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run jsspy until the block ends; its streams are pipes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jsspy", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(),
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def wait_sampling(process: subprocess.Popen[str]) -> str:
    """Wait until jsspy says that it samples; return what it said."""
    assert process.stderr is not None
    line = process.stderr.readline()
    if line.startswith("Sampling with "):
        line = process.stderr.readline()
    assert line.startswith("Sampling "), line + process.stderr.read()
    return line


def without_choice(text: str) -> str:
    """Return what was said on standard error, without the line that says which engine it is."""
    first, newline, rest = text.partition("\n")
    return rest if newline and re.fullmatch(r"Sampling with \w+: .+", first) else text


def thread_state(pid: int) -> str:
    """Return the state letter of a process's main thread."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
