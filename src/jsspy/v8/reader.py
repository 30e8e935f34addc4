"""Everything that reads the V8 of one target, in one place, over one set of caches."""

from __future__ import annotations

from struct import Struct

from jsspy.model.capture import FrameChain, StackSnapshot
from jsspy.target.memory import Memory
from jsspy.target.process import V8Binary
from jsspy.v8.builtins import BuiltinTable
from jsspy.v8.code import CodeObject, CodeReader
from jsspy.v8.frames import FrameDecoder
from jsspy.v8.function import FunctionReader
from jsspy.v8.heap import Heap
from jsspy.v8.layout import Layout
from jsspy.v8.plan import make_plan

_WORD = Struct("<Q").unpack_from


class V8Reader:
    """The readers of one V8, and the words that an engine copied for them."""

    def __init__(self, memory: Memory, v8: V8Binary, layout: Layout) -> None:
        self.layout = layout
        self.heap = Heap(memory, layout)
        self.functions = FunctionReader(self.heap)
        self.codes = CodeReader(self.heap, self.functions)
        self.decoder = FrameDecoder(layout.frame)
        self.builtins = BuiltinTable(v8.elf, layout.embedded_blob or (0, 0))
        self.plan = make_plan(layout)

    def isolate_word(
        self, snapshot: StackSnapshot | FrameChain, slot: int | None, size: int = 8
    ) -> int:
        """Return a word of the thread's isolate; 0 if it was not copied or V8 lacks it."""
        words = snapshot.isolate_words
        if slot is None or not words:
            return 0
        plan = self.plan
        at = slot - plan.isolate_start
        if not 0 <= at <= plan.isolate_size - size:
            at = plan.isolate_size + slot - plan.isolate_start_2
        return int.from_bytes(words[at : at + size], "little") if at >= 0 else 0

    def shared_of(self, function: int, followed: dict[int, bytes]) -> int:
        """Return the SharedFunctionInfo word of a JSFunction that was copied; 0 if it was not."""
        data = followed.get(function)
        at = self.layout.objects.js_function_shared
        if data is None or len(data) < at + 8:
            return 0
        shared: int = _WORD(data, at)[0]
        return shared

    def bytecode_array_of(self, code: CodeObject) -> int | None:
        """Return the BytecodeArray that baseline code was made from; None if it does not say.

        Since V8 9.6 it is in the slot that optimized code has its deoptimization data in. Source:
        `Code::bytecode_or_interpreter_data` in src/objects/code-inl.h, at 10.2.154.
        """
        data = code.deoptimization_data
        is_array = self.heap.instance_type(data) == self.layout.types.bytecode_array
        return data if is_array else None
