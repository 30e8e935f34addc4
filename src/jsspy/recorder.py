"""From engine to profile: the only wiring of the stages.

A `Recorder` owns no policy of the command line: it neither prints nor handles signals. Whoever
uses it iterates over `run()`, which yields a `Status` a few times a second at least, and says when
to stop:

    with Recorder(PtraceEngine(99), RecordingOptions(follow_children=True)) as recorder:
        recorder.add(pid)
        for status in recorder.run(duration_ns=10**10):
            ...
    recorder.profile

Processes come and go while it runs: a target that calls exec gets a fresh start, children are
picked up where asked for, threads and isolates are looked for again every quarter of a second.
"""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from types import TracebackType
from typing import NamedTuple, Self

from jsspy import __version__
from jsspy.engines.base import Engine, StoppingEngine
from jsspy.engines.governor import Governor, read_cpu_ns
from jsspy.errors import (
    EngineUnavailable,
    FaultError,
    JsspyError,
    MalformedData,
    NotNode,
    PermissionDenied,
    ProcessExited,
    ProcessNotFound,
    UnsupportedTarget,
)
from jsspy.model.mode import NativeFrames, Threads
from jsspy.model.profile import (
    PauseStats,
    Profile,
    ProfileMeta,
    SamplingStats,
    ThreadInfo,
)
from jsspy.model.sample import LossReason, RawSample, Sample
from jsspy.model.units import Pid, Tid
from jsspy.session import STARTING_POLL_S, Session, TargetInfo, open_session, read_image, read_proc
from jsspy.symbolize.original import MappingStats, PastScripts, ScriptLog, map_frames
from jsspy.symbolize.packages import name_packages
from jsspy.symbolize.sources import keep_sources
from jsspy.target.process import Target, V8Binary

REFRESH_NS = 250_000_000
"""How often threads, isolates and children are looked for."""

WAITING_POLL_S = 0.05
"""How often statuses come while there is no process at all."""

_START_FRAMES = 6
_HELPERS = {
    "PlatformWorkerThread": "V8Worker",
    "BackgroundRunner": "V8Worker",
    "DelayedTaskScheduler": "DelayedTaskSche",
    "StartIoThreadMain": "SignalInspector",
    "TraceWriter": "TraceWriter",
}
"""Part of the function that a thread runs -> its name."""

MAX_NOTED = 10
"""Processes of which the same is said one by one."""

_STRANGERS = 64
"""How many there are before those are looked for that are gone."""

MAX_DESCENDANTS = 100
"""Of a process that is not node, looked at for one that is."""


class End(Enum):
    """Why a recording ended. Values are the words used in summaries."""

    DURATION = "duration"
    STOPPED = "stopped"
    TARGET_ENDED = "target-ended"


@dataclass(frozen=True, slots=True)
class RecordingOptions:
    """What is made of the samples, and of whom they are taken."""

    strict: bool = False
    """Raise where a V8 is not known, instead of degrading to native frames."""
    follow_children: bool = False
    """Pick up the targets' child processes that are node, at any depth."""
    source_maps: bool = True
    """Map frames to original sources when the recording is over."""
    map_directory: str | None = None
    """Where to look for maps that are not where the scripts say."""
    sources: bool = False
    """Keep the source lines that frames execute, when the recording is over."""
    async_callers: bool = False
    """Show who awaits what runs."""
    native: NativeFrames = NativeFrames.FULL
    """Which native frames stacks have."""
    threads: Threads = Threads.JS
    """Which threads are sampled."""
    wait: bool = False
    """Go on while there is no target: more may be added. The clock starts at once."""
    max_overhead: float | None = None
    """What sampling may cost, of one CPU: the rate adapts."""


DEFAULT_OPTIONS = RecordingOptions()


class Status(NamedTuple):
    """How a recording stands."""

    elapsed_ns: int
    samples: int
    """Stacks, truncated ones included."""
    truncated: int
    lost: int
    idle: int
    processes: int
    threads: int
    """Threads that are sampled; 0 until the first isolate is found."""
    rate_hz: float
    """Now."""


@dataclass(slots=True)
class _Noted:
    """Something that was said of processes: how often, and how and where the last time."""

    count: int = 0
    text: str = ""
    last: int = -1


