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
from typing import NamedTuple

from jsspy.model.capture import ROW, SLOTS, CapturePlan, FrameChain, RawFrame, StackSnapshot
from jsspy.model.stack import Frame, Truncation
from jsspy.model.units import Address
from jsspy.symbolize.base import UNKNOWN, Frames
from jsspy.symbolize.js import Basis, JsSymbolizer
from jsspy.symbolize.native import NativeSymbolizer
from jsspy.unwind.base import CodeMap
from jsspy.unwind.chain import decode_rows, followed_of
from jsspy.unwind.hybrid import HybridUnwinder

_MAX_ANSWERS = 1 << 14
"""Bases, stretches and bridges kept of each; beyond that they start anew."""

_ENTRY_BYTES = 128
"""Of a piece lie below the fp of the entry frame that it belongs to (bpf/walk.bpf.c)."""

_FRAME_ABOVE = 32
"""Bytes of a frame from fp on that its words reach to."""

_HOT_CHECKS = 2
"""Answers that were of no use for so many checks are not read again until they are."""

_WORD = Struct("<Q").unpack_from


class NamedChain(NamedTuple):
    """A stack with its names."""

    frames: tuple[Frame, ...]
    """Leaf first."""
    leaf: Sequence[RawFrame]
    """The physical frames up to the newest of V8's."""


@dataclass(slots=True, eq=False)
class _Answer:
    """Names, and until when they are known to be right."""

    frames: Frames
    basis: Basis
    valid_ns: int
    used: int
    js_frames: int = 0
    named: int = 0


@dataclass(slots=True, eq=False)
class _Base:
    """All beyond the newest V8 frame."""

    pieces: tuple[tuple[int, bytes], ...]
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
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._plan = plan
        self._code = code
        self._unwinder = unwinder
        self._js = js
        self._native = native
        self._clock = clock
        self._bases: dict[bytes, _Base] = {}
        self._stretches: dict[bytes, _Answer] = {}
        self._bridges: dict[tuple[int, bytes], tuple[int, Frames]] = {}
        self._hot: dict[int, _Answer] = {}
        self._checks = 0

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
        leaf = self._unwind_leaf(chain)
        if leaf is None:
            return None
        frames: list[Frame] = []
        followed = self._followed_by_leaf(chain)
        named = self._js.symbolize(leaf, followed, chain.registers)
        self._expand(frames, leaf, named)
        for stretch in base.stretches:
            self._js.js_frames += stretch.js_frames
            self._js.js_frames_named += stretch.named
        return NamedChain((*frames, *base.frames), leaf)

    def _expand(
        self, frames: list[Frame], stack: Sequence[RawFrame], named: Sequence[Frames | None]
    ) -> None:
        native = self._native.frame
        for raw, expanded in zip(stack, named, strict=True):
            if expanded is not None:
                frames.extend(expanded)
            else:
                frames.append(native(raw[0], is_return_address=raw[1]) or UNKNOWN)

    # The leaf

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
            self._followed_by_leaf(chain),
        )
        frames, truncation = self._unwinder.unwind(snapshot)
        # It must have gone through the newest frame, and then out of the copy.
        if truncation is not Truncation.UNREADABLE or not frames or frames[-1].fp != fp:
            return None
        return frames

    def _followed_by_leaf(self, chain: FrameChain) -> dict[int, bytes]:
        newest = chain._replace(rows=chain.rows[: ROW.size], slots=chain.slots[: SLOTS.size])
        return followed_of(newest, self._plan)

    # The base

    def _name_base(self, chain: FrameChain, time_ns: int) -> _Base | None:
        rows, pieces = chain.rows[ROW.size :], chain.pieces[1:]
        base = self._bases.get(rows)
        if (
            base is not None
            and base.pieces == pieces
            and base.generation == self._code.generation
            and self._check(base.stretches, time_ns)
        ):
            return base
        base = self._make_base(chain, pieces, time_ns)
        if base is not None:
            _make_room(self._bases)
            self._bases[rows] = base
        return base

    def _make_base(
        self, chain: FrameChain, pieces: tuple[tuple[int, bytes], ...], time_ns: int
    ) -> _Base | None:
        """Name what lies beyond the newest frame, stretch by stretch."""
        fps = [slots[0] for slots in SLOTS.iter_unpack(chain.slots)]
        base = _Base(pieces, self._code.generation)
        frames: list[Frame] = []
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
            frames += bridge
            first = last + 1
        if first != len(fps):
            return None
        base.frames = tuple(frames)
        base.generation = self._code.generation
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
        basis = Basis()
        js = self._js
        before = js.js_frames, js.js_frames_named
        now = self._clock()
        stack = decode_rows(rows, slots)
        frames: list[Frame] = []
        self._expand(frames, stack, js.symbolize(stack, followed_of(part, self._plan), None, basis))
        answer = _Answer(
            tuple(frames),
            basis,
            now,
            self._checks,
            js.js_frames - before[0],
            js.js_frames_named - before[1],
        )
        js.js_frames, js.js_frames_named = before
        _make_room(self._stretches)
        self._stretches[rows] = answer
        return answer

    def _name_bridge(
        self, chain: FrameChain, address: int, data: bytes, next_fp: int
    ) -> Frames | None:
        """Name native code from an entry frame to the next exit frame or the thread's start."""
        key = (address, data)
        known = self._bridges.get(key)
        if known is not None and known[0] == self._code.generation:
            return known[1]
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
        named = tuple(frames)
        _make_room(self._bridges)
        self._bridges[key] = self._code.generation, named
        return named

    # What still holds

    def _check(self, answers: Sequence[_Answer], time_ns: int) -> bool:
        """Say whether answers hold for a sample, reading all that is in use again if need be."""
        checks = self._checks
        stale = False
        for answer in answers:
            answer.used = checks
            if answer.valid_ns < time_ns:
                stale = True
                self._hot[id(answer)] = answer
        if stale:
            self._read_again()
        return all(answer.basis.holds and answer.valid_ns >= time_ns for answer in answers)

    def _read_again(self) -> None:
        self._checks += 1
        hot = [a for a in self._hot.values() if a.used + _HOT_CHECKS >= self._checks]
        now = self._clock()
        self._js.check([answer.basis for answer in hot])
        self._hot = {}
        for answer in hot:
            if not answer.basis.is_final:
                answer.basis.holds = False
            if answer.basis.holds:
                answer.valid_ns = now
                self._hot[id(answer)] = answer


def _make_room(
    answers: dict[bytes, _Base]
    | dict[bytes, _Answer]
    | dict[tuple[int, bytes], tuple[int, Frames]],
) -> None:
    if len(answers) >= _MAX_ANSWERS:
        answers.clear()
