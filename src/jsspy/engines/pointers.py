"""What the frames in a copied stack point to, and what is there: steps 3 and 4 of a `CapturePlan`.

Both are mostly what they were a moment ago, so that little is done anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

from jsspy.linux import vm
from jsspy.model.capture import CapturePlan
from jsspy.model.recurring import ALL_BITS, Recurring

MAX_POINTERS: Final = 900
"""Followed at a time. With what is read beside them they fit into one process_vm_readv."""

_MAX_KNOWN: Final = 1 << 12
_NONE: Final[frozenset[int]] = frozenset()
_PAGE_BITS: Final = 12
_MAX_GAP_BYTES: Final = 512
"""To copy so much more is cheaper than another range, of which each takes 0.5 us."""


class _Words(NamedTuple):
    """What a walk looks at in a frame."""

    caller: int
    marker: int
    """-1 if it is tagged: more does not count then."""
    function: int
    target: int
    saved: tuple[int, ...]


class PointerFinder:
    """Finds pointers in copied stacks of one target."""

    def __init__(self, plan: CapturePlan) -> None:
        self._plan = plan
        self._target_slot = plan.frame_slots[4] if plan.frame_slots else plan.follow_slot
        self._slots = (plan.marker_slot, plan.follow_slot, self._target_slot)
        self._recurring: Recurring[frozenset[int]] = Recurring()

    def find(self, stack: bytes, start: int, fp: int) -> frozenset[int]:
        """Return what the frames from `fp` on point to.

        Args:
            stack: Anything may be in it.
            start: Address of `stack[0]`.
            fp: Of the newest frame, if that is one.
        """
        if not start <= fp < start + len(stack):
            return _NONE
        found = self._recurring.find(fp, stack, start)
        return found if found is not None else self._walk(stack, start, fp)

    def _walk(self, stack: bytes, start: int, fp: int) -> frozenset[int]:
        recurring, plan = self._recurring, self._plan
        tag, mask, markers = plan.tag, plan.tag_mask, plan.entry_markers
        marker_at, function_at, target_at = [slot >> 3 for slot in self._slots]
        saved_at = [slot >> 3 for slot in plan.saved_exit_slots]
        # Slots below rsp have not been pushed yet.
        lowest = -min(marker_at, function_at)
        lowest_entry = max([lowest, *[-at for at in saved_at]])
        words = memoryview(stack[: len(stack) & ~7]).cast("Q")
        count = len(words)
        frames: list[tuple[int, _Words]] = []
        outer: frozenset[int] | None = None
        is_whole = False
        # Each turn goes up the stack.
        while not fp & 7 and 0 <= (index := (fp - start) >> 3) < count:
            outer = recurring.find(fp, stack, start)
            if outer is not None:
                is_whole = True
                break
            above = caller = words[index]
            if index >= lowest:
                marker, function, target = words[index + marker_at], words[index + function_at], 0
                saved: tuple[int, ...] = ()
                if marker & mask == tag:
                    marker = -1
                else:
                    target = words[index + target_at] if index + target_at < count else 0
                    if marker in markers and index >= lowest_entry:
                        saved = tuple([words[index + at] for at in saved_at])
                        above = next((word for word in saved if word > fp), caller)
                frames.append((fp, _Words(caller, marker, function, target, saved)))
            if above <= fp:
                is_whole = True
                break
            fp = above
        beyond = outer or _NONE
        found = self._pointers(frames) | beyond
        # Where it left the copy, more may be found in another one.
        first = recurring.compare(frames) if is_whole else None
        if first is not None:
            kept = self._pointers(frames[first:]) | beyond
            looked_at = [it for frame in frames[first:] for it in self._looked_at(*frame)]
            last = fp if outer is not None else None
            recurring.keep(frames[first][0], looked_at, last, stack, start, kept)
        return found

    def _pointers(self, frames: Sequence[tuple[int, _Words]]) -> frozenset[int]:
        tag, mask = self._plan.tag, self._plan.tag_mask
        words = [word for _, it in frames for word in (it.function, it.target)]
        return frozenset([word for word in words if word & mask == tag])

    def _looked_at(self, fp: int, words: _Words) -> Iterator[tuple[int, int]]:
        """Yield addresses, and which bits of the words there a walk depends on."""
        plan = self._plan
        yield fp, ALL_BITS
        yield fp + plan.follow_slot, ALL_BITS
        if words.marker < 0:
            yield fp + plan.marker_slot, plan.tag_mask
            return
        yield fp + plan.marker_slot, ALL_BITS
        yield fp + self._target_slot, ALL_BITS
        for slot in plan.saved_exit_slots if words.saved else ():
            yield fp + slot, ALL_BITS


class ObjectReader:
    """Reads objects of one thread, and what else is wanted at that moment, with one call.

    Attributes:
        has_news: Some object of the last reading was not known, or not as it was.
    """

    def __init__(self, plan: CapturePlan) -> None:
        self._tag, self._size = plan.tag, plan.follow_size
        self._gather = vm.Gather(vm.IOV_MAX, 1)
        self._buffer = vm.Buffer(1 << _PAGE_BITS)
        self._pointers = _NONE
        self._places: dict[int, int] = {}
        """Of the objects in what is read first."""
        self._range_count = 0
        self._objects_size = 0
        self._objects = b""
        self._followed: dict[int, bytes] = {}
        self._known: dict[int, bytes] = {}
        self.has_news = False

    def read(
        self, reader: vm.Reader, pointers: frozenset[int], ranges: Sequence[tuple[int, int]]
    ) -> tuple[dict[int, bytes], list[bytes | None]]:
        """Return what pointers lead to, and the bytes of (address, size); the doubtful come last.

        Objects are by pointer, without those that cannot be read; of ranges these are None.

        Raises:
            ProcessExited: The target is gone.
            PermissionDenied: Not allowed any more.
        """
        if pointers != self._pointers:
            self._lay_out(pointers)
        remote, index, total = self._gather.remote, 2 * self._range_count, self._objects_size
        for address, size in ranges[: vm.IOV_MAX - self._range_count]:
            remote[index], remote[index + 1] = address, size
            index += 2
            total += size
        if total > len(self._buffer.bytes):
            self._buffer = vm.Buffer(total)
        local = self._gather.local
        local[0], local[1] = self._buffer.address, total
        data = bytes(self._buffer.bytes[: self._gather.read(reader, 0, 1, 0, index >> 1)])
        if len(data) < self._objects_size:
            # Those that are gone would end every read of these from now on.
            followed = self.read_each(reader, self._places)
            self._lay_out(frozenset(followed))
            self._pointers = pointers
            self._compare(followed)
            return followed, reader.read_many(ranges)
        at = self._objects_size
        objects = data[:at]
        self.has_news = False
        if objects != self._objects:
            self._objects = objects
            self._followed = {
                word: objects[place : place + self._size] for word, place in self._places.items()
            }
            self._compare(self._followed)
        found: list[bytes | None] = []
        for _, size in ranges:
            if at + size > len(data):
                break
            found.append(data[at : at + size])
            at += size
        if len(found) < len(ranges):
            # One that cannot be read has ended it, or there were too many.
            found += reader.read_many(ranges[len(found) :])
        return self._followed, found

    def _compare(self, followed: dict[int, bytes]) -> None:
        """See whether any object is another one than when it was read last."""
        self.has_news = any(self._known.get(word) != data for word, data in followed.items())
        if self.has_news:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            self._known.update(followed)

    def _lay_out(self, pointers: frozenset[int]) -> None:
        """Prepare to read objects: those that are close to each other as one range."""
        ranges: list[tuple[int, int]] = []
        places: dict[int, int] = {}
        total = 0
        for word in sorted(pointers)[:MAX_POINTERS]:
            start = word - self._tag
            end = start + self._size
            first, last = ranges[-1] if ranges else (0, 0)
            is_near = start - last <= _MAX_GAP_BYTES
            if not ranges or not is_near or first >> _PAGE_BITS != end - 1 >> _PAGE_BITS:
                ranges.append((start, end))
                total += self._size
            else:
                ranges[-1] = (first, end)
                total += end - last
            places[word] = total - self._size
        remote = self._gather.remote
        for index, (start, end) in enumerate(ranges):
            remote[2 * index], remote[2 * index + 1] = start, end - start
        self._pointers, self._places = pointers, places
        self._range_count, self._objects_size = len(ranges), total
        self._objects, self._followed = b"", {}

    def read_each(self, reader: vm.Reader, pointers: Collection[int]) -> dict[int, bytes]:
        """Return what pointers lead to, if that is to be read only once."""
        ranges = [(word - self._tag, self._size) for word in pointers]
        found = zip(pointers, reader.read_many(ranges), strict=True)
        return {word: data for word, data in found if data is not None}
