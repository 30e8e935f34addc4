"""The black box: when something happens, what came before is written to a file.

The ring holds the last minutes anyway. A trigger makes a `.jsspy` recording of it: CPU use above a
share, an event loop that does not turn, a signal, a request. After one there is a pause before the
next of its kind, and only so many files are kept.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector as MetricCollector

from jsspy.errors import ExportError, JsspyError
from jsspy.exporters.file import FileExporter
from jsspy.formats.native import Native
from jsspy.model.profile import Profile
from jsspy.server.collector import Collector
from jsspy.server.ring import Block

PREFIX = "jsspy-"

CPU_WINDOW_NS = 10_000_000_000
"""Over which CPU use is averaged."""

PAUSE_NS = 60_000_000_000
"""Between two recordings of the same reason and process."""

_SETTLE_S = 1.5
"""After a trigger: until what is being sampled as it happens has arrived, too."""


@dataclass(frozen=True, slots=True)
class Triggers:
    """What makes a recording, besides being told to."""

    cpu_share: float | None = None
    """CPU time of a process' JavaScript threads per time; 1 is one core."""
    blocked_s: float | None = None
    """How long an event loop may take for one callback. The sampler watches this."""


class BlackBox(MetricCollector):
    """Writes recordings into a directory; a listener of the collector."""

    def __init__(
        self,
        collector: Collector,
        directory: Path,
        triggers: Triggers,
        *,
        keep: int = 20,
        note: Callable[[str], None],
    ) -> None:
        """Watch a collector that has not started yet.

        Args:
            collector: Whose ring is written.
            directory: Where to.
            triggers: When to.
            keep: How many recordings there may be; the oldest are removed.
            note: Takes a sentence for people.

        Raises:
            ExportError: The directory cannot be written.
        """
        self._collector = collector
        self._directory = directory
        self._triggers = triggers
        self._keep = keep
        self._note = note
        self._window: deque[tuple[int, int, dict[int, int]]] = deque()
        self._last: dict[tuple[str, int], int] = {}
        self._written: dict[str, int] = {}
        self._number = 0
        self._lock = threading.Lock()
        self._reasons: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise ExportError(str(directory), (err.strerror or str(err)).lower()) from err
        FileExporter(str(directory / f"{PREFIX}check.jsspy")).check()
        self._thread = threading.Thread(target=self._run, name="jsspy-blackbox", daemon=True)
        self._thread.start()
        collector.listeners.append(self.look)
        collector.families.append(self)
        collector.on_blocked = self.on_blocked

    def look(self, block: Block, profile: Profile) -> None:
        """See whether a process uses too much CPU; called by the collector."""
        if self._triggers.cpu_share is None:
            return
        used: dict[int, int] = {}
        for thread, weight in zip(profile.thread, profile.weight, strict=True):
            pid = int(profile.threads[thread].pid)
            used[pid] = used.get(pid, 0) + weight
        window = self._window
        window.append((block.start_ns, block.end_ns, used))
        while window[0][1] <= block.end_ns - CPU_WINDOW_NS:
            window.popleft()
        length = block.end_ns - window[0][0]
        if length < 0.8 * CPU_WINDOW_NS:
            return
        for pid in used:
            share = sum(one.get(pid, 0) for _, _, one in window) / length
            if share > self._triggers.cpu_share and self._is_due("cpu", pid, block.end_ns):
                self._note(f"process {pid} uses {100 * share:.0f} % of a CPU")
                self._reasons.put(f"cpu-{pid}")

    def on_blocked(self, pid: int, blocked_ns: int) -> None:
        """Take what the sampler says of an event loop; called by the collector."""
        if self._is_due("blocked", pid, time.monotonic_ns()):
            self._note(f"the event loop of process {pid} is blocked for {blocked_ns / 1e9:.1f} s")
            self._reasons.put(f"blocked-{pid}")

    def request(self, reason: str) -> None:
        """Write a recording soon, in another thread."""
        self._reasons.put(reason)

    def write(self, reason: str) -> str:
        """Write a recording now; return its path.

        Raises:
            JsspyError: There is nothing to write.
            ExportError: It cannot be written.
        """
        with self._lock:
            profile = self._collector.profile()
            if not len(profile):
                raise JsspyError("nothing was sampled in the time that the ring reaches back")
            profile.meta.notes.append(f"Written because of: {reason}.")
            self._number += 1
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
            path = self._directory / f"{PREFIX}{stamp}-{self._number:03d}-{reason}.jsspy"
            FileExporter(str(path)).export(profile, Native())
            kind = reason.partition("-")[0]
            self._written[kind] = self._written.get(kind, 0) + 1
            recordings = sorted(self._directory.glob(f"{PREFIX}*.jsspy"))
            for old in recordings[: -self._keep]:
                old.unlink(missing_ok=True)
            return str(path)

    def close(self) -> None:
        """Write what was triggered, and end."""
        self._reasons.put(None)
        self._thread.join()

    def _is_due(self, kind: str, pid: int, now_ns: int) -> bool:
        last = self._last.get((kind, pid))
        if last is not None and now_ns < last + PAUSE_NS:
            return False
        self._last = {key: at for key, at in self._last.items() if now_ns < at + PAUSE_NS}
        self._last[kind, pid] = now_ns
        return True

    def _run(self) -> None:
        while (reason := self._reasons.get()) is not None:
            if self._collector.is_running():
                time.sleep(_SETTLE_S)
            try:
                self._note(f"wrote {self.write(reason)}")
            except JsspyError as err:
                self._note(f"no recording because of {reason}: {err.message}")

    def collect(self) -> Iterator[Metric]:
        """Yield the families; see `Collector.collect` of prometheus_client."""
        written = CounterMetricFamily(
            "jsspy_recordings", "Recordings that triggers made.", labels=["reason"]
        )
        for reason in ("cpu", "blocked", "signal", "http"):
            written.add_metric([reason], self._written.get(reason, 0))
        yield written
