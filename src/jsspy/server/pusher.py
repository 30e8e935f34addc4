"""Turns what the collector hears into uploads, one batch per interval and destination."""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from jsspy.exporters import otlp, pyroscope
from jsspy.exporters.push import Upload, Uploader
from jsspy.model.profile import Profile, ThreadInfo
from jsspy.model.transform import filter_samples, merge
from jsspy.server.ring import Block
from jsspy.target.cgroup import NOWHERE, Place, read_place

DEFAULT_INTERVAL_S = 10.0


class PushKind(Enum):
    """Protocols. Values are the words of `--push`."""

    PYROSCOPE = "pyroscope"
    PYROSCOPE_INGEST = "pyroscope-ingest"
    OTLP = "otlp"


def encode_uploads(
    kind: PushKind,
    profile: Profile,
    service: str | None,
    labels: Mapping[str, str],
    places: Mapping[int, Place] | None = None,
) -> list[Upload]:
    """Return the requests that carry a profile: a series for each of its processes.

    Args:
        kind: The protocol.
        profile: Of any number of processes; without samples there is nothing to send.
        service: Name of the application; None is that of each process' systemd service, else its
            own name.
        labels: Are added to every series.
        places: Where the processes run, by pid.
    """
    processes: dict[int, ThreadInfo] = {}
    for thread in sorted(set(profile.thread)):
        info = profile.threads[thread]
        processes.setdefault(info.pid, info)
    parts: list[tuple[dict[str, str], Place, Profile]] = []
    for pid, info in processes.items():
        place = (places or {}).get(int(pid), NOWHERE)
        name = service or place.service or info.process_name or "node"
        own = {
            "service_name": name,
            "pid": str(pid),
            "hostname": socket.gethostname(),
            **{key: value for key, value in place._asdict().items() if value},
            **labels,
        }

        def of_process(thread: ThreadInfo, pid: int = pid) -> bool:
            return thread.pid == pid

        parts.append((own, place, filter_samples(profile, threads=of_process)))
    if not parts:
        return []
    match kind:
        case PushKind.PYROSCOPE:
            body = pyroscope.encode_push([(own, part) for own, _, part in parts])
            return [Upload(pyroscope.PUSH_PATH, "application/json", body)]
        case PushKind.PYROSCOPE_INGEST:
            uploads = []
            for own, _, part in parts:
                query, content_type, data = pyroscope.encode_ingest(own, part)
                uploads.append(Upload(f"{pyroscope.INGEST_PATH}?{query}", content_type, data))
            return uploads
        case PushKind.OTLP:
            request = otlp.encode_request(
                [
                    otlp.ResourceProfile(_resource(own, place, labels), part, os.urandom(16))
                    for own, place, part in parts
                ]
            )
            return [Upload(otlp.PATH, otlp.CONTENT_TYPE, request)]


def _resource(
    own: Mapping[str, str], place: Place, labels: Mapping[str, str]
) -> dict[str, str | int]:
    """Return a resource's attributes, named as OpenTelemetry's semantic conventions have it."""
    found = {"container.id": place.container_id, "k8s.pod.uid": place.pod_uid}
    return {
        "service.name": own["service_name"],
        "process.pid": int(own["pid"]),
        "process.runtime.name": "nodejs",
        "host.name": own["hostname"],
        **{key: value for key, value in found.items() if value},
        **labels,
    }


class _Batch(NamedTuple):
    profiles: list[Profile]
    places: dict[int, Place]


class Pusher:
    """A listener of the collector: gathers blocks, and hands over an upload per interval."""

    def __init__(
        self,
        destinations: Sequence[tuple[PushKind, Uploader]],
        *,
        interval_s: float = DEFAULT_INTERVAL_S,
        service: str | None = None,
        labels: Mapping[str, str] | None = None,
        find_place: Callable[[int], Place] = read_place,
    ) -> None:
        self._find_place = find_place
        self._destinations = tuple(destinations)
        self._interval_ns = round(interval_s * 1e9)
        self._service = service
        self._labels = dict(labels or {})
        self._profiles: list[Profile] = []
        self._start_ns = 0
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._places: dict[int, Place] = {}
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
        for thread in profile.threads:
            # Now: it may be gone when the batch is sent.
            if thread.pid not in self._places:
                self._places[thread.pid] = self._find_place(thread.pid)
        if block.end_ns - self._start_ns >= self._interval_ns:
            self._hand_over()

    def _hand_over(self) -> None:
        self._batches.put(_Batch(self._profiles, self._places))
        self._profiles, self._places = [], {}

    def close(self) -> None:
        """Hand over what is left, and give the uploaders some seconds to send it."""
        if self._profiles:
            self._hand_over()
        self._batches.put(None)
        self._thread.join()
        for uploader in self.uploaders:
            uploader.close()

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            profile = merge(batch.profiles)
            for kind, uploader in self._destinations:
                for upload in encode_uploads(
                    kind, profile, self._service, self._labels, batch.places
                ):
                    uploader.add(upload)
