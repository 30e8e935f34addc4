"""Put the callers that wait into a stack: below the code that an `await` resumed.

    main | RunMicrotasks | outer | middle | ⋯ await | inner ...      root first
    -------- the thread -- --- they wait ---          --- runs ---

They stand where they would stand had they called without waiting: between the event loop, which is
who really called, and the function that it resumed. All that the thread has on its stack stays.
"""

from __future__ import annotations

from collections.abc import Sequence

from jsspy.model.capture import RawFrame, StackSnapshot
from jsspy.model.stack import Frame, FrameKind
from jsspy.symbolize.base import UNKNOWN, Frames
from jsspy.symbolize.js import JsSymbolizer
from jsspy.unwind.base import CodeMap, Region
from jsspy.v8.async_chain import AsyncReader, Step, StepKind
from jsspy.v8.reader import V8Reader

BOUNDARY = Frame("⋯ await", FrameKind.ASYNC_BOUNDARY)

_RUNNER = "RunMicrotasks"


class AwaitingSymbolizer:
    """Names the callers that wait, in the stacks of one target."""

    def __init__(self, v8: V8Reader, code: CodeMap, js: JsSymbolizer, reader: AsyncReader) -> None:
        self._v8 = v8
        self._code = code
        self._js = js
        self._reader = reader

    def insert(
        self,
        snapshot: StackSnapshot,
        stack: Sequence[RawFrame],
        named: Sequence[Frames | None],
    ) -> Sequence[Frames | None]:
        """Return what the frames of a stack expand to, with the callers that wait.

        Args:
            snapshot: The capture.
            stack: Its physical frames, leaf first.
            named: What they expand to.
        """
        steps = self._reader.decode(snapshot.isolate, snapshot.more or {})
        if not steps:
            return named
        index = self._find_runner(stack)
        if index is None:
            return named
        waiting = (BOUNDARY, *map(self._frame, steps))
        return [*named[:index], (*waiting, *(named[index] or ())), *named[index + 1 :]]

    def _find_runner(self, stack: Sequence[RawFrame]) -> int | None:
        """Return the index of the frame that runs the current microtask, and called it."""
        for index, raw in enumerate(stack):
            if not raw.is_return_address:
                continue
            area = self._code.find(raw.pc)
            if area.region is not Region.BUILTINS:
                continue
            builtin = self._v8.builtins.find(raw.pc - area.bias - 1)
            if builtin is not None and builtin.name == _RUNNER:
                return index
        return None

    def _frame(self, step: Step) -> Frame:
        match step.kind:
            case StepKind.FUNCTION:
                return self._js.suspended(step.shared, step.offset_slot)
            case StepKind.COMBINATOR:
                return Frame(step.name, FrameKind.BUILTIN)
            case _:
                return UNKNOWN
