"""Turns what the collector hears into uploads, one batch per interval and destination."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Mapping, Sequence
from enum import Enum

from jsspy.exporters import otlp, pyroscope
from jsspy.exporters.push import Upload, Uploader
from jsspy.model.profile import Profile, ThreadInfo
from jsspy.model.transform import filter_samples, merge
from jsspy.server.ring import Block

DEFAULT_INTERVAL_S = 10.0


class PushKind(Enum):
    """Protocols. Values are the words of `--push`."""

    PYROSCOPE = "pyroscope"
    PYROSCOPE_INGEST = "pyroscope-ingest"
    OTLP = "otlp"


def encode_uploads(
    kind: PushKind, profile: Profile, service: str | None, labels: Mapping[str, str]
) -> list[Upload]:
    """Return the requests that carry a profile: a series for each of its processes.

    Args:
        kind: The protocol.
        profile: Of any number of processes; without samples there is nothing to send.
        service: Name of the application; None is each process' own name.
        labels: Are added to every series.
    """
    processes: dict[int, ThreadInfo] = {}
    for thread in sorted(set(profile.thread)):
        info = profile.threads[thread]
        processes.setdefault(info.pid, info)
    parts: list[tuple[dict[str, str], Profile]] = []
    for pid, info in processes.items():
        name = service or info.process_name or "node"
        own = {"service_name": name, "pid": str(pid), "hostname": socket.gethostname(), **labels}

        def of_process(thread: ThreadInfo, pid: int = pid) -> bool:
            return thread.pid == pid

        parts.append((own, filter_samples(profile, threads=of_process)))
    if not parts:
        return []
    match kind:
        case PushKind.PYROSCOPE:
            body = pyroscope.encode_push([(own, part) for own, part in parts])
            return [Upload(pyroscope.PUSH_PATH, "application/json", body)]
        case PushKind.PYROSCOPE_INGEST:
            uploads = []
            for own, part in parts:
                query, content_type, data = pyroscope.encode_ingest(own, part)
                uploads.append(Upload(f"{pyroscope.INGEST_PATH}?{query}", content_type, data))
            return uploads
        case PushKind.OTLP:
            request = otlp.encode_request(
                [
                    otlp.ResourceProfile(_resource(own, labels), part, os.urandom(16))
                    for own, part in parts
                ]
            )
            return [Upload(otlp.PATH, otlp.CONTENT_TYPE, request)]


def _resource(own: Mapping[str, str], labels: Mapping[str, str]) -> dict[str, str | int]:
    return {
        "service.name": own["service_name"],
        "process.pid": int(own["pid"]),
        "process.runtime.name": "nodejs",
        "host.name": own["hostname"],
        **labels,
    }


class Pusher:
    """A listener of the collector: gathers blocks, and hands over an upload per interval."""

    def __init__(
        self,
        destinations: Sequence[tuple[PushKind, Uploader]],
        *,
        interval_s: float = DEFAULT_INTERVAL_S,
        service: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        self._destinations = tuple(destinations)
        self._interval_ns = round(interval_s * 1e9)
        self._service = service
        self._labels = dict(labels or {})
        self._profiles: list[Profile] = []
        self._start_ns = 0
        self._batches: queue.SimpleQueue[list[Profile] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="jsspy-pusher", daemon=True)
        self._thread.start()

    @property
    def uploaders(self) -> list[Uploader]:
        """Who sends."""
        return [uploader for _, uploader in self._destinations]

    def __call__(self, block: Block, profile: Profile) -> None:
        """Take one block; called by the collector."""
        if not self._profiles:
            self._start_ns = block.start_ns
        self._profiles.append(profile)
        if block.end_ns - self._start_ns >= self._interval_ns:
            self._batches.put(self._profiles)
            self._profiles = []

    def close(self) -> None:
        """Hand over what is left, and give the uploaders some seconds to send it."""
        if self._profiles:
            self._batches.put(self._profiles)
            self._profiles = []
        self._batches.put(None)
        self._thread.join()
        for uploader in self.uploaders:
            uploader.close()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            profile = merge(batch)
            for kind, uploader in self._destinations:
                for upload in encode_uploads(kind, profile, self._service, self._labels):
                    uploader.add(upload)
