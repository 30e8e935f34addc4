"""Chains of V8 frames: as copies of the stack with holes, and out of copies of the stack.

`jsspy.unwind.hybrid` reads little of what lies between V8's frames: their fixed words and their
links. A `FrameChain` has these, and all bytes wherever native code was on the stack; so put back
into their places they make a snapshot which unwinds as a full copy would.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from struct import Struct
from typing import NamedTuple

from jsspy.model.capture import ROW, SLOTS, CapturePlan, FrameChain, RawFrame, StackSnapshot
from jsspy.model.units import Address
from jsspy.unwind.base import MAX_FRAMES, CodeMap, Region
from jsspy.v8.frames import FrameDecoder

_MAX_STACK_BYTES = 64 << 20
"""Largest copy that is put together: `--stack-size` allows JavaScript more than 8 MiB."""

_MAX_NATIVE_FRAMES = 100
"""On a chain of native frames that is looked at: the deepest of V8's own are some 40."""

ENTRY_BYTES = 128
"""Of a piece lie below the fp of the entry frame that it belongs to (bpf/walk.bpf.c)."""

_MAX_ISOLATES = 64

_FRAME_BELOW = 40
_WINDOW = Struct("<9Q")
"""A frame from its lowest slot on: 40 bytes below fp, fp and 32 bytes above it."""
_FP = _FRAME_BELOW // 8

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


class _Cut(NamedTuple):
    """A chain that was made before, frame by frame."""

    start: int
    stack: bytes
    followed: dict[int, bytes]
    number_of: dict[int, int]
    """fp -> number of the frame."""
    pcs: list[int]
    pointers: list[tuple[int, int]]
    """Of each frame: what was followed, and what it led to."""
    rows: bytes
    slots: bytes
    pieces: tuple[tuple[int, bytes], ...]
    """Without the leaf's."""
    piece_of: list[int]
    """Of each frame: the first piece that begins at it or above it."""


