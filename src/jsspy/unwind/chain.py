"""Stacks that were walked in the kernel: as a copy with holes, whole or in stretches.

`jsspy.unwind.hybrid` reads little of what lies between V8's frames: their fixed words and their
links. A `FrameChain` has these, and all bytes wherever native code was on the stack; so put back
into their places they make a snapshot which unwinds as a full copy would.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct

from jsspy.model.capture import ROW, SLOTS, CapturePlan, FrameChain, RawFrame, StackSnapshot
from jsspy.model.units import Address

_MAX_STACK_BYTES = 64 << 20
"""Largest copy that is put together: `--stack-size` allows JavaScript more than 8 MiB."""

_LINK = Struct("<2Q")
_WORD = Struct("<Q")
_FRAME_ABOVE = 32
"""Bytes of a frame from fp on that belong to its words."""


def followed_of(chain: FrameChain, plan: CapturePlan) -> dict[int, bytes]:
    """Return what the frames' functions and targets and the registers lead to, by tagged pointer.

    The bytes are those of `StackSnapshot.followed` as far as they tell objects apart.
    """
    followed = {}
    words = zip(ROW.iter_unpack(chain.rows), SLOTS.iter_unpack(chain.slots), strict=True)
    for (_, identity, detail), (_, marker, function, _, _, target) in words:
        if marker & plan.tag_mask == plan.tag:
            if identity:
                followed[function] = _object(plan, identity)
        elif detail:
            followed[target] = _object(plan, detail)
    for name, word in zip(plan.follow_registers, chain.followed_registers, strict=False):
        if word:
            followed[getattr(chain.registers, name)] = _object(plan, word)
    return followed


def _object(plan: CapturePlan, word: int) -> bytes:
    data = bytearray(max(plan.follow_size, plan.follow_word + 8))
    _WORD.pack_into(data, plan.follow_word, word)
    return bytes(data)


def decode_rows(rows: bytes, slots: bytes) -> list[RawFrame]:
    """Return V8 frames, none of which is the newest of its thread."""
    return [
        RawFrame(Address(pc), is_return_address=True, fp=fp, words=tuple(words))
        for (pc, _, _), (fp, *words) in zip(
            ROW.iter_unpack(rows), SLOTS.iter_unpack(slots), strict=True
        )
    ]


def whole(chain: FrameChain, plan: CapturePlan) -> StackSnapshot:
    """Return the stack as a copy in which unknown bytes are 0."""
    start = chain.registers.rsp & ~7
    pieces = [(address, data) for address, data in chain.pieces if data]
    ends = [address + len(data) for address, data in pieces]
    slots = list(SLOTS.iter_unpack(chain.slots))
    ends += [frame[0] + _FRAME_ABOVE for frame in slots]
    end = min(max(ends, default=start), start + _MAX_STACK_BYTES)
    stack = bytearray(max(end - start, 0))
    rows = list(ROW.iter_unpack(chain.rows))
    for index, (fp, *words) in enumerate(slots):
        for slot, word in zip(plan.frame_slots, words, strict=False):
            _put(stack, fp + slot - start, word)
        if index + 1 < len(slots):
            _put(stack, fp - start, slots[index + 1][0])
            _put(stack, fp + 8 - start, rows[index + 1][0])
    for address, data in pieces:
        at = address - start
        if 0 <= at <= len(stack) - len(data):
            stack[at : at + len(data)] = data
    return StackSnapshot(
        chain.registers,
        Address(start),
        bytes(stack),
        chain.isolate,
        chain.isolate_words,
        followed_of(chain, plan),
        stack_complete=end == chain.stack_end,
        red_zone=chain.red_zone,
    )


def _put(stack: bytearray, at: int, word: int) -> None:
    if 0 <= at <= len(stack) - 8:
        _WORD.pack_into(stack, at, word)


def frame_pointers(slots: bytes) -> Sequence[int]:
    """Return fp of each frame."""
    return [fp for fp, *_ in SLOTS.iter_unpack(slots)]
