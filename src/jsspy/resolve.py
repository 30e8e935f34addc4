"""From a capture to a sample: unwind, name, put root first, count.

This is the one place that turns a stack around: everything before it is leaf first, a `Stack` and
all after it is root first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import assert_never

from jsspy.errors import FaultError, ProcessExited
from jsspy.model.capture import (
    NO_PLAN,
    FrameChain,
    RawFrame,
    RepeatedChain,
    ResolvedChain,
    StackSnapshot,
    StoppedReader,
)
from jsspy.model.mode import NativeFrames
from jsspy.model.sample import LossReason, RawSample, Sample, VmState
from jsspy.model.stack import Frame, Stack, Truncation
from jsspy.symbolize.awaiting import AwaitingSymbolizer
from jsspy.symbolize.base import UNKNOWN, Frames
from jsspy.symbolize.chain import ChainSymbolizer
from jsspy.symbolize.js import JsSymbolizer
from jsspy.symbolize.kernel import load_kernel_symbols
from jsspy.symbolize.native import NativeSymbolizer, select_frames
from jsspy.symbolize.own_map import OwnMap
from jsspy.target.process import Target, V8Binary
from jsspy.unwind.base import CodeMap, Region
from jsspy.unwind.chain import ChainCutter, whole
from jsspy.unwind.hybrid import HybridUnwinder
from jsspy.unwind.trail import TrailWalker
from jsspy.v8.async_chain import AsyncReader, derive_async_layout
from jsspy.v8.function import FunctionReader
from jsspy.v8.layout import Layout
from jsspy.v8.reader import V8Reader

_VM_STATES = (
    VmState.JS,
    VmState.GC,
    VmState.PARSER,
    VmState.BYTECODE_COMPILER,
    VmState.COMPILER,
    VmState.OTHER,
    VmState.EXTERNAL,
    VmState.ATOMICS_WAIT,
    VmState.IDLE,
)
"""By number. Source: StateTag in include/v8-unwinder.h, at 10.2.154."""

_VM_STATES_BEFORE_8 = (*_VM_STATES[:7], VmState.IDLE)
"""V8 7.8 has no Atomics.wait. Source: StateTag in include/v8.h, at 7.8.279."""

_VM_STATES_BEFORE_6_3 = (
    VmState.JS,
    VmState.GC,
    VmState.COMPILER,
    VmState.OTHER,
    VmState.EXTERNAL,
    VmState.IDLE,
)
"""Source: StateTag in include/v8.h, at 3.28.71, 4.5.103 and 6.2.414."""

_VM_STATES_BEFORE_3_20 = (
    VmState.JS,
    VmState.GC,
    VmState.COMPILER,
    VmState.UNKNOWN,
    VmState.OTHER,
    VmState.EXTERNAL,
)
"""As seen in 3.14.5: a process in its event loop is in the last. The fourth was never seen."""

_VM_STATES_SINCE = (
    ((8, 0), _VM_STATES),
    ((6, 3), _VM_STATES_BEFORE_8),
    ((3, 20), _VM_STATES_BEFORE_6_3),
)

_NO_EXTERNAL_STATE_SINCE = (12, 0)
"""From here on the state stays JS while native callbacks run (observed in 12.4, 13.6, 14.6)."""


_REPEATABLE_NS = 5_000_000_000
"""How long a stack can be repeated: engines begin anew to send stacks once a second."""

_MAX_TRIES = 4
"""How often a stack is done again because something that was remembered had changed."""


class Resolver:
    """Turns the captures of one target into samples.

    Attributes:
        js_frames: JavaScript frames seen so far, inlined ones included.
        js_frames_named: Those whose function could be read.
        truncated: Stacks that do not reach their thread's start, by reason.
    """

    def __init__(
        self,
        target: Target,
        v8: V8Binary | None,
        layout: Layout | None,
        *,
        async_callers: bool = False,
        native: NativeFrames = NativeFrames.FULL,
    ) -> None:
        """Prepare to read a target.

        Args:
            target: The process.
            v8: None if there is no V8 in it.
            layout: None if its V8 is not known: its frames are "(unknown)".
            async_callers: Show who awaits what runs; `stopped_reader` must read with each sample.
            native: Which native frames stacks have.
        """
        self._wanted = native
        self.truncated: dict[Truncation, int] = {}
        self._code = CodeMap(target, v8, layout)
        self._v8 = (
            V8Reader(target.memory, v8, layout) if v8 is not None and layout is not None else None
        )
        self._plan = self._v8.plan if self._v8 is not None else NO_PLAN
        self._unwinder = HybridUnwinder(target.memory, self._code, self._v8, native)
        self._js = JsSymbolizer(self._v8, self._code) if self._v8 is not None else None
        self._native = NativeSymbolizer(target)
        self._own_map = OwnMap(target) if self._v8 is None else None
        self._chains = (
            ChainSymbolizer(
                self._plan,
                self._code,
                self._unwinder,
                self._js,
                self._native,
                self._v8.decoder,
            )
            if self._v8 is not None and self._js is not None
            else None
        )
        self._cutter = (
            ChainCutter(self._plan, self._code, TrailWalker(self._code, self._unwinder), self._js)
            if self._js is not None
            else None
        )
        self._learn_ns: dict[int, int] = {}
        """Isolate -> when it was last looked at."""
        self._repeatable: dict[tuple[int, int], Sample] = {}
        """Stacks that an engine counts, by thread and key."""
        self._unknown_frames = 0
        self._async = None
        self._awaiting = None
        if async_callers and v8 is not None and self._v8 is not None and self._js is not None:
            where = derive_async_layout(v8, self._v8.layout, target.memory)
            if where is not None:
                self._async = AsyncReader(self._v8.heap, where)
                self._awaiting = AwaitingSymbolizer(self._v8, self._code, self._js, self._async)

    def close(self) -> None:
        """Forget the process; only the counts stay."""
        if self._v8 is not None:
            self._v8.close()

    @property
    def stopped_reader(self) -> StoppedReader | None:
        """What must read while a thread is stopped, for callers that wait; None: nothing."""
        return self._async

    @property
    def functions(self) -> FunctionReader | None:
        """The functions and scripts that were met; None if nothing of V8 is known."""
        return self._v8.functions if self._v8 is not None else None

    @property
    def js_frames(self) -> int:
        """JavaScript frames seen so far, inlined ones included."""
        return self._js.js_frames if self._js is not None else self._unknown_frames

    @property
    def js_frames_named(self) -> int:
        """Those of `js_frames` whose function could be read."""
        return self._js.js_frames_named if self._js is not None else 0

    def resolve(self, raw: RawSample) -> Sample | LossReason:
        """Name the stack of a capture.

        Returns:
            The sample, or why there is none.
        """
        v8, js = self._v8, self._js
        counts = (js.js_frames, js.js_frames_named) if js is not None else (0, 0)
        try:
            for _ in range(_MAX_TRIES):
                result = self._resolve(raw)
                if v8 is None or v8.heap.beliefs.confirm():
                    break
                if js is not None:
                    js.js_frames, js.js_frames_named = counts
            else:
                return LossReason.UNRESOLVED
        except ProcessExited:
            # What its stack names can no longer be read.
            return LossReason.THREAD_GONE
        if isinstance(result, Sample):
            if (reason := result.stack.truncated) is not None:
                self.truncated[reason] = self.truncated.get(reason, 0) + 1
            if isinstance(raw.capture, FrameChain) and raw.capture.key:
                self._keep_repeatable((raw.tid, raw.capture.key), result)
        return result

    def _resolve(self, raw: RawSample) -> Sample | LossReason:
        """Name the stack of a capture.

        Raises:
            ProcessExited: The target ended meanwhile.
        """
        capture = raw.capture
        truncation: Truncation | None = None
        later: dict[int, bytes] = {}
        match capture:
            case StackSnapshot():
                self._learn_isolate(capture.isolate, raw.time_ns)
                if (
                    capture.late_exit_fp is not None
                    and self._chains is not None
                    and self._cutter is not None
                    and (chain := self._cutter.cut(capture)) is not None
                    and (known := self._chains.name(chain, raw.time_ns)) is not None
                ):
                    return self._sample(raw, known.frames, None, VmState.UNKNOWN)
                stack, truncation = self._unwinder.unwind(capture)
                followed, registers = capture.followed, capture.registers
                if capture.late_exit_fp is not None:
                    followed, later = {}, followed
            case FrameChain():
                self._learn_isolate(capture.isolate, raw.time_ns)
                if self._chains is not None:
                    known = self._chains.name(capture, raw.time_ns)
                    if known is not None:
                        state = self._vm_state(capture, (), in_callback=known.in_callback)
                        return self._sample(raw, known.frames, None, state)
                snapshot = whole(capture, self._plan)
                stack, truncation = self._unwinder.unwind(snapshot)
                if capture.too_deep:
                    truncation = Truncation.TOO_DEEP
                followed, registers = snapshot.followed, capture.registers
            case RepeatedChain():
                known_sample = self._repeatable.get((raw.tid, capture.key))
                if known_sample is None:
                    return LossReason.UNRESOLVED
                return known_sample._replace(weight_ns=raw.weight_ns)
            case ResolvedChain():
                return self._sample(raw, capture.frames, None, VmState.UNKNOWN)
            case _:
                assert_never(capture)
        named: Sequence[Frames | None]
        if self._js is not None:
            named = self._js.symbolize(stack, followed, registers, later=later)
        else:
            named = [None] * len(stack)
        if self._awaiting is not None and isinstance(capture, StackSnapshot):
            named = self._awaiting.insert(capture, stack, named)
        frames: list[Frame] = []
        native = self._native.frame
        is_native_wanted = self._wanted is not NativeFrames.OFF
        for physical, expanded in zip(stack, named, strict=True):
            if expanded is not None:
                frames.extend(expanded)
                continue
            pc, is_return_address = physical[0], physical[1]
            if physical.fp and self._js is None:
                self._unknown_frames += 1
                own = self._own_map.find(pc - is_return_address) if self._own_map else None
                frames.append(own or UNKNOWN)
                continue
            if is_native_wanted:
                frames.append(native(pc, is_return_address=is_return_address) or UNKNOWN)
        if not frames and is_native_wanted:
            return LossReason.UNRESOLVED
        state = self._vm_state(capture, stack)
        return self._sample(raw, frames, truncation, state)

    def _keep_repeatable(self, key: tuple[int, int], sample: Sample) -> None:
        """Keep a stack that an engine counts, and drop those that it no longer can count."""
        repeatable = self._repeatable
        repeatable.pop(key, None)
        repeatable[key] = sample
        oldest = sample.time_ns - _REPEATABLE_NS
        while repeatable[first := next(iter(repeatable))].time_ns < oldest:
            del repeatable[first]

    def _learn_isolate(self, isolate: int, time_ns: int) -> None:
        """See where the code of an isolate is, unless that was seen since a sample was taken."""
        if time_ns >= self._learn_ns.get(isolate, 0):
            self._learn_ns[isolate] = time.monotonic_ns()
            if self._v8 is not None and isolate:
                self._v8.codes.learn_isolate(isolate)

    def _sample(
        self,
        raw: RawSample,
        frames: Sequence[Frame],
        truncation: Truncation | None,
        state: VmState,
    ) -> Sample:
        """Make a sample of frames that are leaf first."""
        if raw.kernel_chain:
            kernel = load_kernel_symbols()
            in_kernel = [
                kernel.frame(address, is_return_address=index > 0)
                for index, address in enumerate(raw.kernel_chain)
            ]
            frames = [*in_kernel, *frames]
        return Sample(
            raw.pid,
            raw.tid,
            raw.time_ns,
            raw.weight_ns,
            raw.state,
            state,
            Stack(tuple(reversed(select_frames(frames, self._wanted))), truncation),
        )

    def _vm_state(
        self,
        capture: StackSnapshot | FrameChain,
        stack: Sequence[RawFrame],
        *,
        in_callback: bool = False,
    ) -> VmState:
        """Return what V8 says that it is doing, corrected where V8 no longer says it.

        Args:
            capture: What was captured.
            stack: Its physical frames, leaf first; empty if `in_callback` says what they would.
            in_callback: It is in a native function that does not belong to V8.
        """
        v8 = self._v8
        if v8 is None:
            return VmState.UNKNOWN
        if not capture.isolate_words or v8.layout.isolate.vm_state is None:
            return VmState.UNKNOWN
        number = v8.isolate_word(capture, v8.layout.isolate.vm_state, size=2)
        states = next(
            (states for since, states in _VM_STATES_SINCE if v8.layout.v8_version[:2] >= since),
            _VM_STATES_BEFORE_3_20,
        )
        if not 0 <= number < len(states):
            return VmState.UNKNOWN
        state = states[number]
        if state is VmState.JS and v8.layout.v8_version[:2] >= _NO_EXTERNAL_STATE_SINCE:
            is_native = self._code.find(capture.registers.rip).region is Region.NATIVE
            is_external = in_callback or (is_native and self._calls_back(v8, stack))
            return VmState.EXTERNAL if is_external else VmState.JS
        return state

    def _calls_back(self, v8: V8Reader, stack: Sequence[RawFrame]) -> bool:
        """Say whether the newest V8 frame is that of the embedder's callbacks."""
        for frame in stack:
            if frame.words:
                kind = v8.decoder.types.get(frame.words[0])
                return kind is not None and (
                    kind.is_callback
                    or (kind.has_target and not self._is_builtin(v8, frame.words[4]))
                )
        return False

    @staticmethod
    def _is_builtin(v8: V8Reader, function: int) -> bool:
        """Whether a JSFunction is one of V8's own, and not a callback of the embedder."""
        try:
            shared = v8.heap.read_field(function, v8.layout.objects.js_function_shared)
        except FaultError:
            return True
        info = v8.functions.read_shared(shared)
        return info is None or info.builtin
