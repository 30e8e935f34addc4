"""Record through the inspector: V8's own profiler in place of an engine and a resolver.

`InspectorRecorder` has of `Recorder` what the command line uses. V8 hands over profiles, not
samples: they are taken over every `HARVEST_S` seconds, so that what was recorded outlives the
target; what V8 had since then is lost with it.
"""

from __future__ import annotations

import io
import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Self
from urllib.parse import unquote

from jsspy import __version__
from jsspy.engines.inspector import (
    NAME,
    Gone,
    Inspector,
    Refused,
    ThreadProfile,
    open_inspector,
)
from jsspy.errors import EngineUnavailable, MalformedData
from jsspy.formats.cpuprofile import CpuProfileReader
from jsspy.linux.files import RootDirectory
from jsspy.model.mode import Mode
from jsspy.model.profile import Profile, ProfileMeta, ThreadInfo
from jsspy.model.sample import ThreadState
from jsspy.model.stack import Frame
from jsspy.model.transform import map_frames, merge
from jsspy.model.units import Pid, Tid
from jsspy.recorder import End, Status
from jsspy.session import TargetInfo
from jsspy.symbolize.original import MappingStats
from jsspy.symbolize.packages import PackageReader
from jsspy.target.node import find_node_version
from jsspy.target.process import Target
from jsspy.target.signals import find_watched_signals

HARVEST_S = 30.0
"""How often V8's profile is taken over; the profiler stands still meanwhile."""

POLL_S = 0.1

MODES = frozenset({Mode.CPU, Mode.WALL})

_NOTE = (
    "recorded by V8's own profiler through the inspector: JavaScript only; time is by the clock on "
    "the wall, and a blocking call counts as running"
)
_FILE = "file://"
_CANNOT_CLOSE = frozenset("456789")
"""Majors of node: 4 has no inspector, 6 has no such module, 8 crashes (seen on 8.17.0)."""


