"""What readers remember of a running program, and when that still holds.

A reader that has met an object before answers from memory, without looking: it *believes* that the
object is as it was, and writes that down here. When a stack is done, `confirm` looks at all of it
at once: one system call for a whole stack instead of one for each object. If anything has changed
it is forgotten, and the stack must be done again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from jsspy.target.memory import Memory


class Remembered(Protocol):
    """Something that was read and is kept. Told apart by identity."""

    @property
    def guards(self) -> dict[int, bytes]:
        """Address -> bytes that must still be there for it to hold."""
        ...

    @property
    def forget(self) -> Callable[[], object]:
        """Drop it, if it is still kept."""
        ...

    gone: bool
    """It did not hold any more when it was looked at."""


class Beliefs:
    """What was answered from memory since the last `confirm`.

    Attributes:
        add: Writes down that something was believed.
        add_many: The same of several.
        generation: Changes whenever something is gone.
    """

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._entries: set[Remembered] = set()
        self.add = self._entries.add
        self.add_many = self._entries.update
        self.generation = 0

    def clear(self) -> None:
        """Forget what was believed without a look."""
        self._entries.clear()

    def confirm(self) -> bool:
        """Look at everything that was believed, and forget what has changed.

        Returns:
            Whether nothing has.

        Raises:
            ProcessExited: The target is gone.
        """
        entries = list(self._entries)
        self._entries.clear()
        return self.check(entries)

    def holds(self) -> bool:
        """Do what `confirm` does, and believe it all the same."""
        return self.check(list(self._entries))

    def check(self, entries: Collection[Remembered]) -> bool:
        """Look at these, whether they were believed or not; otherwise as `confirm`."""
        ranges: list[tuple[int, int]] = []
        expected: list[bytes | None] = []
        for entry in entries:
            for address, words in entry.guards.items():
                ranges.append((address, len(words)))
                expected.append(words)
        found = self._memory.read_many(ranges) if ranges else []
        if found == expected:
            return True
        now = iter(found)
        for entry in entries:
            # All of an entry's guards must be taken off the iterator, so no short circuit here.
            if [next(now) for _ in entry.guards] != list(entry.guards.values()):
                entry.gone = True
                entry.forget()
        self.generation += 1
        return False