class Recorder:
    """Samples one or more targets with one engine into one profile."""

    def __init__(
        self,
        engine: Engine,
        options: RecordingOptions = DEFAULT_OPTIONS,
    ) -> None:
        """Wire an engine, which is not entered yet, to a profile.

        Raises:
            EngineUnavailable: The engine stops no thread, which `async_callers` needs.
        """
        if options.async_callers and not isinstance(engine, StoppingEngine):
            reason = "it stops no thread, so it cannot see who awaits"
            raise EngineUnavailable(engine.name, reason, hint="--engine ptrace")
        self.engine = engine
        self.profile = Profile(
            ProfileMeta(
                value_type=engine.mode.value_type,
                period_ns=engine.period_ns,
                engine=engine.name,
                jsspy_version=__version__,
            )
        )
        self.end: End | None = None
        self.infos: dict[Pid, TargetInfo] = {}
        """Every node process that was sampled, in the order in which they were found."""
        self.saw_v8 = False
        """V8 was found in some process, sampled or not."""
        self._options = options
        self.governor = (
            None if options.max_overhead is None else Governor(engine, options.max_overhead)
        )
        self.companions: list[int] = []
        """Our other processes, whose CPU time counts like that of this one."""
        self.mapping = MappingStats()
        """What came of source mapping, once the recording is over."""
        self._sessions: dict[Pid, Session] = {}
        self._strangers: dict[Pid, bytes] = {}
        """Processes that were looked at, and the image that they had then: if they are not node, or
        not readable, they still are not. Those that are gone are forgotten now and then."""
        self._max_strangers = _STRANGERS
        self._past_js_frames = 0
        self._past_js_frames_named = 0
        self._taken = SamplingStats()
        """The account up to the last `take_profile`."""
        self._past_scripts = PastScripts()
        self._unresolved = 0
        self._thread_index: dict[Pid, dict[Tid, int]] = {}
        self._noted: dict[str, _Noted] = {}
        """What was said of processes, without their numbers."""
        self._cpu_start_ns = time.process_time_ns()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the targets. The profile stays."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()
        self.engine.close()
        self._past_scripts.close()

    def add(self, pid: int, *, starting: bool = False) -> Target:
        """Add a process.

        Args:
            pid: The process.
            starting: It was started a moment ago: it may exec a few times before it is node.

        Returns:
            The process, opened; it is the recorder's to close.

        Raises:
            ProcessNotFound: No process has this pid.
            ProcessExited: It ended.
            PermissionDenied: It may not be read.
            UnsupportedTarget: Not for this architecture.
            NotNode: There is no V8 in it, it is not `starting`, and children are not followed.
            UnknownV8: The recorder is strict, and its V8 is not known.
        """
        session = self._open(Pid(pid))
        target = session.target
        if session.v8 is None and not starting and not self._options.follow_children:
            command = " ".join(target.command)
            target.close()
            raise NotNode(
                f"process {pid} ({command}) is not Node.js: it has no V8 in it",
                hint=_hint_child(pid),
            )
        self._keep(session)
        return target

    def adopt(self, pid: int) -> None:
        """Add a process if it is node; one that may not be read is noted and left out.

        Raises:
            PermissionDenied: The recorder is strict, and it may not be read.
            UnsupportedTarget: The recorder is strict, and it is not for this architecture.
            UnknownV8: The recorder is strict, and its V8 is not known.
        """
        pid = Pid(pid)
        image = read_image(pid)
        if pid in self._sessions or not image or self._strangers.get(pid) == image:
            return
        if len(self._strangers) >= self._max_strangers:
            self._strangers = {
                other: known
                for other, known in self._strangers.items()
                if read_image(other) == known
            }
            self._max_strangers = max(_STRANGERS, 2 * len(self._strangers))
        self._strangers[pid] = image
        try:
            session = self._open(pid)
            if session.v8 is None:
                session.target.close()
            else:
                self._keep(session)
        except (ProcessExited, ProcessNotFound):
            return
        except (PermissionDenied, UnsupportedTarget) as err:
            if self._options.strict:
                raise
            self._note(pid, f" is left out: {err.message}")

    def _open(self, pid: Pid) -> Session:
        """Open a process as the options say; see `open_session` for what is raised."""
        options = self._options
        return open_session(
            pid,
            strict=options.strict,
            async_callers=options.async_callers,
            native=options.native,
            threads=options.threads,
        )

    def run(
        self, duration_ns: int | None = None, should_stop: Callable[[], bool] = lambda: False
    ) -> Iterator[Status]:
        """Sample until the duration is over, `should_stop()`, or no target is left.

        Yields:
            How it stands, at least 4 times a second. Between two of them `profile` is whole and
            `update_stats` may be called.

        The clock starts with the first isolate, and at once where there is one already.
        """
        longest = 1 << 62 if duration_ns is None else duration_ns
        deadline = time.monotonic_ns() + longest
        if self._options.wait:
            self._start_clock()
        with self.engine:
            while self.end is None:
                self._refresh()
                if should_stop():
                    self.end = End.STOPPED
                elif not self._sessions and not self._options.wait:
                    self.end = End.TARGET_ENDED
                elif not any(session.threads for session in self._sessions.values()):
                    if time.monotonic_ns() >= deadline:
                        self.end = End.DURATION
                    yield self._status()
                    time.sleep(STARTING_POLL_S if self._sessions else WAITING_POLL_S)
                else:
                    if not self.profile.meta.start_ns:
                        self._start_clock()
                        deadline = self.profile.meta.start_ns + longest
                    yield from self._sample(deadline, should_stop)
            meta = self.profile.meta
            meta.duration_ns = time.monotonic_ns() - meta.start_ns if meta.start_ns else 0
        if self.governor is not None:
            self.profile.meta.notes.append(self.governor.describe())
        live = [session.scripts for session in self._sessions.values()]
        logs: list[ScriptLog | PastScripts] = [self._past_scripts, *live]
        if self._options.source_maps:
            self.mapping = map_frames(self.profile, logs, self._options.map_directory)
        roots = {log.pid: log.root for log in live if log.root is not None}
        name_packages(self.profile, self._past_scripts.roots | roots)
        if self._options.sources:
            keep_sources(self.profile, logs)
        self.update_stats()

    def _start_clock(self) -> None:
        meta = self.profile.meta
        meta.start_ns = time.monotonic_ns()
        meta.start_time_unix_ns = time.time_ns()

    def _sample(self, deadline_ns: int, should_stop: Callable[[], bool]) -> Iterator[Status]:
        """Take what the engine yields, until the end or until the engine has no target left."""
        next_refresh = time.monotonic_ns() + REFRESH_NS
        for batch in self.engine.samples():
            for raw in batch:
                self._take(raw)
            now = time.monotonic_ns()
            if now >= next_refresh:
                self._refresh()
                next_refresh = now + REFRESH_NS
                if self.governor is not None:
                    self.governor.turn(now, self.companions)
            yield self._status()
            if should_stop():
                self.end = End.STOPPED
            elif now >= deadline_ns:
                self.end = End.DURATION
            if self.end is not None or not self._sessions:
                return

    def _take(self, raw: RawSample) -> None:
        """Resolve one capture and add it to the profile."""
        session = self._sessions.get(raw.pid)
        if session is None:
            self._unresolved += 1
            return
        try:
            result = session.resolver.resolve(raw)
        except ProcessExited:
            result = LossReason.UNRESOLVED
        if isinstance(result, LossReason):
            self._unresolved += 1
            return
        functions = session.resolver.functions
        if functions is not None and (self._options.source_maps or self._options.sources):
            session.scripts.update(functions)
        threads = self._thread_index.setdefault(raw.pid, {})
        index = threads.get(raw.tid)
        if index is None:
            index = threads[raw.tid] = self._add_thread(session, result)
        self.profile.add(result, index)

    def _add_thread(self, session: Session, sample: Sample) -> int:
        target = session.target
        isolate = next((plan.isolate for plan in session.threads if plan.tid == sample.tid), 0)
        name = target.thread_name(sample.tid)
        if int(sample.tid) != int(sample.pid) and name == target.thread_name(Tid(sample.pid)):
            # Before Node 24 a thread inherits the main thread's name.
            name = "worker" if isolate else _helper_name(sample) or name
        return self.profile.intern_thread(
            ThreadInfo(sample.pid, sample.tid, name, target.name, isolate)
        )

    def _refresh(self) -> None:
        """See who exited, who called exec, who has new threads, who was born."""
        now = time.monotonic_ns()
        for pid in list(self._sessions):
            try:
                self._refresh_one(pid, now)
            except (ProcessExited, ProcessNotFound):
                if not read_image(pid):
                    self._drop(pid)
            except (FaultError, MalformedData):
                continue  # caught in the middle of a change: the next look sees it whole
            except EngineUnavailable as err:
                # Of one process among several: of the only one there is nothing else to do.
                if self._options.strict or (len(self._sessions) == 1 and not self._options.wait):
                    raise
                self._drop(pid)
                self._note(pid, f" is left out: {err.message}")
            except (PermissionDenied, UnsupportedTarget) as err:
                # It called exec and became a program that we may not or cannot read.
                if self._options.strict:
                    raise
                self._drop(pid)
                self._note(pid, f" was left: {err.message}")
        if self._options.follow_children:
            self._adopt()

    def _refresh_one(self, pid: Pid, now_ns: int) -> None:
        session = self._sessions[pid]
        image = read_image(pid)
        if not image:
            self._drop(pid)
            return
        if image != session.image:
            session = self._restart(pid)
        if session.refresh_threads(now_ns):
            self.engine.set_target(session.target, session.plan, session.threads)
            reader = session.resolver.stopped_reader
            if reader is not None and isinstance(self.engine, StoppingEngine):
                self.engine.set_reader(pid, reader)
            self._introduce(session)

    def _restart(self, pid: Pid) -> Session:
        """Begin again with a process that called exec. If that fails, the old session stays."""
        session = self._open(pid)
        old = self._sessions[pid]
        self._forget(old)
        if old.threads:
            self.engine.remove_target(pid)
        old.close()
        self._keep(session)
        return session

    def _keep(self, session: Session) -> None:
        self._sessions[session.target.pid] = session
        self.saw_v8 = self.saw_v8 or session.v8 is not None

    def _drop(self, pid: Pid) -> None:
        """Forget a process that ended."""
        session = self._sessions.pop(pid, None)
        if session is not None:
            self._forget(session)
            self.engine.remove_target(pid)
            session.close()
            self._thread_index.pop(pid, None)

    def _forget(self, session: Session) -> None:
        """Keep of a process that is to be closed what the account of the recording needs."""
        self._past_js_frames += session.resolver.js_frames
        self._past_js_frames_named += session.resolver.js_frames_named
        self._past_scripts.add(session.scripts)

    def _introduce(self, session: Session) -> None:
        """Write down whom we sample, once."""
        info = session.info
        if self.infos.get(info.pid) == info:
            return
        self.infos[info.pid] = info
        meta = self.profile.meta
        if not meta.command:
            meta.command = info.command
            meta.node_version = info.node_version or ""
            meta.v8_version = info.v8_version or ""
        if session.note is not None:
            self._note(info.pid, f": {session.note}")

    def _note(self, pid: Pid, text: str) -> None:
        """Say something of a process; where it is the same of very many, of how many."""
        notes = self.profile.meta.notes
        key = text.replace(str(pid), "")
        noted = self._noted.get(key)
        if noted is None:
            noted = self._noted[key] = _Noted()
        noted.count += 1
        if noted.count <= MAX_NOTED:
            noted.last, noted.text = len(notes), f"process {pid}{text}"
            notes.append(noted.text)
        else:
            more = noted.count - MAX_NOTED
            notes[noted.last] = f"{noted.text} (and the same of {more} more)"

    def _adopt(self) -> None:
        """Pick up child processes that are node."""
        seen = set(self._sessions)
        queue = list(self._sessions)
        while queue:
            for child in _read_children(queue.pop()):
                if child in seen:
                    continue
                seen.add(child)
                queue.append(child)
                self.adopt(child)

    def _status(self) -> Status:
        sampling = self.engine.stats
        start = self.profile.meta.start_ns
        return Status(
            elapsed_ns=time.monotonic_ns() - start if start else 0,
            samples=len(self.profile),
            truncated=len(self.profile.truncated),
            lost=sum(sampling.lost.values()) + self._unresolved,
            idle=sampling.idle,
            processes=len(self._sessions),
            threads=sum(len(session.threads) for session in self._sessions.values()),
            rate_hz=1e9 / self.engine.period_ns,
        )

    def targets(self) -> list[tuple[Target, V8Binary | None]]:
        """Return the processes that are open now, and where V8 is in them."""
        return [(session.target, session.v8) for session in self._sessions.values()]

    def take_profile(self) -> Profile:
        """Return what was sampled since the last call, and begin a new profile.

        For recordings without end, between two statuses of `run`. Statistics are those of the
        interval; of the pauses, quantiles and maximum are those since the start.
        """
        self.update_stats()
        taken, now = self.profile, time.monotonic_ns()
        taken.meta.duration_ns = now - taken.meta.start_ns if taken.meta.start_ns else 0
        self.profile = Profile(
            replace(
                taken.meta,
                start_ns=now,
                start_time_unix_ns=time.time_ns(),
                notes=[],
            )
        )
        self._thread_index.clear()
        # What ended is of no further interest: memory stays as it is however long this goes on.
        self.infos = {pid: info for pid, info in self.infos.items() if pid in self._sessions}
        self._noted.clear()
        if not self._options.source_maps and not self._options.sources:
            self._past_scripts.close()
        before, self._taken = self._taken, copy.deepcopy(taken.stats)
        taken.stats = _difference(taken.stats, before)
        return taken

    def update_stats(self) -> None:
        """Bring `profile.stats` up to date."""
        stats, sampling = self.profile.stats, self.engine.stats
        self.profile.meta.period_ns = self.engine.period_ns
        stats.requested = sampling.requested
        stats.idle = sampling.idle
        stats.lost = dict(sampling.lost)
        if self._unresolved:
            stats.lost[LossReason.UNRESOLVED] = (
                stats.lost.get(LossReason.UNRESOLVED, 0) + self._unresolved
            )
        stats.truncated = {}
        for reason in self.profile.truncated.values():
            stats.truncated[reason] = stats.truncated.get(reason, 0) + 1
        resolvers = [session.resolver for session in self._sessions.values()]
        stats.js_frames = self._past_js_frames + sum(it.js_frames for it in resolvers)
        stats.js_frames_named = self._past_js_frames_named + sum(
            it.js_frames_named for it in resolvers
        )
        stats.pauses = self.engine.pauses()
        stats.profiler_cpu_ns = time.process_time_ns() - self._cpu_start_ns
        stats.profiler_cpu_ns += sum(map(read_cpu_ns, self.companions))


