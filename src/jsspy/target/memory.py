"""Reading the memory of a target, live or recorded, through one small protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from jsspy.model.units import Address


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
