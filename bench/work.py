"""Fixed JavaScript work, and how long it took in stretches of time."""

from __future__ import annotations

import os
import subprocess
import tempfile
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
NODES = Path(os.environ.get("JSSPY_NODES", HERE.parent / ".cache" / "nodes"))

WORK = HERE / "targets" / "work.js"
MIXED = HERE.parent / "tests" / "targets" / "mixed.js"

TRIMMED = 0.1
"""Share of the slowest items that is left out: those in which something else struck."""


class Item(NamedTuple):
    """One piece of work, in ns."""

    start: int
    wall: int
    waited: int
    """Of it ready to run, on a CPU that somebody else had."""

    @property
    def own(self) -> int:
        """Time on the CPU, in interrupts, or stopped."""
        return self.wall - self.waited


class Window(NamedTuple):
    """A stretch of CLOCK_MONOTONIC, in ns."""

    start: int
    end: int


class Work:
    """A node that works."""

    def __init__(self, process: subprocess.Popen[bytes], times: Path) -> None:
        self.pid = process.pid
        self._times = times

    def items(self) -> list[Item]:
        """Return what it has done so far."""
        lines = self._times.read_text(encoding="ascii").splitlines()
        return [Item(*map(int, line.split())) for line in lines if line.count(" ") == 2]


@contextmanager
def working(
    version: str,
    *,
    flags: Sequence[str] = (),
    program: Path = WORK,
    arguments: Sequence[str] | None = None,
) -> Iterator[Work]:
    """Run a program under node `version`, in a directory of its own, until the block ends.

    Args:
        version: Of node.
        flags: Of node.
        program: `WORK`, or one that prints "ready", too.
        arguments: Of the program; the file for the times if there are none.
    """
    with tempfile.TemporaryDirectory() as scratch:
        times = Path(scratch) / "times"
        process = subprocess.Popen(
            [
                *(str(NODES / f"v{version}" / "bin" / "node"), *flags, str(program)),
                *((str(times),) if arguments is None else arguments),
            ],
            stdout=subprocess.PIPE,
            cwd=scratch,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield Work(process, times)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def mean_within(items: Sequence[Item], window: Window, *, wall: bool = False) -> float:
    """Return the mean duration of the items that lie within `window`, less the slowest, in ns."""
    first = bisect_left(items, window.start, key=_start)
    last = bisect_left(items, window.end, key=_start)
    durations = sorted(
        item.wall if wall else item.own
        for item in items[first:last]
        if item.start + item.wall <= window.end
    )
    if not durations:
        return float("nan")
    kept = durations[: len(durations) - int(len(durations) * TRIMMED)]
    return sum(kept) / len(kept)


def _start(item: Item) -> int:
    return item.start