def _difference(stats: SamplingStats, before: SamplingStats) -> SamplingStats:
    """Return the account of the time since `before`; truncations are counted per profile anyway."""
    pauses = stats.pauses
    return SamplingStats(
        requested=stats.requested - before.requested,
        idle=stats.idle - before.idle,
        lost={
            reason: count - before.lost.get(reason, 0)
            for reason, count in stats.lost.items()
            if count != before.lost.get(reason, 0)
        },
        truncated=stats.truncated,
        pauses=PauseStats(
            pauses[0] - before.pauses[0],
            pauses.p50_ns,
            pauses.p99_ns,
            pauses.max_ns,
            pauses.total_ns - before.pauses.total_ns,
        ),
        js_frames=stats.js_frames - before.js_frames,
        js_frames_named=stats.js_frames_named - before.js_frames_named,
        profiler_cpu_ns=stats.profiler_cpu_ns - before.profiler_cpu_ns,
    )


def _helper_name(sample: Sample) -> str:
    """Return what a thread without JavaScript is for, by the function that it starts with.

    The names are those that Node 24 gives them. Source: src/node_platform.cc and
    src/inspector_agent.cc at v24.0.0; deps/uv/src/threadpool.c at v1.51.0.
    """
    for frame in sample.stack.frames[:_START_FRAMES]:
        if frame.name == "worker":
            return "libuv-worker"
        for part, name in _HELPERS.items():
            if part in frame.name:
                return name
    return ""


def _hint_child(pid: int) -> str:
    """Return what to type where a process is not node: shells and init programs have children."""
    queue = [pid]
    for parent in queue:  # grows while it is walked
        if len(queue) > MAX_DESCENDANTS:
            break
        for child in _read_children(parent):
            queue.append(child)
            try:
                target = Target.open(child)
            except JsspyError:
                continue
            try:
                if target.find_v8() is not None:
                    return f"--pid {child}    its child process is node"
            except JsspyError:
                continue
            finally:
                target.close()
    return "jsspy list    shows the node processes of this machine"


def _read_children(pid: int) -> list[Pid]:
    """Return the child processes of all threads of a process; none if it is gone."""
    children: list[Pid] = []
    try:
        with os.scandir(f"/proc/{pid}/task") as tasks:
            for task in tasks:
                words = read_proc(f"{task.path}/children").split()
                children += [Pid(int(word)) for word in words]
    except OSError:
        return children
    return children
