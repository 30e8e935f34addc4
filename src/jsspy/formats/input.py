"""Reading files that others wrote, within caps.

What a file says is hostile. Nothing here trusts a length, a depth or a number: too much of anything
is `MalformedData`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn, Protocol

from jsspy.errors import MalformedData

HEAD_BYTES = 4096
"""How much of a file `Reader.matches` sees."""
MAX_TEXT_BYTES = 1 << 30
"""Of a line-oriented file, decompressed: the largest seen, folded 54 MB, times 20."""
MAX_LINE_BYTES = 1 << 26
"""One folded stack of 20,000 frames with names of 3 KB."""
MAX_JSON_BYTES = 1 << 28
"""JSON is held whole, and takes about ten times its size in memory."""
MAX_WEIGHT = 1 << 62
"""Weights are 64-bit integers."""


class Readable(Protocol):
    """Anything that bytes can be read from."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none at the end."""
        ...


class _Replay(io.RawIOBase):
    def __init__(self, head: bytes, rest: Readable) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head or self._rest.read(len(buffer))
        data, self._head = data[: len(buffer)], data[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


def read_head(source: Readable) -> bytes:
    """Read the first HEAD_BYTES, fewer only where the stream ends; pipes give little at a time."""
    head = b""
    while len(head) < HEAD_BYTES and (part := source.read(HEAD_BYTES - len(head))):
        head += part
    return head


def replayed(head: bytes, rest: Readable) -> BinaryIO:
    """Return a stream of `head`, which was read already, and what follows it."""
    return io.BufferedReader(_Replay(head, rest), 1 << 16)


class Source:
    """The name of a format, to speak of in errors, and checked access to decoded JSON."""

    def __init__(self, name: str) -> None:
        self.name = name

    def fail(self, what: str) -> NoReturn:
        """Raise MalformedData."""
        raise MalformedData(self.name, what)

    def iter_lines(self, source: BinaryIO) -> Iterator[tuple[int, str]]:
        """Yield (number from 1, line without its end); NULs are dropped, bad UTF-8 replaced.

        Raises:
            MalformedData: A line or the whole is too long.
        """
        total = 0
        number = 0
        while line := source.readline(MAX_LINE_BYTES + 1):
            number += 1
            total += len(line)
            if len(line) > MAX_LINE_BYTES or total > MAX_TEXT_BYTES:
                self.fail(f"line {number}: too long")
            yield number, line.rstrip(b"\r\n").replace(b"\0", b"").decode(errors="replace")

    def load_json(self, source: BinaryIO) -> Any:
        """Decode a whole JSON file.

        Raises:
            MalformedData: It is not JSON, too large or nested too deeply.
        """
        data = source.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            self.fail(f"larger than {MAX_JSON_BYTES >> 20} MiB")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as err:
            raise MalformedData(self.name, f"not JSON: {err}") from err

    def mapping(self, value: Any, what: str) -> dict[str, Any]:
        """Return `value` if it is a JSON object."""
        if not isinstance(value, dict):
            self.fail(f"{what} is not an object")
        return value

    def sequence(self, value: Any, what: str) -> list[Any]:
        """Return `value` if it is a JSON array."""
        if not isinstance(value, list):
            self.fail(f"{what} is not an array")
        return value

    def text(self, value: Any, what: str) -> str:
        """Return `value` if it is a string."""
        if not isinstance(value, str):
            self.fail(f"{what} is not a string")
        return value

    def integer(self, value: Any, what: str, *, low: int = 0, high: int = MAX_WEIGHT) -> int:
        """Return `value` if it is a whole number from `low` to `high`."""
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            self.fail(f"{what} is not a whole number from {low} to {high}")
        return value

    def number(self, value: Any, what: str) -> float:
        """Return `value` if it is a number that is not negative and can be a weight."""
        if not isinstance(value, int | float) or not 0 <= value <= MAX_WEIGHT:
            self.fail(f"{what} is not a number from 0 to {MAX_WEIGHT}")
        return value
