"""Sending to a server that is not always there.

What is to be sent is written to disk first, in order, and removed once the server has it: neither
an unreachable server nor an end of ours loses any of it. The disk space has a bound; beyond it the
oldest goes, and is counted. Between attempts there are pauses that grow, each drawn at random, so
that many senders do not come back all at once.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from jsspy import __version__
from jsspy.errors import ExportError

DEFAULT_SPOOL_BYTES = 64 << 20

_TIMEOUT_S = 15.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_MAX_ANSWER = 2000
_MAX_RETRY_AFTER_S = 600.0
_MAX_SPOOLS = 32
_SUFFIX = ".push"
_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be others later. All other refusals are for good."""


class Upload(NamedTuple):
    """A request that is to be made, without what says who we are."""

    path: str
    """With its query; is appended to the server's address."""
    content_type: str
    body: bytes


class Spool:
    """A directory with uploads, oldest first, that is ours alone."""

    def __init__(self, directory: Path, max_bytes: int = DEFAULT_SPOOL_BYTES) -> None:
        """Open a directory, and what another process left in it.

        Args:
            directory: Is made if it is not there. If another process has it, one beside it is used.
            max_bytes: The bound for all files.

        Raises:
            ExportError: It cannot be made or written.
        """
        self.dropped = 0
        """Uploads that had to go because the spool was full."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._busy: Path | None = None
        try:
            self.directory = self._claim(directory)
            self._sizes = {
                path: path.stat().st_size for path in sorted(self.directory.glob(f"*{_SUFFIX}"))
            }
        except OSError as err:
            raise ExportError(str(directory), (err.strerror or str(err)).lower()) from err
        self._number = 0

    def _claim(self, directory: Path) -> Path:
        for number in range(_MAX_SPOOLS):
            path = directory if not number else directory.with_name(f"{directory.name}.{number}")
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._guard = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._guard)
                continue
            return path
        raise OSError(f"{_MAX_SPOOLS} processes have theirs there already")

    def __len__(self) -> int:
        return len(self._sizes)

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(self._sizes.values())

    def add(self, upload: Upload) -> None:
        """Append an upload; the oldest ones make room for it.

        Raises:
            ExportError: It cannot be written.
        """
        head = json.dumps({"path": upload.path, "content_type": upload.content_type}).encode()
        data = head + b"\n" + upload.body
        with self._lock:
            self._number += 1
            path = self.directory / f"{time.time_ns():020d}-{self._number:06d}{_SUFFIX}"
            temporary = path.with_suffix(".tmp")
            try:
                temporary.write_bytes(data)
                temporary.rename(path)
            except OSError as err:
                temporary.unlink(missing_ok=True)
                self.dropped += 1
                reason = (err.strerror or str(err)).lower()
                raise ExportError(str(path), reason) from err
            self._sizes[path] = len(data)
            for oldest in list(self._sizes)[:-1]:
                if self.size <= self._max_bytes:
                    break
                if oldest != self._busy:
                    self._remove(oldest)
                    self.dropped += 1

    def take(self) -> tuple[Path, Upload] | None:
        """Return the oldest upload, which stays where it is until `remove` or `release`."""
        with self._lock:
            while self._sizes:
                path = next(iter(self._sizes))
                try:
                    head, _, body = path.read_bytes().partition(b"\n")
                    fields = json.loads(head)
                    upload = Upload(str(fields["path"]), str(fields["content_type"]), body)
                except (OSError, ValueError, KeyError, TypeError):
                    self._remove(path)  # damaged, or somebody tidied up
                    self.dropped += 1
                    continue
                self._busy = path
                return path, upload
            return None

    def remove(self, path: Path) -> None:
        """Forget an upload: the server has it, or will never take it."""
        with self._lock:
            self._busy = None
            self._remove(path)

    def release(self) -> None:
        """Let what was taken be dropped again if there is no room."""
        with self._lock:
            self._busy = None

    def _remove(self, path: Path) -> None:
        self._sizes.pop(path, None)
        with suppress(OSError):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the directory to others, with what is in it."""
        os.close(self._guard)


@dataclass(slots=True)
class PushStats:
    """What became of the uploads."""

    sent: int = 0
    rejected: int = 0
    """The server does not want them, now or later."""
    retries: int = 0


def _draw(longest_s: float) -> float:
    """Draw the length of a pause: any length is as likely as any other."""
    return random.uniform(0, longest_s)  # noqa: S311 - nobody gains by guessing it


