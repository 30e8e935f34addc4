"""Reading the memory of a target, live or recorded, through one small protocol."""

from __future__ import annotations

from collections.abc import Mapping as Dictionary
from collections.abc import Sequence
from typing import Protocol

from jsspy.errors import FaultError
from jsspy.linux.vm import MAX_READ_BYTES, Reader
from jsspy.model.units import Address, Pid

PAGE_BYTES = 4096


class Memory(Protocol):
    """Bytes at addresses. Everything that comes out of it is hostile until checked."""

    def read(self, address: Address, size: int) -> bytes:
        """Return exactly `size` bytes.

        Raises:
            FaultError: Not all of them can be read.
            ProcessExited: The target is gone.
        """
        ...

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return the bytes of each (address, size); None for those that cannot be read whole.

        Raises:
            ProcessExited: The target is gone.
        """
        ...


class ProcessMemory:
    """The memory of a running process; implements `Memory`.

    Raises:
        ProcessExited: The process is gone.
        PermissionDenied: Its memory may not be read.
    """

    def __init__(self, pid: Pid) -> None:
        self.reader = Reader(pid)
        self.read_many = self.reader.read_many

    def read(self, address: Address, size: int) -> bytes:
        """Return exactly `size` bytes; see `Memory`."""
        return self.reader.read(address, size)

    @property
    def alive(self) -> bool:
        """Whether the program that was opened still runs: not after exit or exec."""
        return self.reader.alive

    def close(self) -> None:
        """Close the file behind it."""
        self.reader.close()


class RecordedMemory:
    """Memory from pages that were saved, sparse; implements `Memory`.

    Args:
        pages: Page address (a multiple of 4096) -> its 4096 bytes.
    """

    def __init__(self, pages: Dictionary[int, bytes]) -> None:
        for address, page in pages.items():
            if address % PAGE_BYTES or len(page) != PAGE_BYTES:
                raise ValueError(f"{address:#x}: not a page")
        self._pages = pages

    def read(self, address: Address, size: int) -> bytes:
        """Return exactly `size` bytes; see `Memory`."""
        if not 0 <= size <= MAX_READ_BYTES:
            raise FaultError(address, size)
        parts = []
        position: int = address
        end = address + size
        while position < end:
            start = position % PAGE_BYTES
            page = self._pages.get(position - start)
            if page is None:
                raise FaultError(address, size)
            part = page[start : start + end - position]
            parts.append(part)
            position += len(part)
        return b"".join(parts)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return the bytes of each (address, size); see `Memory`."""
        return [self._read_or_none(address, size) for address, size in ranges]

    def _read_or_none(self, address: int, size: int) -> bytes | None:
        try:
            return self.read(Address(address), size)
        except FaultError:
            return None
