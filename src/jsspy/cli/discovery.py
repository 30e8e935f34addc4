"""The process that looks for node processes on behalf of the sampler: their pids on stdout.

Each process is looked at twice, two seconds apart: libraries, and V8 among them, come after the
program. Then again only when it runs another program, and, for what changes without that, all of
them once a minute. Beyond that looking costs a `stat` for each process.

Little is loaded: the process has 15 MB, 9 of which python itself takes.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jsspy
from jsspy.linux.libc import map_large_blocks
from jsspy.target.search import iter_node_processes

_PAUSE_S = 2.0
_LOOKS = 2
_ALL_AGAIN = 30
"""Turns."""

_MAX_LINE = 1 << 16
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from jsspy.cli.discovery import main; "
    "sys.exit(main())"
)


class Discovery:
    """The process that looks for node processes, so that we need not."""

    def __init__(self, pattern: str) -> None:
        root = str(Path(jsspy.__file__).resolve().parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _BOOT, root, pattern],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        self.pid = self._process.pid
        self._descriptor = -1 if self._process.stdout is None else self._process.stdout.fileno()
        os.set_blocking(self._descriptor, False)
        self._rest = b""

    def poll(self) -> list[int]:
        """Return the processes that were found since the last call."""
        try:
            data = os.read(self._descriptor, _MAX_LINE)
        except BlockingIOError:
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [int(line) for line in lines]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def main() -> int:
    """Print the pid of each node process that matches the first argument, also of new ones."""
    map_large_blocks()
    pattern = re.compile(sys.argv[1])
    parent = os.getppid()
    told: set[tuple[int, int]] = set()
    looks: dict[tuple[int, int, int], int] = {}
    for turn in itertools.count():
        if os.getppid() != parent:
            break
        now = sorted(_processes())
        looks = {process: looks.get(process, 0) for process in now}
        to_see = [it for it in now if looks[it] < _LOOKS or not turn % _ALL_AGAIN]
        found = {
            process.pid
            for process in iter_node_processes([pid for pid, _, _ in to_see])
            if pattern.search(process.command)
        }
        for process in to_see:
            looks[process] += 1
            pid, start, _ = process
            if pid in found and (pid, start) not in told:
                told.add((pid, start))
                print(pid, flush=True)
        told = {(pid, start) for pid, start, _ in now} & told
        time.sleep(_PAUSE_S)
    return 0


def _processes() -> set[tuple[int, int, int]]:
    """Return (pid, start time, inode of the executable) of every process but kernel threads."""
    found = set()
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdecimal()]
    for pid in pids:
        try:
            inode = os.stat(f"/proc/{pid}/exe").st_ino  # noqa: PTH116 - once per process
        except PermissionError:
            inode = 0
        except OSError:
            continue
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - likewise
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        found.add((pid, int(fields[19]), inode))
    return found