class Uploader:
    """Sends what is in a spool, in a thread of its own, until `close`."""

    def __init__(
        self,
        url: str,
        spool: Spool,
        *,
        headers: Mapping[str, str] | None = None,
        context: ssl.SSLContext | None = None,
        note: Callable[[str], None] | None = None,
        draw: Callable[[float], float] = _draw,
    ) -> None:
        """Begin to send.

        Args:
            url: Address of the server; the upload's path is appended.
            spool: Is closed with this.
            headers: Who we are.
            context: For https; None is the system's.
            note: Takes a sentence when things change for better or worse.
            draw: Draws the length of a pause, given the longest that it may have.

        Raises:
            ExportError: The address is none.
        """
        if not url.startswith(("http://", "https://")):
            raise ExportError(url, "it is no http:// or https:// address")
        self.url = url.rstrip("/")
        self.spool = spool
        self.stats = PushStats()
        self._headers = {"User-Agent": f"jsspy/{__version__}", **(headers or {})}
        self._note = note or (lambda _: None)
        self._draw = draw
        self._said_dropped = 0
        self._is_failing = False
        self._wake = threading.Event()
        self._is_closing = False
        self._pause = _FIRST_PAUSE_S
        self._opener = urllib.request.build_opener(
            _NoRedirects, urllib.request.HTTPSHandler(context=context)
        )
        self._thread = threading.Thread(target=self._run, name="jsspy-push", daemon=True)
        self._thread.start()

    def add(self, upload: Upload) -> None:
        """Hand over an upload. It is on disk when this returns."""
        try:
            self.spool.add(upload)
        except ExportError as err:
            self._note(err.message)
        if self.spool.dropped != self._said_dropped:
            dropped = self.spool.dropped - self._said_dropped
            self._said_dropped = self.spool.dropped
            self._note(
                f"push to {self.url}: the spool is full, {dropped} of the oldest uploads dropped "
                f"({self.spool.dropped} so far)"
            )
        self._wake.set()

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what can be sent in some seconds; the rest stays on disk for the next time."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(timeout_s)
        if len(self.spool):
            self._note(
                f"push to {self.url}: {len(self.spool)} uploads stay in {self.spool.directory}"
            )
        self.spool.close()

    def _run(self) -> None:
        while True:
            taken = self.spool.take()
            if taken is None:
                if self._is_closing:
                    return
                self._wake.wait()
                self._wake.clear()
                continue
            path, upload = taken
            wait_s = self._send(path, upload)
            if wait_s is None:
                continue
            self.spool.release()
            if self._is_closing:
                return
            self._sleep(wait_s)

    def _sleep(self, seconds: float) -> None:
        """Wait, unless we are closing. What is added meanwhile waits as well."""
        end = time.monotonic() + seconds
        while not self._is_closing and (left := end - time.monotonic()) > 0:
            self._wake.wait(left)
            self._wake.clear()

    def _send(self, path: Path, upload: Upload) -> float | None:
        """Send one upload; return how long to wait before the next attempt, None if it is done."""
        request = urllib.request.Request(  # noqa: S310 - checked in the constructor
            self.url + upload.path,
            data=upload.body,
            headers={**self._headers, "Content-Type": upload.content_type},
            method="POST",
        )
        retry_after = 0.0
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                answer.read(_MAX_ANSWER)
        except urllib.error.HTTPError as err:
            with err:
                said = err.read(_MAX_ANSWER).decode("utf-8", "replace").strip()
            reason = f"{err.code} {said or err.reason}"
            if err.code not in _RETRIED:
                self.spool.remove(path)
                self.stats.rejected += 1
                self._note(f"push to {self.url}: refused for good: {reason}")
                return None
            with suppress(ValueError):
                retry_after = min(float(err.headers.get("Retry-After", "0")), _MAX_RETRY_AFTER_S)
        except (OSError, ValueError) as err:  # ValueError: an answer that is no HTTP
            reason = str(getattr(err, "reason", err))
        else:
            self.spool.remove(path)
            self.stats.sent += 1
            self._pause = _FIRST_PAUSE_S
            if self._is_failing:
                self._is_failing = False
                self._note(f"push to {self.url}: works again; {len(self.spool)} uploads to go")
            return None
        self.stats.retries += 1
        if not self._is_failing:
            self._is_failing = True
            self._note(f"push to {self.url} fails: {reason}; kept in {self.spool.directory}")
        wait_s = max(self._draw(self._pause), retry_after)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)
        return wait_s


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirection of a POST is a mistake in the address: it is shown, not followed."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        """Follow nothing."""
        del arguments, options


class PushCollector(Collector):
    """What is pushed, as metrics."""

    def __init__(self, uploaders: list[Uploader]) -> None:
        self._uploaders = uploaders

    def collect(self) -> Iterator[Metric]:
        """Yield the families; see `Collector.collect`."""
        uploads = CounterMetricFamily(
            "jsspy_push_uploads", "Uploads by what became of them.", labels=["url", "result"]
        )
        retries = CounterMetricFamily("jsspy_push_retries", "Attempts that failed.", labels=["url"])
        spool = GaugeMetricFamily(
            "jsspy_push_spool_bytes", "What waits on disk to be sent.", labels=["url"]
        )
        for one in self._uploaders:
            uploads.add_metric([one.url, "sent"], one.stats.sent)
            uploads.add_metric([one.url, "rejected"], one.stats.rejected)
            uploads.add_metric([one.url, "dropped"], one.spool.dropped)
            retries.add_metric([one.url], one.stats.retries)
            spool.add_metric([one.url], one.spool.size)
        yield from (uploads, retries, spool)
