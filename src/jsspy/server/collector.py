"""Starts the sampler, and keeps what it says: totals since the start, and the last minutes.

One thread reads the sampler's pipe. Whoever asks for metrics or profiles does so from any thread;
what they wait for is at most the adding up of one second's samples.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector as MetricCollector

import jsspy
from jsspy.errors import JsspyError, MalformedData
from jsspy.exporters.prometheus import (
    Signatures,
    SignaturesGauge,
    Totals,
    TotalsCollector,
    encode_metrics,
)
from jsspy.formats.native import Native, NativeReader
from jsspy.model.profile import Profile
from jsspy.server import stream
from jsspy.server.ring import Block, Ring, join_blocks
from jsspy.server.sampling import Sampling
from jsspy.symbolize.original import LiveMapper
from jsspy.target.cgroup import Place, read_place

DEFAULT_RING_S = 300.0
START_TIMEOUT_S = 60.0
"""The first look at a binary takes up to a second; more on a busy machine."""

_STOP_TIMEOUT_S = 5.0
_BOOT = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from jsspy.cli.sampler import main; "
    "sys.exit(main())"
)
"""The sampler runs the very jsspy that started it, whatever the working directory holds."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Why the sampler ended."""

    error: str | None = None
    hint: str | None = None
    exit_code: int = 0
    """jsspy's own, where there is an error."""
    command_status: int | None = None
    """How the command ended: its exit code, or minus the signal."""


@dataclass(slots=True)
class TargetState:
    """Who is sampled, as the sampler last said."""

    targets: list[dict[str, Any]] = field(default_factory=list)
    """pid, command, node_version, v8_version of each process, and where it runs (`Place`)."""
    denied: int = 0
    """Processes that were found and may not be read."""


