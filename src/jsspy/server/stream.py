"""What the sampler says to the server: messages through a pipe.

The sampler is a process of its own, so that nothing that a server does can delay a sample. Each
second it sends what it sampled as a whole little `.jsspy` recording. A message is 4 bytes that say
what it is, its size as a little-endian u32, and that many bytes.

The pipe never makes the sampler wait: what does not fit is kept, up to a bound; beyond it the
oldest recording is dropped, and its samples count as lost.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, BinaryIO, Final, NamedTuple

from jsspy.errors import MalformedData
from jsspy.formats.native import Native
from jsspy.model.profile import Profile
from jsspy.model.sample import LossReason

PROFILE: Final = b"PROF"
"""A `.jsspy` recording of one interval."""
TARGETS: Final = b"TARG"
"""JSON: who is sampled."""
BLOCKED: Final = b"BLOK"
"""JSON: an event loop that does not turn."""
END: Final = b"ENDS"
"""JSON: why there is no more."""

MAX_MESSAGE: Final = 1 << 28
MAX_PENDING: Final = 64
"""Recordings that wait for the server to read: a minute of them."""

_HEADER: Final = struct.Struct("<4sI")
_PIPE_BYTES: Final = 1 << 20


def iter_messages(source: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield (tag, content) until the stream ends; a message that is cut off is not one.

    Raises:
        MalformedData: A message is larger than any that is sent.
    """
    while len(header := source.read(_HEADER.size)) == _HEADER.size:
        tag, size = _HEADER.unpack(header)
        if size > MAX_MESSAGE:
            raise MalformedData("sampler", f"a message of {size} bytes")
        content = source.read(size)
        if len(content) < size:
            return
        yield tag, content


class _Message(NamedTuple):
    data: bytes
    requested: int = 0
    """Samples that are lost if this is dropped."""
    lost: dict[LossReason, int] | None = None
    """The same by reason; None is not to be dropped."""


class StreamWriter:
    """The sampler's end of the pipe."""

    def __init__(self, descriptor: int) -> None:
        """Take over an open descriptor of a pipe."""
        self._descriptor = descriptor
        self._pending: deque[_Message] = deque()
        self._sent = 0
        """Bytes of the first pending message that are in the pipe already."""
        self._dropped: dict[LossReason, int] = {}
        self._dropped_requested = 0
        self.is_open = True
        os.set_blocking(descriptor, False)
        # More than the 64 KiB that a pipe has; /proc/sys/fs/pipe-max-size may forbid it.
        with suppress(OSError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def send_profile(self, profile: Profile) -> None:
        """Send what was sampled in one interval."""
        stats = profile.stats
        stats.requested += self._dropped_requested
        for reason, count in self._dropped.items():
            stats.lost[reason] = stats.lost.get(reason, 0) + count
        self._dropped, self._dropped_requested = {}, 0
        out = io.BytesIO()
        Native().write(profile, out)
        lost = dict(stats.lost)
        lost[LossReason.RING_FULL] = lost.get(LossReason.RING_FULL, 0) + len(profile)
        self._queue(_Message(_packed(PROFILE, out.getvalue()), stats.requested, lost))

    def send_json(self, tag: bytes, value: Any) -> None:
        """Send a message that is JSON."""
        self._queue(_Message(_packed(tag, json.dumps(value).encode())))

    def _queue(self, message: _Message) -> None:
        self._pending.append(message)
        self.flush()
        if len(self._pending) > MAX_PENDING:
            self._drop()

    def _drop(self) -> None:
        """Drop the oldest recording of which nothing was sent yet."""
        for index, message in enumerate(self._pending):
            if message.lost is None or (index == 0 and self._sent):
                continue
            del self._pending[index]
            for reason, count in message.lost.items():
                self._dropped[reason] = self._dropped.get(reason, 0) + count
            self._dropped_requested += message.requested
            return

    def flush(self) -> None:
        """Put into the pipe what fits. `is_open` becomes false if nobody reads it any more."""
        while self._pending and self.is_open:
            data = self._pending[0].data
            try:
                self._sent += os.write(self._descriptor, memoryview(data)[self._sent :])
            except BlockingIOError:
                return
            except OSError as err:
                if err.errno != errno.EPIPE:
                    raise
                self.is_open = False
                return
            if self._sent == len(data):
                self._pending.popleft()
                self._sent = 0

    def close(self) -> None:
        """Send what is left, waiting for the server to read it, and close the pipe."""
        os.set_blocking(self._descriptor, True)
        self.flush()
        os.close(self._descriptor)
        self.is_open = False


def _packed(tag: bytes, content: bytes) -> bytes:
    return _HEADER.pack(tag, len(content)) + content
