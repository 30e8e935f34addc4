"""The process that samples on behalf of a server; see `jsspy.server.stream`.

It starts the command, if there is one, and so is its ancestor, as yama wants it. A command lives
its own life: it has our standard streams, signals are passed on to it, and its end is ours. It is
not even ended if the server is killed. Processes that ran before us get no signal, ever.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from jsspy.cli.discovery import Discovery
from jsspy.cli.engines import make_engine
from jsspy.cli.interrupts import reaches_our_group
from jsspy.cli.started import StartedCommand
from jsspy.engines.base import CountingEngine
from jsspy.errors import JsspyError, PermissionDenied, ProcessExited, ProcessNotFound
from jsspy.linux.libc import map_large_blocks
from jsspy.model.mode import NativeFrames
from jsspy.model.profile import Profile, ProfileMeta
from jsspy.recorder import Recorder, RecordingOptions
from jsspy.server.sampling import Sampling
from jsspy.server.stream import BLOCKED, END, TARGETS, StreamWriter
from jsspy.session import TargetInfo
from jsspy.target.event_loop import EventLoop
from jsspy.target.process import Target

BLOCK_NS = 1_000_000_000
"""How often what was sampled is sent."""

_COUNTED_FROM_HZ = 200
"""Below that few stacks come twice in a second: to send each costs as little."""

_WAIT_S = 0.05
"""How often we look around while there is nothing to sample."""

_PASSED_ON = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
)


class _Sampler:
    def __init__(self, sampling: Sampling, writer: StreamWriter) -> None:
        self._sampling = sampling
        self._writer = writer
        self._started: StartedCommand | None = None
        self._discovery: Discovery | None = None
        self._is_stopped = False
        self._denied: set[int] = set()
        self._said: dict[int, TargetInfo] | None = None
        self._next_block_ns = 0
        self._loops: dict[Target, EventLoop | None] = {}
        self._blocked: set[Target] = set()

    def run(self) -> dict[str, Any]:
        """Sample until there is nothing left to sample, and return what the end message says."""
        sampling = self._sampling
        try:
            if sampling.name is not None:
                self._discovery = Discovery(sampling.name)
            if sampling.command:
                self._started = StartedCommand(sampling.command)
            self._handle_signals()
            self._sample()
        except JsspyError as err:
            self._wait_for_command()
            return {
                "error": err.message,
                "hint": err.hint,
                "exit_code": err.exit_code,
                "command_status": self._status(),
            }
        finally:
            if self._discovery is not None:
                self._discovery.close()
        self._wait_for_command()
        return {"command_status": self._status()}

    def _handle_signals(self) -> None:
        if self._started is None:
            # Ctrl-C reaches the server as well, which then ends us.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, self._stop)
            return
        for number in _PASSED_ON:
            signal.signal(number, self._pass_on)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._is_stopped = True

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self._started is not None and not reaches_our_group(number):
            self._started.send_signal(number)

    def _should_stop(self) -> bool:
        return self._is_stopped or not self._writer.is_open

    def _sample(self) -> None:
        """Record, again and again if targets come and go.

        Raises:
            JsspyError: A process that was named cannot be sampled.
        """
        sampling = self._sampling
        pids = sampling.pids if self._started is None else [self._started.pid]
        with self._make_recorder() as recorder:
            for pid in pids:
                self._add(recorder, pid)
            self._tell_targets(recorder)
            gc.freeze()
            for _ in recorder.run(None, self._should_stop):
                self._turn(recorder)
            recorder.update_stats()
            self._send(recorder.take_profile())
            self._tell_targets(recorder)

    def _make_recorder(self) -> Recorder:
        sampling = self._sampling
        options = RecordingOptions(
            follow_children=sampling.subprocesses,
            native=NativeFrames(sampling.native),
            # That would be done while targets wait to be sampled.
            source_maps=False,
            wait=self._discovery is not None,
            max_overhead=sampling.max_overhead,
        )
        engine = make_engine(sampling.engine, sampling.pids, sampling.rate_hz)
        if sampling.rate_hz >= _COUNTED_FROM_HZ and isinstance(engine, CountingEngine):
            engine.count_stacks()
        recorder = Recorder(engine, options)
        recorder.companions.append(os.getppid())
        if self._discovery is not None:
            recorder.companions.append(self._discovery.pid)
        return recorder

    def _add(self, recorder: Recorder, pid: int) -> None:
        try:
            recorder.add(pid, starting=self._started is not None)
        except PermissionDenied:
            if self._discovery is None:
                raise
            self._denied.add(pid)
        except (ProcessExited, ProcessNotFound):
            if self._discovery is None and self._started is None:
                raise
        except JsspyError:
            if self._discovery is None:
                raise

    def _turn(self, recorder: Recorder) -> None:
        """Do what is to be done between samples."""
        self._writer.flush()
        now = time.monotonic_ns()
        if self._sampling.blocked_s is not None:
            self._watch_loops(recorder, round(self._sampling.blocked_s * 1e9))
        if now < self._next_block_ns:
            return
        first = not self._next_block_ns
        self._next_block_ns = now + BLOCK_NS
        if not first:
            self._send(recorder.take_profile())
        if self._discovery is not None:
            for pid in self._discovery.poll():
                self._add(recorder, pid)
        self._tell_targets(recorder)

    def _watch_loops(self, recorder: Recorder, limit_ns: int) -> None:
        """Tell the server of event loops that do not turn."""
        targets = recorder.targets()
        for gone in self._loops.keys() - {target for target, _ in targets}:
            loop = self._loops.pop(gone)
            self._blocked.discard(gone)
            if loop is not None:
                loop.close()
        for target, v8 in targets:
            if target not in self._loops:
                self._loops[target] = None if v8 is None else EventLoop.find(target, v8)
            loop = self._loops[target]
            if loop is None:
                continue
            try:
                blocked_ns = loop.blocked_ns(time.monotonic_ns())
            except ProcessExited:
                continue
            if blocked_ns < limit_ns:
                self._blocked.discard(target)
            elif target not in self._blocked:
                self._blocked.add(target)
                message = {"pid": int(target.pid), "blocked_ns": blocked_ns}
                self._writer.send_json(BLOCKED, message)

    def _send(self, profile: Profile) -> None:
        if profile.meta.start_ns:
            self._writer.send_profile(profile)

    def _idle(self) -> None:
        """Wait for targets; the server still hears of us every second."""
        now = time.monotonic_ns()
        if now >= self._next_block_ns:
            self._next_block_ns = now + BLOCK_NS
            start = now - BLOCK_NS
            unix = time.time_ns() - BLOCK_NS
            self._send(
                Profile(ProfileMeta(start_ns=start, start_time_unix_ns=unix, duration_ns=BLOCK_NS))
            )
        self._writer.flush()
        time.sleep(_WAIT_S)

    def _tell_targets(self, recorder: Recorder) -> None:
        """Say who is sampled, if that has changed."""
        self._denied = {pid for pid in self._denied if Path(f"/proc/{pid}").exists()}
        infos = {int(pid): info for pid, info in recorder.infos.items()}
        if infos == self._said:
            return
        self._said = infos
        targets = [info._asdict() for info in infos.values()]
        self._writer.send_json(TARGETS, {"targets": targets, "denied": len(self._denied)})

    def _wait_for_command(self) -> None:
        """Let a command that we started end, in its own time."""
        while self._started is not None and self._started.is_running() and self._writer.is_open:
            self._idle()

    def _status(self) -> int | None:
        return self._started.poll() if self._started is not None else None


def main() -> int:
    """Sample what the first argument describes."""
    map_large_blocks()
    config = json.loads(sys.argv[1])
    writer = StreamWriter(config.pop("descriptor"))
    sampling = Sampling(**config)
    sampling = replace(sampling, pids=tuple(sampling.pids), command=tuple(sampling.command))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    end = _Sampler(sampling, writer).run()
    with suppress(OSError):
        writer.send_json(END, end)
        writer.close()
    return 0
