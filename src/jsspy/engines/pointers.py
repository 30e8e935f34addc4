"""What the frames in a copied stack point to: steps 3 and 4 of a `CapturePlan`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from jsspy.model.capture import CapturePlan
from jsspy.model.recurring import ALL_BITS, Recurring

_NONE: Final[frozenset[int]] = frozenset()


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
        highest = len(words) - 1 - max(target_at, 0)
        frames: list[tuple[int, _Words]] = []
        outer: frozenset[int] | None = None
        is_whole = False
        # Each turn goes up the stack.
        while not fp & 7 and 0 <= (index := (fp - start) >> 3) <= highest:
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
                    target = words[index + target_at]
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
