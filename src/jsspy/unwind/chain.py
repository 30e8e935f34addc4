"""Chains of V8 frames: as copies of the stack with holes, and out of copies of the stack.

`jsspy.unwind.hybrid` reads little of what lies between V8's frames: their fixed words and their
links. A `FrameChain` has these, and all bytes wherever native code was on the stack; so put back
into their places they make a snapshot which unwinds as a full copy would.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import and_
from struct import Struct
from typing import Final, NamedTuple, Protocol

from jsspy.model.capture import ROW, SLOTS, CapturePlan, FrameChain, RawFrame, StackSnapshot
from jsspy.model.recurring import ALL_BITS, Recurring
from jsspy.model.units import Address
from jsspy.unwind.base import MAX_FRAMES, CodeMap, Region
from jsspy.unwind.trail import TrailWalker
from jsspy.v8.frames import FrameDecoder

_MAX_STACK_BYTES = 64 << 20
"""Largest copy that is put together: `--stack-size` allows JavaScript more than 8 MiB."""

_MAX_NATIVE_FRAMES = 100
"""On a chain of native frames that is looked at: the deepest of V8's own are some 40."""

ENTRY_BYTES = 128
"""Of a piece lie below the fp of the entry frame that it belongs to (bpf/walk.bpf.c)."""

_MAX_PIECES = 16
"""That are kept, of up to 20 KB: a stack has one or a few."""

_ALL: Final = (ALL_BITS,) * 5

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


class FrameJudge(Protocol):
    """Knows whose frames are."""

    @property
    def generation(self) -> int:
        """Changes whenever an answer may have changed."""
        ...

    def belongs(self, raw: RawFrame, shared: int) -> bool:
        """Say whether a frame can be of the function that its pointer led to later."""
        ...

    def is_optimized(self, pc: int) -> bool:
        """Say whether `pc` is in optimized code: its frames hold nothing of use but a function."""
        ...


class _Frame(NamedTuple):
    """A frame of a chain, and all that it follows from."""

    row: tuple[int, int, int]
    slots: tuple[int, int, int, int, int, int]
    """As far as they count."""
    counted: tuple[int, int, int, int, int]
    """Which bits of each slot but fp do."""
    pointer: int
    copied: bytes
    """What was followed, and what it led to; 0 and nothing if there is none."""
    caller_fp: int
    caller_pc: int
    """Of the next frame; 0 and 0 if it is the outermost."""
    span: tuple[int, int] | None
    """Of an entry frame: the piece that begins there, as start and end; 0 for that of the copy."""


class _Outer(NamedTuple):
    """The frames of a chain from one on that is not the newest."""

    pointers: list[int]
    copied: list[bytes]
    rows: bytes
    slots: bytes
    spans: list[tuple[int, int]]


