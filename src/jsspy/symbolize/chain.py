"""Name stacks that were walked in the kernel, most of which were there before.

A `FrameChain` is cut where the newest V8 frame ends. What lies above (towards the root) is the
*base*: V8 frames as rows and native stretches as bytes. Equal rows and bytes have equal names as
long as the functions and code objects behind them are the same, so a base is named once:

    leaf        native code, the newest V8 frame      unwound and named for each sample
    base        V8 frames                             by their rows, stretch by stretch
                native code between two stretches     by its bytes, or by its return addresses
                ...
                native code up to the thread's start

**Nothing is believed for its address alone.** An answer holds for a sample if all that it follows
from was read again, and found unchanged, after the sample was taken. That is done for all answers
in use with one read, the first time that a sample comes which is newer than the last such read:
samples that arrive in batches cost one read per batch.

What does not fit (no entry frame was reached, a function that could not be followed, a frame that
is just being built) is left to the caller, who unwinds it as a whole.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any, NamedTuple

from jsspy.model.capture import (
    ROW,
    SLOTS,
    CapturePlan,
    FrameChain,
    RawFrame,
    Registers,
    StackSnapshot,
)
from jsspy.model.mode import NativeFrames
from jsspy.model.stack import Frame, Truncation
from jsspy.model.units import Address
from jsspy.symbolize.base import UNKNOWN, Frames
from jsspy.symbolize.js import Basis, JsSymbolizer
from jsspy.symbolize.native import NativeSymbolizer
from jsspy.unwind.base import CodeMap, Region
from jsspy.unwind.chain import decode_rows, followed_of
from jsspy.unwind.hybrid import HybridUnwinder
from jsspy.unwind.trail import Trail, TrailWalker
from jsspy.v8.code import CodeObject
from jsspy.v8.frames import FrameDecoder, FrameType
from jsspy.v8.function import SharedFunctionInfo
from jsspy.v8.layout import CodeKind

_MAX_ANSWERS = 1 << 11
"""Kept of each kind; beyond that they start anew."""

_MAX_BASES = 1 << 6

_MAX_COPIES = 1 << 4
"""Bridges that are kept, each with its copy of the stack, which takes up to 20 KB. They come again
while C++ goes on to call the same function; of 15,000 of an HTTP server 3 came again later."""

_ENTRY_BYTES = 128
"""Of a piece lie below the fp of the entry frame that it belongs to (bpf/walk.bpf.c)."""

_FRAME_ABOVE = 32
"""Bytes of a frame from fp on that its words reach to."""

_OWN_WORDS = 16
"""Bytes that a frame without its slots lacks: marker or context, and function."""

_KEPT_READS = 20
"""Functions and code that no sample met for so many reads are not read again until one does."""

_WORD = Struct("<Q").unpack_from


class NamedChain(NamedTuple):
    """A stack with its names."""

    frames: tuple[Frame, ...]
    """Leaf first."""
    in_callback: bool
    """The newest V8 frame is that of a native function which does not belong to V8."""


@dataclass(slots=True, eq=False)
class _Answer:
    """Names, and until when they are known to be right."""

    frames: Frames
    basis: Basis
    valid_ns: int
    js_frames: int = 0
    named: int = 0
    in_callback: bool = False
    array: int = 0
    """If not 0: what the third word of the newest frame must be."""


_Piece = tuple[int, bytes]
"""Address, and what was there."""


class _Bridge(NamedTuple):
    """Native code between two stretches."""

    generation: int
    frames: Frames
    piece: _Piece


@dataclass(slots=True, eq=False)
class _Base:
    """All beyond the newest V8 frame."""

    pieces: tuple[_Piece, ...]
    generation: int
    stretches: list[_Answer] = field(default_factory=list)
    frames: Frames = ()


class ChainSymbolizer:
    """Names the chains of one target."""

    def __init__(
        self,
        plan: CapturePlan,
        code: CodeMap,
        unwinder: HybridUnwinder,
        js: JsSymbolizer,
        native: NativeSymbolizer,
        decoder: FrameDecoder,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._plan = plan
        self._code = code
        self._unwinder = unwinder
        self._js = js
        self._native = native
        self._decoder = decoder
        self._clock = clock
        self._bases: dict[bytes, _Base] = {}
        self._stretches: dict[bytes, _Answer] = {}
        self._bridges: dict[_Piece, _Bridge] = {}
        self._leaves: dict[tuple[int, ...], _Answer] = {}
        self._exits: dict[bytes, _Answer] = {}
        self._trails = TrailWalker(code, unwinder)
        self._trail_frames: dict[Trail, tuple[int, Frames]] = {}
        """With the generation of the mappings."""
        self._natives: dict[int, tuple[int, Frame]] = {}
        """By pc and whether it is a return address: the generation of the mappings, and a frame."""
        self._functions: dict[int, SharedFunctionInfo] = {}
        self._codes: dict[int, CodeObject] = {}
        """What was the same as before at `_read_ns`, by address and by start."""
        self._used: dict[int, int] = {}
        """When (in reads) each of them was last asked for."""
        self._reads = 0
        self._read_ns = 0

    def name(self, chain: FrameChain, time_ns: int) -> NamedChain | None:
        """Return the names of a stack; None if it has to be unwound as a whole.

        Args:
            chain: The stack.
            time_ns: When it was taken, CLOCK_MONOTONIC.

        Raises:
            ProcessExited: The target ended.
        """
        if not chain.complete or len(chain.rows) < 2 * ROW.size:
            return None
        base = self._name_base(chain, time_ns)
        if base is None:
            return None
        leaf = self._name_leaf(chain, time_ns)
        if leaf is None:
            return None
        frames, in_callback = leaf
        js = self._js
        for stretch in base.stretches:
            js.js_frames += stretch.js_frames
            js.js_frames_named += stretch.named
        return NamedChain(frames + base.frames, in_callback)

    def _symbolize(
        self,
        stack: Sequence[RawFrame],
        chain: FrameChain,
        registers: Registers | None,
    ) -> _Answer:
        """Name frames, all of whose words are in `chain`."""
        basis = Basis()
        js, native = self._js, self._native.frame
        before = js.js_frames, js.js_frames_named
        now = self._clock()
        named = js.symbolize(stack, followed_of(chain, self._plan), registers, basis)
        frames: list[Frame] = []
        for raw, expanded in zip(stack, named, strict=True):
            if expanded is not None:
                frames.extend(expanded)
            else:
                frames.append(native(raw[0], is_return_address=raw[1]) or UNKNOWN)
        counted = js.js_frames - before[0], js.js_frames_named - before[1]
        js.js_frames, js.js_frames_named = before
        return _Answer(tuple(frames), basis, now, *counted)

    # The leaf

    def _name_leaf(self, chain: FrameChain, time_ns: int) -> tuple[Frames, bool] | None:
        """Name the stack up to the newest V8 frame; None if it is not clear which that is.

        Returns:
            Its frames, and whether it is in a native function that does not belong to V8.
        """
        region = self._code.find(chain.registers.rip).region
        if region is Region.NATIVE:
            return self._name_native_leaf(chain, time_ns)
        key = _leaf_key(chain, region)
        array: int = SLOTS.unpack_from(chain.slots)[3]
        answer = self._leaves.get(key)
        if answer is None or answer.array not in (0, array) or not self._check((answer,), time_ns):
            stack = self._unwind_leaf(chain)
            if stack is None:
                return None
            answer = self._symbolize(stack, _newest(chain), chain.registers)
            # Elsewhere in the same code the frame may be another one's, or not there yet.
            searched = self._unwinder.searched
            known = region is Region.BUILTINS or chain.registers.rip in answer.basis.codes
            if known and not searched:
                code = answer.basis.codes.get(chain.registers.rip)
                if code is not None and code.kind is CodeKind.BASELINE:
                    answer.array = array
                _make_room(self._leaves)
                self._leaves[key] = answer
        self._js.js_frames += answer.js_frames
        self._js.js_frames_named += answer.named
        return answer.frames, False

    def _name_native_leaf(self, chain: FrameChain, time_ns: int) -> tuple[Frames, bool] | None:
        kind = self._decoder.types.get(ROW.unpack_from(chain.rows)[1])
        frames: Sequence[Frame] | None = None
        if kind is not None and self._unwinder.native is NativeFrames.OFF and chain.isolate_words:
            frames = ()
        elif kind is not None and kind.is_exit:
            frames = self._follow_trail(chain)
        if frames is None or kind is None:
            stack = self._unwind_leaf(chain)
            if stack is None:
                return None
            frames = self._native_frames(stack[:-1])
            if frames is None or kind is None:
                answer = self._symbolize(stack, _newest(chain), chain.registers)
                self._js.js_frames += answer.js_frames
                self._js.js_frames_named += answer.named
                return answer.frames, False
        answer = self._name_bridge_frame(chain, kind, time_ns)
        return (*frames, *answer.frames), answer.in_callback

    def _name_bridge_frame(self, chain: FrameChain, kind: FrameType, time_ns: int) -> _Answer:
        """Name the newest V8 frame, which has a marker."""
        # Its pc does not count.
        row = chain.rows[8 : ROW.size]
        answer = self._exits.get(row)
        if answer is None or not self._check((answer,), time_ns):
            newest = _newest(chain)
            answer = self._symbolize(
                decode_rows(newest.rows, newest.slots, self._decoder), newest, None
            )
            answer.in_callback = kind.is_callback or (
                kind.has_target
                and any(not function.builtin for function in answer.basis.functions.values())
            )
            _make_room(self._exits)
            self._exits[row] = answer
        return answer

    def _follow_trail(self, chain: FrameChain) -> Frames | None:
        """Name the native frames below an exit frame; None if that takes more than a glance."""
        registers = chain.registers
        address, data = chain.pieces[0]
        if address != registers.rsp & ~7:
            return None
        fp: int = _WORD(chain.slots)[0]
        walked = self._trails.walk(registers, chain.red_zone, data)
        if walked is None or walked[1] != fp:
            return None
        trail = walked[0]
        generation = self._code.native_generation
        known = self._trail_frames.get(trail)
        if known is None or known[0] != generation:
            raws = [RawFrame(Address(abs(pc)), pc > 0) for pc in trail]
            frames = self._native_frames(raws)
            if frames is None:
                return None
            _make_room(self._trail_frames)
            known = self._trail_frames[trail] = generation, tuple(frames)
        return known[1]

    def _native_frames(self, stack: Sequence[RawFrame]) -> list[Frame] | None:
        """Name frames of native code; None if one is not native."""
        code, known = self._code, self._natives
        frames = []
        for raw in stack:
            key = raw[0] << 1 | raw[1]
            found = known.get(key)
            if found is None or found[0] != code.native_generation:
                if code.find(raw[0]).region is not Region.NATIVE:
                    return None
                frame = self._native.frame(raw[0], is_return_address=raw[1]) or UNKNOWN
                _make_room(known)
                found = known[key] = (code.native_generation, frame)
            frames.append(found[1])
        return frames

    def _unwind_leaf(self, chain: FrameChain) -> list[RawFrame] | None:
        """Return the physical frames up to the newest of V8's; None if that is not clear."""
        start = chain.registers.rsp & ~7
        fp: int = _WORD(chain.slots)[0]
        address, data = chain.pieces[0]
        size = fp + _FRAME_ABOVE - start
        if address != start or not 0 < size <= len(data):
            return None
        snapshot = StackSnapshot(
            chain.registers,
            Address(start),
            data[:size],
            chain.isolate,
            chain.isolate_words,
            followed_of(_newest(chain), self._plan),
            red_zone=chain.red_zone,
        )
        frames, truncation = self._unwinder.unwind(snapshot)
        # It must have gone through the newest frame, and then out of the copy.
        if truncation is not Truncation.UNREADABLE or not frames or frames[-1].fp != fp:
            return None
        return frames

    # The base

    def _name_base(self, chain: FrameChain, time_ns: int) -> _Base | None:
        rows, pieces = chain.rows[ROW.size :], chain.pieces[1:]
        base = self._bases.get(rows)
        if (
            base is not None
            and base.pieces == pieces
            and base.generation == self._code.native_generation
            and self._check(base.stretches, time_ns)
        ):
            return base
        base = self._make_base(chain, pieces, time_ns)
        if base is not None:
            _make_room(self._bases, _MAX_BASES)
            self._bases[rows] = base
        return base

    def _make_base(
        self, chain: FrameChain, pieces: tuple[_Piece, ...], time_ns: int
    ) -> _Base | None:
        """Name what lies beyond the newest frame, stretch by stretch."""
        fps = [slots[0] for slots in SLOTS.iter_unpack(chain.slots)]
        base = _Base(pieces, self._code.native_generation)
        frames: list[Frame] = []
        kept: list[_Piece] = []
        first = 1
        for index, (address, data) in enumerate(pieces):
            entry_fp = address + _ENTRY_BYTES
            try:
                last = fps.index(entry_fp, first)
            except ValueError:
                return None
            next_fp = fps[last + 1] if last + 1 < len(fps) else 0
            if bool(next_fp) != (index + 1 < len(pieces)):
                return None
            stretch = self._name_stretch(chain, first, last + 1, time_ns)
            if stretch is None:
                return None
            base.stretches.append(stretch)
            frames += stretch.frames
            bridge = self._name_bridge(chain, address, data, next_fp)
            if bridge is None:
                return None
            frames += bridge.frames
            kept.append(bridge.piece)
            first = last + 1
        if first != len(fps):
            return None
        base.frames = tuple(frames)
        # All bases over one bridge share its copy.
        base.pieces = tuple(kept)
        base.generation = self._code.native_generation
        return base

    def _name_stretch(
        self, chain: FrameChain, first: int, last: int, time_ns: int
    ) -> _Answer | None:
        """Name V8 frames up to an entry frame."""
        rows = chain.rows[ROW.size * first : ROW.size * last]
        answer = self._stretches.get(rows)
        if answer is not None and self._check((answer,), time_ns):
            return answer
        slots = chain.slots[SLOTS.size * first : SLOTS.size * last]
        if any(not identity for _, identity, _ in ROW.iter_unpack(rows)):
            return None
        part = chain._replace(rows=rows, slots=slots, followed_registers=())
        answer = self._symbolize(decode_rows(rows, slots, self._decoder), part, None)
        _make_room(self._stretches)
        self._stretches[rows] = answer
        return answer

    def _name_bridge(
        self, chain: FrameChain, address: int, data: bytes, next_fp: int
    ) -> _Bridge | None:
        """Name native code from an entry frame to the next exit frame or the thread's start."""
        if self._unwinder.native is not NativeFrames.FULL:
            return _Bridge(0, (), (address, data))
        key = (address, data)
        known = self._bridges.get(key)
        if known is not None and known.generation == self._code.native_generation:
            return known
        snapshot = StackSnapshot(chain.registers, Address(address), data, chain.isolate, b"", {})
        stack, truncation = self._unwinder.unwind_above(snapshot, address + _ENTRY_BYTES)
        if next_fp:
            if truncation is not Truncation.UNREADABLE or not stack or stack[-1].fp != next_fp:
                return None
            del stack[-1]
        elif truncation is not None:
            return None
        native = self._native.frame
        frames = []
        for raw in stack:
            if raw.fp:
                return None
            frames.append(native(raw.pc, is_return_address=raw.is_return_address) or UNKNOWN)
        if len(self._bridges) >= _MAX_COPIES:
            self._bridges.clear()
            self._bases.clear()
        bridge = _Bridge(self._code.native_generation, tuple(frames), key)
        self._bridges[key] = bridge
        return bridge

    # What still holds

    def _check(self, answers: Sequence[_Answer], time_ns: int) -> bool:
        """Say whether answers hold for a sample, reading all that is in use again if need be."""
        for answer in answers:
            if answer.valid_ns >= time_ns:
                continue
            if not answer.basis.is_final:
                return False
            if not self._is_confirmed(answer.basis, time_ns):
                self._read_again([it.basis for it in answers])
                if not self._is_confirmed(answer.basis, time_ns):
                    return False
            answer.valid_ns = self._read_ns
        return True

    def _is_confirmed(self, basis: Basis, time_ns: int) -> bool:
        if self._read_ns < time_ns:
            return False
        functions, codes, used = self._functions, self._codes, self._used
        for address, function in basis.functions.items():
            if functions.get(address) is not function:
                return False
            used[address] = self._reads
        for code in basis.codes.values():
            if codes.get(code.start) is not code:
                return False
            used[code.start] = self._reads
        return True

    def _read_again(self, bases: Sequence[Basis]) -> None:
        """Read what `bases` are made of, and all that was in use lately."""
        self._reads += 1
        used, oldest = self._used, self._reads - _KEPT_READS
        wanted = {at: it for at, it in self._functions.items() if used[at] >= oldest}
        codes = {at: it for at, it in self._codes.items() if used[at] >= oldest}
        for basis in bases:
            wanted.update(basis.functions)
            codes.update((code.start, code) for code in basis.codes.values())
        now = self._clock()
        self._functions, self._codes = self._js.confirm(
            wanted.values(), [(code.start, code) for code in codes.values()]
        )
        self._read_ns = now
        self._used = {at: used.get(at, self._reads) for at in (*self._functions, *self._codes)}


def _newest(chain: FrameChain) -> FrameChain:
    """Return the chain with its newest V8 frame only."""
    return chain._replace(rows=chain.rows[: ROW.size], slots=chain.slots[: SLOTS.size])


def _leaf_key(chain: FrameChain, region: Region) -> tuple[int, ...]:
    """Return all that the names of a leaf in V8's code follow from, if its frame is complete."""
    registers = chain.registers
    _, identity, detail = ROW.unpack_from(chain.rows)
    fp, _, _, array, _, _ = SLOTS.unpack_from(chain.slots)
    # Marker and function are the first that a frame has of its own.
    is_complete = fp - registers.rsp >= _OWN_WORDS
    if region is Region.BUILTINS:
        # The interpreter's registers: bytecode offset and dispatch table.
        return (registers.rip, identity, is_complete, detail, array, registers.r9, registers.r15)
    return (registers.rip, identity, is_complete)


def _make_room(answers: dict[Any, Any], most: int = _MAX_ANSWERS) -> None:
    if len(answers) >= most:
        answers.clear()
