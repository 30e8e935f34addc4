"""Values from one process to its child without ever waiting for it.

Whoever samples must not stand still because somebody draws: what does not fit into the pipe stays
here until the next time. Values are pickled: both ends are this program, and one forked the other.
"""

from __future__ import annotations

import fcntl
import os
import pickle
from contextlib import suppress
from typing import Any

_SIZE_BYTES = 8
_PIPE_BYTES = 1 << 20
"""What Linux lets a pipe have without privileges: /proc/sys/fs/pipe-max-size."""

_READ_BYTES = 1 << 18


class Sender:
    """The writing end."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        os.set_blocking(descriptor, False)
        # Refused to a user who has many pipes already; it works with 64 KiB, too.
        with suppress(PermissionError):
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)

    def flush(self) -> bool:
        """Write what is left of the last value; say whether nothing is.

        Raises:
            BrokenPipeError: Nobody reads any more.
        """
        while self._rest:
            try:
                written = os.write(self._descriptor, self._rest)
            except BlockingIOError:
                return False
            self._rest = self._rest[written:]
        return True

    def send(self, value: object) -> None:
        """Send a value, as much of it as fits; the rest with the next `flush`.

        Raises:
            BrokenPipeError: Nobody reads any more.
        """
        data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        self._rest += len(data).to_bytes(_SIZE_BYTES, "little") + data
        self.flush()

    def drain(self) -> None:
        """Wait until all is written.

        Raises:
            BrokenPipeError: Nobody reads any more.
        """
        os.set_blocking(self._descriptor, True)
        self.flush()


class Receiver:
    """The reading end."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.is_closed = False
        """There is nobody at the other end any more."""
        self._buffer = bytearray()

    def receive(self) -> list[Any]:
        """Wait for data; return the values that are whole by now, none at the pipe's end."""
        data = os.read(self.descriptor, _READ_BYTES)
        self.is_closed = not data
        self._buffer += data
        values = []
        while len(self._buffer) >= _SIZE_BYTES:
            end = _SIZE_BYTES + int.from_bytes(self._buffer[:_SIZE_BYTES], "little")
            if len(self._buffer) < end:
                break
            values.append(pickle.loads(self._buffer[_SIZE_BYTES:end]))  # noqa: S301 - our own
            del self._buffer[:end]
        return values