class ChainCutter:
    """Finds the chains of V8 frames in copies of one target's stacks.

    For copies without the isolate's words, so that where native code was entered is not known: that
    is where unwinding leads to, or the first frame on the chain from rbp which returns into V8's
    code, or, where there is none, the exit frame of a moment later. It is for who names the native
    code to see that it leads there. What frames point to was followed a moment later, and has to
    belong to them.

    Beyond the newest frame, words that no name follows from are left out (they are 0), and frames
    that are as they were in an earlier copy are not walked again.
    """

    def __init__(
        self, plan: CapturePlan, code: CodeMap, trails: TrailWalker, judge: FrameJudge
    ) -> None:
        self._plan = plan
        self._code = code
        self._trails = trails
        self._judge = judge
        self._slots = [(slot + _FRAME_BELOW) // 8 for slot in (plan.marker_slot, *plan.frame_slots)]
        # Up to V8 4.6 a frame is what both its context and its function say.
        context = plan.tag_mask if plan.frame_slots[0] == plan.marker_slot else ALL_BITS
        self._of_marked = (ALL_BITS, ALL_BITS, 0, 0, ALL_BITS)
        self._of_optimized = (context, ALL_BITS, 0, 0, 0)
        self._of_others = (context, ALL_BITS, ALL_BITS, ALL_BITS, 0)
        self._recurring: Recurring[_Outer] = Recurring()
        self._pieces: dict[int, bytes] = {}
        """The last ones, by address."""
        self._generation = -1

    def cut(self, snapshot: StackSnapshot) -> FrameChain | None:
        """Return the chain of a copied stack; its first piece is all of the copy.

        Returns:
            None if no chain of frames reaches the outermost entry frame, or if what it points to
            was not followed, or not in time.
        """
        start, stack, registers = snapshot.stack_start, snapshot.stack, snapshot.registers
        if start & 7 or not snapshot.isolate:
            return None
        if self._generation != self._judge.generation:
            self._generation = self._judge.generation
            self._recurring.clear()
        fp, pc = registers.rbp, registers.rip
        if self._code.find(pc).region is Region.NATIVE:
            fp, pc = self._find_exit(snapshot) or snapshot.late_exit_fp or 0, 0
        frames: list[_Frame] = []
        outer = None
        # Each turn goes up the stack.
        while len(frames) < MAX_FRAMES:
            if frames and (outer := self._find_outer(snapshot, fp, pc)) is not None:
                break
            frame = self._read(snapshot, fp, pc, is_newest=not frames)
            if frame is None:
                return None
            frames.append(frame)
            if not frame.caller_fp:
                break
            if frame.caller_fp <= fp:
                return None
            fp, pc = frame.caller_fp, frame.caller_pc
        else:
            return None
        if len(frames) > 1:
            self._keep(snapshot, frames[1:], (fp, pc), outer)
        rows, slots, spans = _join(frames, outer)
        pieces = [self._piece(stack, start, max(first, start), last) for first, last in spans]
        return FrameChain(
            registers,
            snapshot.isolate,
            b"",
            Address(start + len(stack)),
            rows,
            slots,
            ((int(start), stack), *pieces),
        )

    def _find_exit(self, snapshot: StackSnapshot) -> int:
        """Return the first of V8's frames above native code; 0 if it is not found."""
        registers, start, stack = snapshot.registers, snapshot.stack_start, snapshot.stack
        walked = self._trails.walk(registers, b"", stack)
        if walked is not None:
            return walked[1]
        fp, last = registers.rbp, start - 1
        for _ in range(_MAX_NATIVE_FRAMES):
            if not last < fp <= start + len(stack) - 16 or fp & 7:
                return 0
            caller_fp, pc = _LINK.unpack_from(stack, fp - start)
            region = self._code.find(pc).region
            if region in (Region.GENERATED, Region.BUILTINS):
                return int(caller_fp)
            if region is not Region.NATIVE:
                return 0
            fp, last = caller_fp, fp
        return 0

    def _piece(self, stack: bytes, start: int, first: int, last: int) -> tuple[int, bytes]:
        """Return a piece of a copy; the very object that it was before if it is the same."""
        last = last or start + len(stack)
        piece = self._pieces.get(first)
        if (
            piece is None
            or len(piece) != last - first
            or not stack.startswith(piece, first - start)
        ):
            if len(self._pieces) >= _MAX_PIECES:
                self._pieces.clear()
            piece = self._pieces[first] = stack[first - start : last - start]
        return first, piece

    def _find_outer(self, snapshot: StackSnapshot, fp: int, pc: int) -> _Outer | None:
        """Return the frames from one on, if they were walked before and nothing has changed."""
        outer = self._recurring.find((fp, pc), snapshot.stack, snapshot.stack_start)
        if outer is None or list(map(snapshot.followed.get, outer.pointers)) != outer.copied:
            return None
        return outer

    def _keep(
        self,
        snapshot: StackSnapshot,
        frames: list[_Frame],
        last: tuple[int, int],
        outer: _Outer | None,
    ) -> None:
        """Keep frames that were as in the copy before, for those to come.

        Args:
            snapshot: Where they are.
            frames: Those that were walked, but the newest.
            last: fp and pc of the first of `outer`, if there is one.
            outer: What was known of the frames beyond.
        """
        looked_at = [((frame.slots[0], frame.row[0]), frame) for frame in frames]
        first = self._recurring.compare(looked_at)
        if first is None:
            return
        plan = self._plan
        words = []
        for frame in frames[first:]:
            fp = frame.slots[0]
            words += [(fp, ALL_BITS), (fp + 8, ALL_BITS)]
            words += [
                (fp + slot, bits)
                for slot, bits in zip(plan.frame_slots, frame.counted, strict=True)
                if bits
            ]
            if frame.span is not None:
                words += [(fp + slot, ALL_BITS) for slot in plan.saved_exit_slots]
        followed = {it.pointer: it.copied for it in frames[first:] if it.pointer}
        if outer is not None:
            followed.update(zip(outer.pointers, outer.copied, strict=True))
        self._recurring.keep(
            looked_at[first][0],
            words,
            last if outer is not None else None,
            snapshot.stack,
            snapshot.stack_start,
            _Outer(
                list(followed),
                list(followed.values()),
                *_join(frames[first:], outer),
            ),
        )

    def _read(self, snapshot: StackSnapshot, fp: int, pc: int, *, is_newest: bool) -> _Frame | None:
        """Return the frame at `fp`; None if there is none, or it was not followed in time."""
        plan, stack, at = self._plan, snapshot.stack, fp - snapshot.stack_start
        if not 0 <= at <= len(stack) - _FRAME_ABOVE or fp & 7:
            return None
        if at >= _FRAME_BELOW:
            frame = _WINDOW.unpack_from(stack, at - _FRAME_BELOW)
        else:
            frame = _WINDOW.unpack_from(bytes(_FRAME_BELOW) + stack, at)
        marker_at, one, two, three, four, five = self._slots
        marker = frame[marker_at]
        is_function = marker & plan.tag_mask == plan.tag
        pointer = frame[two if is_function else five]
        copied = b""
        found = 0
        if pointer & plan.tag_mask == plan.tag:
            followed = snapshot.followed.get(pointer)
            if followed is None:
                return None
            copied = followed
            (found,) = _WORD.unpack_from(copied, plan.follow_word)
        else:
            pointer = 0
        words = (frame[one], frame[two], frame[three], frame[four], frame[five])
        if is_function:
            raw = RawFrame(Address(pc), not is_newest, Address(fp), words)
            if not self._judge.belongs(raw, found):
                return None
        counted = _ALL
        if not is_newest:
            counted = self._of_marked
            if is_function:
                is_optimized = self._judge.is_optimized(pc)
                counted = self._of_optimized if is_optimized else self._of_others
            words = tuple(map(and_, words, counted))
        row = (pc, found, 0 if words[3] & plan.detail_mask else words[3])
        if not is_function:
            row = (pc, marker, found)
        caller_fp, caller_pc, span = frame[_FP], frame[_FP + 1], None
        if marker in plan.entry_markers:
            caller_fp, caller_pc = self._saved_exit(stack, at), 0
            end = snapshot.stack_start + len(stack)
            if caller_fp >= end and not snapshot.stack_complete:
                return None
            if not fp < caller_fp < end:
                caller_fp = 0
            span = (fp - ENTRY_BYTES, caller_fp and caller_fp + _FRAME_ABOVE)
        return _Frame(row, (fp, *words), counted, pointer, copied, caller_fp, caller_pc, span)

    def _saved_exit(self, stack: bytes, at: int) -> int:
        """Return the exit frame that an entry frame saved; 0 if there is none."""
        for slot in self._plan.saved_exit_slots:
            if at + slot >= 0 and (saved := _WORD.unpack_from(stack, at + slot)[0]):
                return int(saved)
        return 0


def _join(
    frames: Sequence[_Frame], outer: _Outer | None
) -> tuple[bytes, bytes, list[tuple[int, int]]]:
    """Return rows, slots and spans of frames and those beyond them."""
    rows = b"".join([ROW.pack(*frame.row) for frame in frames])
    slots = b"".join([SLOTS.pack(*frame.slots) for frame in frames])
    spans = [frame.span for frame in frames if frame.span is not None]
    if outer is None:
        return rows, slots, spans
    return rows + outer.rows, slots + outer.slots, spans + outer.spans


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