class InspectorRecorder:
    """Records one process through its inspector. Used as a context manager.

    Attributes:
        profile: What has been taken over from V8.
        end: Why it ended.
        infos: The process, as it describes itself.
    """

    def __init__(
        self, url: str, rate_hz: float, *, mode: Mode = Mode.CPU, pid: int | None = None
    ) -> None:
        """Connect to an inspector.

        Args:
            url: See `Inspector`.
            rate_hz: Samples per second and thread.
            mode: `CPU` leaves out what V8 calls idle.
            pid: The local process whose inspector was opened for us: it is to be closed again.

        Raises:
            EngineUnavailable: It cannot be used.
        """
        if mode not in MODES:
            raise EngineUnavailable(NAME, f"V8's profiler knows no --mode {mode.value}")
        self.saw_v8 = True
        self.mapping = MappingStats()
        self.end: End | None = None
        self._mode = mode
        self._interval_us = max(round(1e6 / rate_hz), 1)
        self._closes = pid is not None
        self._parts: list[Profile] = []
        self._samples = self._idle = 0
        self._packages = PackageReader()
        self._roots: dict[int, RootDirectory] = {}
        """Of the process, if it is known to be a local one."""
        self._inspector = Inspector(url)
        try:
            words = self._inspector.introduce()
        except BaseException:
            self.close()
            raise
        self._words = words
        number = Pid(pid if pid is not None else words.pid)
        info = TargetInfo(number, words.command, words.node_version, words.v8_version)
        self.infos = {number: info}
        self._meta = ProfileMeta(
            value_type=mode.value_type,
            period_ns=self._interval_us * 1000,
            engine=NAME,
            command=words.command,
            node_version=words.node_version,
            v8_version=words.v8_version,
            jsspy_version=__version__,
            notes=[_NOTE],
        )
        self.profile = Profile(self._meta)

    @classmethod
    def open(cls, pid: int, rate_hz: float, *, mode: Mode = Mode.CPU) -> Self:
        """Connect to a local process, and open its inspector if it is not open.

        Raises:
            JsspyError: See `open_inspector`.
        """
        opened = open_inspector(pid, _object_to_signal(pid))
        recorder = cls(opened.url, rate_hz, mode=mode, pid=pid if opened.is_ours else None)
        with suppress(OSError):
            recorder._roots[pid] = RootDirectory(pid)
        return recorder

    def run(
        self, duration_ns: int | None = None, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Status]:
        """Record until the duration is over, `should_stop()`, or the target ends.

        Yields:
            How it stands, several times a second; samples are counted as they are taken over.
        """
        start = self._meta.start_ns = time.monotonic_ns()
        self._meta.start_time_unix_ns = time.time_ns()
        deadline = start + (1 << 62 if duration_ns is None else duration_ns)
        try:
            self._inspector.start(self._interval_us)
            harvest = start + int(HARVEST_S * 1e9)
            while self.end is None:
                yield self._status()
                now = time.monotonic_ns()
                if should_stop():
                    self.end = End.STOPPED
                elif now >= deadline:
                    self.end = End.DURATION
                elif now >= harvest:
                    self.update_stats()
                    harvest = time.monotonic_ns() + int(HARVEST_S * 1e9)
                else:
                    self._inspector.watch(min(POLL_S, (deadline - now) / 1e9))
            self._harvest()
        except Gone:
            self.end = End.TARGET_ENDED
            self._meta.notes.append("it ended: V8's profile of its last seconds is lost")
        except EngineUnavailable as err:
            if not self._parts:
                raise
            self.end = End.STOPPED
            self._meta.notes.append(f"the recording ended early: {err.reason}")
        self._meta.duration_ns = time.monotonic_ns() - start
        if self._inspector.lost_workers:
            lost = self._inspector.lost_workers
            self._meta.notes.append(f"{lost} workers ended, and V8's profiles of them with them")
        self._put_together()

    def update_stats(self) -> None:
        """Bring `profile` up to date, in the middle of a recording."""
        try:
            self._harvest()
            self._inspector.start(self._interval_us)
        except Gone:
            pass  # `run` finds out
        self._put_together()

    def _harvest(self) -> None:
        for thread in self._inspector.stop():
            self._parts.append(self._convert(thread))

    def _put_together(self) -> None:
        """Make one profile of all parts."""
        self.profile = merge([Profile(self._meta), *self._parts])
        self.profile.meta = self._meta
        stats = self.profile.stats
        stats.requested = len(self.profile)
        stats.idle = self._idle
        # The columns of parts that are merged already need not be merged again.
        self._parts = [self.profile]

    def _convert(self, thread: ThreadProfile) -> Profile:
        """Turn what V8 recorded of a thread into a profile."""
        (info,) = self.infos.values()
        read = CpuProfileReader().read(io.BytesIO(json.dumps(thread.profile).encode()))
        read = map_frames(read, self._complete)
        result = Profile(replace(self._meta, notes=[]))
        # Node's number of a worker is all that is known of its thread.
        tid = Tid(thread.number or info.pid)
        result.threads = [ThreadInfo(info.pid, tid, thread.name or "worker")]
        result.frames, result.stacks = read.frames, read.stacks
        for sample, row in enumerate(read.stack):
            state = read.state[sample]
            if state is ThreadState.SLEEPING and self._mode is Mode.CPU:
                self._idle += 1
                continue
            times = read.time_ns[sample], read.weight[sample]
            result.add_row(row, 0, *times, state, read.vm_state[sample])
        self._samples += len(result)
        return result

    def _complete(self, frame: Frame) -> Frame:
        return self._packages.name_frame(_with_path(frame), self._roots.keys(), self._roots)

    def _status(self) -> Status:
        return Status(
            elapsed_ns=time.monotonic_ns() - self._meta.start_ns,
            samples=self._samples,
            truncated=0,
            lost=0,
            idle=self._idle,
            processes=1,
            threads=self._inspector.threads,
            rate_hz=1e9 / max(self._meta.period_ns, 1),
        )

    def close(self) -> None:
        """Leave the target as it was found.

        Raises:
            EngineUnavailable: It would not close its inspector.
        """
        try:
            if self._closes:
                self._closes = False
                self._inspector.shut()
        except (Gone, Refused, MalformedData) as err:
            raise EngineUnavailable(NAME, f"its port may still be open: {err.message}") from err
        finally:
            self._inspector.close()
            while self._roots:
                self._roots.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _object_to_signal(pid: int) -> str:
    """Return why the inspector of a process is not to be opened by SIGUSR1, as far as we can see.

    Raises:
        JsspyError: There is no such process, or it may not be looked at.
    """
    target = Target.open(pid)
    try:
        v8 = target.find_v8()
        if v8 is None:
            return f"process {pid} is not Node.js"
        version = find_node_version(v8.elf) or ""
        if version.partition(".")[0] in _CANNOT_CLOSE:
            return f"node {version} cannot close its inspector again; start it with --inspect"
        if signal.SIGUSR1 in find_watched_signals(target, v8):
            return "the program handles SIGUSR1 itself, which would open the inspector"
        return ""
    finally:
        target.close()


def _with_path(frame: Frame) -> Frame:
    """Name a file by its path, as every other engine does, where V8 has a URL."""
    place = frame.definition
    if place is None or not place.url.startswith(_FILE):
        return frame
    return frame._replace(definition=place._replace(url=unquote(place.url.removeprefix(_FILE))))
