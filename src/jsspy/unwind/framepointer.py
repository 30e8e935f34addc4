"""Follow the frame pointers of V8's code through a copied stack.

V8's own code keeps rbp as a frame pointer without exception, so its frames form a linked list in
the copy: [fp] is the caller's fp and [fp + 8] the return address. This walks one such stretch: from
the newest V8 frame to the entry frame under which C++ called into JavaScript, or to wherever else a
return address leads into native code. What the frames mean is `jsspy.v8.frames`; what lies below
and above a stretch is `jsspy.unwind.hybrid`.
"""

from __future__ import annotations

from enum import Enum
from struct import Struct
from typing import NamedTuple

from jsspy.model.capture import RawFrame
from jsspy.model.stack import Truncation
from jsspy.model.units import Address
from jsspy.unwind.base import MAX_FRAMES, CodeMap, Region
from jsspy.v8.frames import FrameDecoder

_LINK = Struct("<2Q").unpack_from


class StretchEnd(Enum):
    """Where a stretch of V8 frames stopped."""

    ENTRY = "entry frame"
    NATIVE = "return address in native code"
    BROKEN = "broken"


class Stretch(NamedTuple):
    """The caller of the last frame of a stretch."""

    end: StretchEnd
    fp: int
    """Of the last frame."""
    caller_fp: int
    caller_pc: int
    truncation: Truncation | None = None


def walk_frame_pointers(
    frames: list[RawFrame],
    code: CodeMap,
    decoder: FrameDecoder | None,
    stack: bytes,
    stack_start: int,
    first: tuple[int, int, bool],
) -> Stretch:
    """Append the V8 frames from `first` on to `frames`.

    Args:
        frames: Leaf first; at most `MAX_FRAMES` will be in it.
        code: Tells V8's code from native code.
        decoder: None where nothing of V8 is known: frames get no words.
        stack: The copy.
        stack_start: Address of `stack[0]`.
        first: fp, pc and whether pc is a return address, of the newest frame.
    """
    fp, pc, is_return = first
    size = len(stack)
    find = code.find
    append = frames.append
    types = decoder.types if decoder is not None else {}
    while True:
        at = fp - stack_start
        if fp & 7 or at < 0 or at + 16 > size:
            reason = Truncation.BROKEN_CHAIN if fp & 7 or at < 0 else Truncation.UNREADABLE
            return Stretch(StretchEnd.BROKEN, fp, 0, 0, reason)
        if len(frames) >= MAX_FRAMES:
            return Stretch(StretchEnd.BROKEN, fp, 0, 0, Truncation.TOO_DEEP)
        caller_fp, caller_pc = _LINK(stack, at)
        if decoder is None:
            append(RawFrame(Address(pc), is_return, Address(fp)))
        else:
            words = decoder.decode(stack, at)
            append(RawFrame(pc, is_return, fp, words))  # type: ignore[arg-type]  # hot loop: NewType calls cost 50 ns
            marker = types.get(words.marker)
            if marker is not None and marker.is_entry:
                return Stretch(StretchEnd.ENTRY, fp, caller_fp, caller_pc)
        region = find(caller_pc).region
        if region is Region.NATIVE:
            return Stretch(StretchEnd.NATIVE, fp, caller_fp, caller_pc)
        if region is Region.NOWHERE or caller_fp <= fp:
            return Stretch(StretchEnd.BROKEN, fp, 0, 0, Truncation.BROKEN_CHAIN)
        fp, pc, is_return = caller_fp, caller_pc, True
