"""Outer parts of stacks that come again, and what follows from them.

A walk through a copied stack looks at a few words of each frame. From one sample to the next most
of these stay what they were, at the same addresses, while the variables between them change. So
what a walk found out is kept with the bits that it looked at, from some frame on to the root. To
compare these bits all at once takes 1 us for 2 KiB of stack; to walk takes that for each frame.

Which frames are worth it is learnt: those from which on a walk found what the walk before it did.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from struct import Struct
from typing import Final, Generic, NamedTuple, TypeVar

ALL_BITS: Final = (1 << 64) - 1
"""Of a word."""

_MAX_KEPT: Final = 64
"""Frames from which on parts are kept; beyond that it starts anew. Most parts take 5 KiB; of the
largest stacks that are copied they take 120."""

_MAX_VARIANTS: Final = 4
"""Parts from one frame on."""

_WORD: Final = Struct("<Q")
_Found = TypeVar("_Found")


class _Part(NamedTuple, Generic[_Found]):
    """Bits between two addresses, as integers whose lowest byte is that at `start`."""

    start: int
    end: int
    mask: int
    """Which bits count."""
    bits: int
    found: _Found


class Recurring(Generic[_Found]):
    """Outer parts of one target's stacks, by what tells their first frames apart: fp, for one."""

    def __init__(self) -> None:
        self._parts: dict[Hashable, list[_Part[_Found]]] = {}
        """Those that were kept last come first."""
        self._last: dict[Hashable, Hashable] = {}

    def clear(self) -> None:
        """Forget all."""
        self._parts.clear()
        self._last.clear()

    def find(self, frame: Hashable, stack: bytes, stack_start: int) -> _Found | None:
        """Return what was found from a frame on, if a copied stack is as it was then."""
        part = self._find(frame, stack, stack_start)
        return part.found if part is not None else None

    def _find(self, frame: Hashable, stack: bytes, stack_start: int) -> _Part[_Found] | None:
        for part in self._parts.get(frame, ()):
            start, end, mask, bits, _ = part
            if start < stack_start or end - stack_start > len(stack):
                continue
            data = stack[start - stack_start : end - stack_start]
            if int.from_bytes(data, "little") & mask == bits:
                return part
        return None

    def compare(self, frames: Sequence[tuple[Hashable, Hashable]]) -> int | None:
        """Return the frame from which on a walk is worth keeping; None: none of them.

        Args:
            frames: Those that were walked, leaf first, up to the root or to one that was found
                here: what tells each apart, and all that was looked at.
        """
        last, self._last = self._last, dict(frames)
        same = 0
        for frame, looked_at in reversed(frames):
            if last.get(frame) != looked_at:
                break
            same += 1
        return len(frames) - same if same else None

    def keep(
        self,
        frame: Hashable,
        words: Iterable[tuple[int, int]],
        outer: Hashable,
        stack: bytes,
        stack_start: int,
        found: _Found,
    ) -> None:
        """Keep what was found from a frame on.

        Args:
            frame: That one.
            words: Addresses of words that were looked at, and which of their bits count.
            outer: From which frame on it follows from what was found here; None if from none.
            stack: The copy.
            stack_start: Address of `stack[0]`.
            found: What it is.
        """
        masks: dict[int, int] = {}
        for address, bits in words:
            masks[address] = masks.get(address, 0) | bits
        start, end = min(masks), max(masks) + 8
        mask = 0
        beyond = self._find(outer, stack, stack_start)
        if beyond is not None:
            start, end = min(start, beyond.start), max(end, beyond.end)
            mask = beyond.mask << 8 * (beyond.start - start)
        if start < stack_start or end - stack_start > len(stack):
            return
        buffer = bytearray(end - start)
        for address, bits in masks.items():
            _WORD.pack_into(buffer, address - start, bits)
        mask |= int.from_bytes(buffer, "little")
        data = stack[start - stack_start : end - stack_start]
        part = _Part(start, end, mask, int.from_bytes(data, "little") & mask, found)
        if len(self._parts) >= _MAX_KEPT:
            self._parts.clear()
        variants = self._parts.setdefault(frame, [])
        variants.insert(0, part)
        del variants[_MAX_VARIANTS:]
