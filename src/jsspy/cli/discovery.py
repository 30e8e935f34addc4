"""The process that looks for node processes on behalf of the sampler: their pids on stdout.

Each process is looked at once, and again only when it runs another program: looking at a machine
that does not change costs a `stat` for each process.
"""

from __future__ import annotations

import os
import re
import sys
import time

from jsspy.cli.targets import iter_node_processes

_PAUSE_S = 2.0


def main() -> int:
    """Print the pid of each node process that matches the first argument, also of new ones."""
    pattern = re.compile(sys.argv[1])
    parent = os.getppid()
    told: set[tuple[int, int]] = set()
    seen: set[tuple[int, int, int]] = set()
    while os.getppid() == parent:
        now = _processes()
        if now - seen:
            found = {
                process.pid: process
                for process in iter_node_processes()
                if pattern.search(process.command)
            }
            for pid, start, _ in sorted(now):
                if pid in found and (pid, start) not in told:
                    told.add((pid, start))
                    print(pid, flush=True)
        seen = now
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