class ChainCutter:
    """Finds the chains of V8 frames in copies of one target's stacks.

    For copies without the isolate's words, so that where native code was entered is not known: that
    is the first frame on the chain from rbp which returns into V8's code, or, where there is none,
    the exit frame of a moment later. It is for who unwinds the native code to see that it leads
    there. What frames point to was followed a moment later, and has to belong to them.
    """

    def __init__(
        self, plan: CapturePlan, code: CodeMap, belongs: Callable[[RawFrame, int], bool]
    ) -> None:
        """Prepare to look for chains.

        Args:
            plan: What was copied.
            code: What kind of code is where.
            belongs: Says whether a frame can be of the function that its pointer led to later.
        """
        self._plan = plan
        self._code = code
        self._belongs = belongs
        self._last: dict[int, _Cut] = {}
        """By isolate. Most stacks are those of the sample before, but for the newest frames."""
        self._slots = [(slot + _FRAME_BELOW) // 8 for slot in (plan.marker_slot, *plan.frame_slots)]

    def cut(self, snapshot: StackSnapshot) -> FrameChain | None:
        """Return the chain of a copied stack; its first piece is all of the copy.

        Returns:
            None if no chain of frames reaches the outermost entry frame, or if what it points to
            was not followed, or not in time.
        """
        start, stack, registers = snapshot.stack_start, snapshot.stack, snapshot.registers
        if not snapshot.stack_complete or start & 7 or not snapshot.isolate:
            return None
        fp, pc = registers.rbp, registers.rip
        if self._code.find(pc).region is Region.NATIVE:
            fp, pc = _find_exit(snapshot, self._code) or snapshot.late_exit_fp or 0, 0
        last = self._last.get(snapshot.isolate)
        plan, followed = self._plan, snapshot.followed
        tag, mask, follow_word, markers = (
            plan.tag,
            plan.tag_mask,
            plan.follow_word,
            plan.entry_markers,
        )
        marker_at, one, two, three, four, five = self._slots
        window = _WINDOW.unpack_from
        end = start + len(stack)
        data = bytes(_FRAME_BELOW) + stack
        rows: list[int] = []
        words: list[int] = []
        index: dict[int, int] = {}
        pcs: list[int] = []
        pointers: list[tuple[int, int]] = []
        pieces: list[tuple[int, bytes]] = []
        piece_of: list[int] = []
        below = start - 1
        tail = None
        # From here on the copy is what it was, as far down as the slots of any frame reach.
        same = end if last is None else _first_same(snapshot, last) + ENTRY_BYTES
        while len(pcs) < MAX_FRAMES:
            if not below < fp < end - 24 or fp & 7:
                return None
            if fp >= same and last is not None and self._is_as_before(snapshot, last, fp, pc):
                tail = last.number_of[fp]
                break
            frame = window(data, fp - start)
            marker = frame[marker_at]
            is_function = marker & mask == tag
            pointer = frame[two if is_function else five]
            found = 0
            if pointer & mask == tag:
                if (copied := followed.get(pointer)) is None:
                    return None
                (found,) = _WORD.unpack_from(copied, follow_word)
            slots = (frame[one], frame[two], frame[three], frame[four], frame[five])
            if is_function:
                raw = RawFrame(Address(pc), bool(pcs), Address(fp), slots)
                if not self._belongs(raw, found):
                    return None
                rows += (pc, found, 0 if frame[four] & plan.detail_mask else frame[four])
            else:
                rows += (pc, marker, found)
            words += (fp, *slots)
            index[fp] = len(pcs)
            pcs.append(pc)
            pointers.append((pointer, found))
            piece_of.append(len(pieces))
            below = fp
            if marker not in markers:
                fp, pc = frame[_FP], frame[_FP + 1]
                continue
            saved = self._saved_exit(stack, fp - start)
            first = max(fp - ENTRY_BYTES - start, 0)
            is_outermost = not fp < saved < end
            above = len(stack) if is_outermost else saved + _FRAME_ABOVE - start
            pieces.append((start + first, stack[first:above]))
            if is_outermost:
                break
            fp, pc = saved, 0
        else:
            return None
        count = len(pcs)
        made = _Cut(
            *(start, stack, followed, index, pcs, pointers),
            Struct(f"<{3 * count}Q").pack(*rows),
            Struct(f"<{6 * count}Q").pack(*words),
            tuple(pieces),
            piece_of,
        )
        if last is not None and tail is not None:
            made = _join(made, last, tail)
        if len(self._last) >= _MAX_ISOLATES:
            self._last.clear()
        self._last[snapshot.isolate] = made
        return FrameChain(
            registers,
            snapshot.isolate,
            b"",
            Address(end),
            made.rows,
            made.slots,
            ((int(start), stack), *made.pieces),
        )

    def _is_as_before(self, snapshot: StackSnapshot, last: _Cut, fp: int, pc: int) -> bool:
        """Say whether frames whose words are the same are also called and followed the same."""
        number = last.number_of.get(fp)
        if not number or last.pcs[number] != pc:
            return False
        if snapshot.followed is last.followed:
            return True
        follow_word = self._plan.follow_word
        for pointer, found in last.pointers[number:]:
            if pointer & self._plan.tag_mask == self._plan.tag:
                copied = snapshot.followed.get(pointer)
                if copied is None or _WORD.unpack_from(copied, follow_word)[0] != found:
                    return False
        return True

    def _saved_exit(self, stack: bytes, at: int) -> int:
        """Return the exit frame that an entry frame saved; 0 if there is none."""
        for slot in self._plan.saved_exit_slots:
            if at + slot >= 0 and (saved := _WORD.unpack_from(stack, at + slot)[0]):
                return int(saved)
        return 0


def _first_same(snapshot: StackSnapshot, last: _Cut) -> int:
    """Return the lowest address from which on two copies of a stack are the same to their end."""
    first = max(snapshot.stack_start, last.start)
    one, other = snapshot.stack[first - snapshot.stack_start :], last.stack[first - last.start :]
    if len(one) != len(other):
        return first + len(one)
    differing = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return first + (differing.bit_length() + 7) // 8


def _join(cut: _Cut, last: _Cut, number: int) -> _Cut:
    """Put the frames of an earlier chain from `number` on behind those of another."""
    count, pieces, before = len(cut.pcs), len(cut.pieces), last.piece_of[number]
    index = cut.number_of
    for fp, at in last.number_of.items():
        if at >= number:
            index[fp] = at - number + count
    return cut._replace(
        pcs=cut.pcs + last.pcs[number:],
        pointers=cut.pointers + last.pointers[number:],
        rows=cut.rows + last.rows[ROW.size * number :],
        slots=cut.slots + last.slots[SLOTS.size * number :],
        pieces=cut.pieces + last.pieces[before:],
        piece_of=cut.piece_of + [at - before + pieces for at in last.piece_of[number:]],
    )


def _find_exit(snapshot: StackSnapshot, code: CodeMap) -> int:
    """Return the first frame on the chain from rbp that is V8's; 0 if it leads nowhere."""
    start, stack = snapshot.stack_start, snapshot.stack
    fp, last = snapshot.registers.rbp, start - 1
    for _ in range(_MAX_NATIVE_FRAMES):
        if not last < fp <= start + len(stack) - 16 or fp & 7:
            return 0
        caller_fp, pc = _LINK.unpack_from(stack, fp - start)
        region = code.find(pc).region
        if region in (Region.GENERATED, Region.BUILTINS):
            return int(caller_fp)
        if region is not Region.NATIVE:
            return 0
        fp, last = caller_fp, fp
    return 0


def _object(plan: CapturePlan, word: int) -> bytes:
    data = bytearray(max(plan.follow_size, plan.follow_word + 8))
    _WORD.pack_into(data, plan.follow_word, word)
    return bytes(data)


def decode_rows(rows: bytes, slots: bytes, decoder: FrameDecoder) -> list[RawFrame]:
    """Return V8 frames, none of which is the newest of its thread."""
    return [
        RawFrame(Address(pc), is_return_address=True, fp=fp, words=decoder.arrange(*words))
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
