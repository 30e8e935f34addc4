"""Processes that end while a recording goes on: what was held of them is given back.

The collector of cycles is off meanwhile: it must not be needed, for what exists when a recording
begins is never looked at by it again.
"""

from __future__ import annotations

import gc
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

import nodes
from jsspy.engines import ENGINES
from jsspy.linux.procfs import ProcessFiles
from jsspy.linux.vm import Reader
from jsspy.recorder import Recorder, RecordingOptions, Status
from jsspy.resolve import Resolver
from jsspy.session import Session
from jsspy.target.process import Target
from jsspy.unwind.cfi import CfiTable
from jsspy.v8.builtins import BuiltinTable
from jsspy.v8.code import CodeReader
from jsspy.v8.function import FunctionReader
from recorded import require
from running import environment

VERSION = nodes.selected(("22.23.3",))
LIMIT_NS = 60_000_000_000
TOGETHER = 5
ROUNDS = 3

PER_PROCESS = (CodeReader, FunctionReader, ProcessFiles, Reader, Resolver, Session, Target)
PER_FILE = (BuiltinTable, CfiTable)

MAX_KB = 60
"""Of memory by process that has ended: its samples, functions and threads stay in the profile."""

BURSTS = """
function work(n) { let s = 0; for (let i = 0; i < n; i++) s += Math.sqrt(i ^ s); return s; }
function burst() {
  for (const end = Date.now() + 5; Date.now() < end;) JSON.stringify([work(2000)]);
  setTimeout(burst, 40);
}
burst();
console.log('ready');
"""


@contextmanager
def no_collector() -> Iterator[None]:
    """Have cycles stay."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def census(types: tuple[type, ...]) -> Counter[str]:
    """Count the objects of some types that exist."""
    return Counter(type(it).__name__ for it in gc.get_objects() if type(it) in types)


def descriptors() -> list[str]:
    """Return what our descriptors lead to."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing
            found.append(str(link.readlink()))
    return sorted(found)


def count_threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def resident_kb() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))


class World:
    """A recording of one process that lasts and of others that do not."""

    def __init__(self, recorder: Recorder, command: list[str], stack: ExitStack) -> None:
        self.recorder = recorder
        self._command = command
        self._stack = stack
        self._run = recorder.run(LIMIT_NS)
        self.status: Status | None = None

    def turn(self) -> None:
        self.status = next(self._run)

    def start(self) -> subprocess.Popen[bytes]:
        process = self._stack.enter_context(
            subprocess.Popen(self._command, stdout=subprocess.PIPE, env=environment())
        )
        self._stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    def sample(self, *pids: int) -> None:
        """Sample processes until there is something of each."""
        for pid in pids:
            self.recorder.add(pid)
        while not set(pids) <= {int(thread.pid) for thread in self.recorder.profile.threads}:
            self.turn()

    def come_and_go(self) -> None:
        """Sample some processes until they have ended and are forgotten."""
        processes = [self.start() for _ in range(TOGETHER)]
        self.sample(*(process.pid for process in processes))
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()
        while self.status is None or self.status.processes > 1:
            self.turn()
        # What was still on its way when they ended.
        for _ in range(5):
            self.turn()


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("version", VERSION)
def test_processes_that_end_leave_nothing(version: str, name: str, tmp_path: Path) -> None:
    require(ENGINES[name], os.getpid())
    program = tmp_path / "bursts.js"
    program.write_text(BURSTS, encoding="utf-8")
    with (
        ExitStack() as stack,
        Recorder(ENGINES[name](199), RecordingOptions(wait=True)) as recorder,
        no_collector(),
    ):
        # Tests that ran before may have left tables of other files.
        files = census(PER_FILE)
        world = World(recorder, [str(nodes.find(version)), str(program)], stack)
        world.sample(world.start().pid)
        world.come_and_go()
        before = descriptors(), census(PER_PROCESS), count_threads()
        resident = resident_kb()
        for _ in range(ROUNDS):
            world.come_and_go()
        grown = (resident_kb() - resident) / (ROUNDS * TOGETHER)
        after = descriptors(), census(PER_PROCESS), count_threads()
        assert after == before
        assert max((census(PER_FILE) - files).values(), default=0) < TOGETHER
        assert grown < MAX_KB