class Collector:
    """Runs a sampler and adds up what it sends. Used as `with Collector(…) as collector:`."""

    def __init__(
        self,
        sampling: Sampling,
        *,
        ring_s: float = DEFAULT_RING_S,
        functions: int = 50,
        listeners: Sequence[Callable[[Block, Profile], None]] = (),
        mapper: LiveMapper | None = None,
    ) -> None:
        """Describe what to do; `start` does it.

        Args:
            sampling: Whom, and how often.
            ring_s: How many seconds `profile` reaches back.
            functions: How many functions have a metric of their own.
            listeners: Called with every block, in the reading thread; they return soon.
            mapper: Maps frames to original sources, in the same thread: the sampler has no part in
                it. None leaves them as they are.
        """
        self.sampling = sampling
        self.ring = Ring(round(ring_s * 1e9))
        self.totals = Totals(functions=functions)
        self.signatures = Signatures()
        self.state = TargetState()
        self.places: dict[int, Place] = {}
        """Container, pod and service of each process that is sampled."""
        self.ended: Ended | None = None
        self.started_unix_s = time.time()
        self.listeners = list(listeners)
        """Called with every block; not to be changed once it has started."""
        self.on_blocked: Callable[[int, int], None] | None = None
        """Called, once for each time, with the pid and how long (ns) its loop is blocked so far."""
        self.families: list[MetricCollector] = []
        """Further metrics, of those who listen."""
        self._mapper = mapper
        self._lock = threading.Lock()
        self._encoded: dict[tuple[str, str | None, bool], tuple[bytes, str]] = {}
        """Metrics as they were asked for since the last block, by content type: they change once a
        second."""
        self._spoke = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the sampler, and wait until it samples.

        Raises:
            JsspyError: It cannot sample that; the class is JsspyError's own, the text and the exit
                code are the sampler's.
        """
        read_end, write_end = os.pipe2(os.O_CLOEXEC)
        has_command = bool(self.sampling.command)
        config = json.dumps(asdict(self.sampling) | {"descriptor": write_end})
        root = str(Path(jsspy.__file__).resolve().parent.parent)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _BOOT, root, config],
                pass_fds=(write_end,),
                stdin=None if has_command else subprocess.DEVNULL,
                stdout=None if has_command else subprocess.DEVNULL,
            )
        except OSError:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        source = os.fdopen(read_end, "rb")
        self._thread = threading.Thread(
            target=self._read, args=(source,), name="jsspy-collector", daemon=True
        )
        self._thread.start()
        if not self._spoke.wait(START_TIMEOUT_S):
            self.stop()
            raise JsspyError(f"the sampler did not begin within {START_TIMEOUT_S:g} s")
        if self.ended is not None and self.ended.error is not None:
            ended = self.ended
            self.stop()
            failure = JsspyError(ended.error or "", hint=ended.hint)
            failure.exit_code = ended.exit_code
            raise failure

    def stop(self) -> None:
        """End the sampler. A command that it started gets SIGTERM from it."""
        process, thread = self._process, self._thread
        if process is None or thread is None:
            return
        if process.poll() is None:
            process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
        if process.poll() is None and not self.sampling.command:
            process.kill()
            process.wait()
        thread.join(_STOP_TIMEOUT_S)

    def send_signal(self, number: int) -> None:
        """Pass a signal on to the sampler, which passes it on to the command that it started."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
        elif (pid := self.orphan()) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def orphan(self) -> int | None:
        """Return the pid of the command if it runs on although its sampler is gone.

        In a container that we are the first process of it is our child by then, and its exit code
        can be had.
        """
        ended = self.ended
        if ended is None or ended.command_status is not None or not self.sampling.command:
            return None
        if not self.state.targets:
            return None
        pid = int(self.state.targets[0]["pid"])
        try:
            waited, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            return pid if Path(f"/proc/{pid}").exists() else None
        if waited:
            self.ended = replace(ended, command_status=os.waitstatus_to_exitcode(status))
            return None
        return pid

    def is_running(self) -> bool:
        """Say whether the sampler still runs."""
        return self.ended is None

    def metrics(
        self, accept: str = "", *, promfiler: str | None = None, own: bool = True
    ) -> tuple[bytes, str]:
        """Return the metrics and their content type. Asking changes nothing.

        They are as of the last block, at most about a second ago: any number of scrapers cost no
        more than one a second.

        Args:
            accept: The Accept header; it chooses between Prometheus' text and OpenMetrics.
            promfiler: The namespace of promfiler's gauge; None leaves it out.
            own: Include jsspy's own metrics.
        """
        asked = choose_encoder(accept)[1], promfiler, own
        with self._lock:
            if asked in self._encoded and self.ended is None:
                return self._encoded[asked]
            self.totals.serving_cpu_ns = time.process_time_ns()
            families: list[MetricCollector] = []
            if own:
                families += [TotalsCollector(self.totals, jsspy.__version__), *self.families]
            gauge = None if promfiler is None else SignaturesGauge(self.signatures, promfiler)
            encoded = self._encoded[asked] = encode_metrics(families, accept, gauge)
            return encoded

    def reset_signatures(self) -> None:
        """Set promfiler's gauge back to zero."""
        with self._lock:
            self.signatures.reset()
            self._encoded.clear()

    def profile(
        self, start_ns: int = 0, end_ns: int = 1 << 62, *, pid: int | None = None
    ) -> Profile:
        """Return what was sampled in a window (CLOCK_MONOTONIC), as far back as the ring reaches.

        Args:
            start_ns: From then on,
            end_ns: and before that.
            pid: Of this process only.
        """
        with self._lock:
            blocks = self.ring.find(start_ns, end_ns)
        return join_blocks(blocks, start_ns, end_ns, pid)

    def _read(self, source: io.BufferedReader) -> None:
        with source:
            try:
                for tag, content in stream.iter_messages(source):
                    self._take(tag, content)
            except MalformedData as err:
                self.ended = Ended(error=err.message, exit_code=1)
        if self.ended is None:
            self.ended = Ended(error=f"the sampler {self._how_it_ended()}", exit_code=1)
        self._spoke.set()

    def _how_it_ended(self) -> str:
        process = self._process
        if process is None:
            return "was not started"
        try:
            status = process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if status < 0:
            with suppress(ValueError):
                return f"was ended by {signal.Signals(-status).name}"
        return f"ended with exit code {status}"

    def _take(self, tag: bytes, content: bytes) -> None:
        if tag == stream.PROFILE:
            try:
                profile = NativeReader().read(io.BytesIO(content))
            except MalformedData:
                # A mistake of ours; whoever is sampled must not suffer by it.
                with self._lock:
                    self.totals.unreadable += 1
                return
            if self._mapper is not None and self._mapper.map_profile(profile):
                out = io.BytesIO()
                Native().write(profile, out)
                content = out.getvalue()
            start = profile.meta.start_ns
            block = Block(start, start + profile.meta.duration_ns, content)
            self._find_places(int(thread.pid) for thread in profile.threads)
            with self._lock:
                self.ring.add(block)
                self.totals.add(profile, self.places)
                self.signatures.add(profile)
                self._encoded.clear()
            for listener in self.listeners:
                listener(block, profile)
            return
        value = json.loads(content)
        if tag == stream.TARGETS:
            pids = [int(target["pid"]) for target in value["targets"]]
            self.places = {pid: place for pid, place in self.places.items() if pid in pids}
            self._find_places(pids)
            if self._mapper is not None:
                versions = {int(one["pid"]): one["node_version"] or "" for one in value["targets"]}
                self._mapper.follow(versions)
            targets = [one | self.places[int(one["pid"])]._asdict() for one in value["targets"]]
            self.state = TargetState(targets, value["denied"])
            with self._lock:
                self.totals.targets = len(self.state.targets)
                self.totals.denied = self.state.denied
                self._encoded.clear()
            self._spoke.set()
        elif tag == stream.BLOCKED and self.on_blocked is not None:
            self.on_blocked(int(value["pid"]), int(value["blocked_ns"]))
        elif tag == stream.END:
            self.ended = Ended(**value)

    def _find_places(self, pids: Iterable[int]) -> None:
        """Look where processes run that we did not know yet."""
        for pid in pids:
            if pid not in self.places:
                self.places[pid] = read_place(pid)
