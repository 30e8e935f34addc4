"""Everything that reads the V8 of one target, in one place, over one set of caches."""

from __future__ import annotations

from struct import Struct

from jsspy.errors import FaultError
from jsspy.model.capture import FrameChain, StackSnapshot
from jsspy.model.units import Address
from jsspy.target.memory import Memory
from jsspy.target.process import V8Binary
from jsspy.v8.builtins import BuiltinTable
from jsspy.v8.code import CodeObject, CodeReader
from jsspy.v8.frames import FrameDecoder
from jsspy.v8.function import FunctionReader
from jsspy.v8.heap import Heap
from jsspy.v8.layout import Layout
from jsspy.v8.plan import make_plan
from jsspy.v8.wasm import WasmReader

_WORD = Struct("<Q").unpack_from


class V8Reader:
    """The readers of one V8, and the words that an engine copied for them."""

    def __init__(self, memory: Memory, v8: V8Binary, layout: Layout) -> None:
        self.layout = layout
        self.heap = Heap(memory, layout)
        self.functions = FunctionReader(self.heap)
        self.codes = CodeReader(self.heap, self.functions)
        self.wasm = WasmReader(memory, v8, self.heap)
        self.decoder = FrameDecoder(layout.frame)
        self.builtins = v8.elf.derive(BuiltinTable, layout.embedded_blob or (0, 0))
        self.plan = make_plan(layout)

    def close(self) -> None:
        """Forget what was read of the process. Nothing can be read from here on."""
        self.heap.beliefs.clear()
        self.functions.close()
        self.codes.close()

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

    def entry_of(self, function: int, followed: dict[int, bytes]) -> int:
        """Return the address of the code that a JSFunction is entered by; 0 if it was not copied.

        Only before V8 7.1. Source: JSFunction::code in src/objects-inl.h at 3.14.5 (the address of
        the first instruction) and src/objects/js-objects-inl.h at 6.8.275 (the Code).
        """
        return self._decode_entry(followed.get(function))

    def read_entry(self, function: int) -> int:
        """Return what `entry_of` does, as it is now; 0 if it cannot be read."""
        if function & 3 != 1:
            return 0
        try:
            data = self.heap.memory.read(Address(function - 1), self.plan.follow_size)
        except FaultError:
            return 0
        return self._decode_entry(data)

    def _decode_entry(self, data: bytes | None) -> int:
        at = self.layout.objects.js_function_code
        if data is None or at is None or len(data) < at + 8:
            return 0
        if self.heap.map_type(_WORD(data)[0]) != self.layout.types.js_function:
            return 0
        word: int = _WORD(data, at)[0]
        return word - 1 + self.layout.code.instruction_start if word & 1 else word

    def is_unoptimized_code_of(self, code: CodeObject, shared: int) -> bool:
        """Say whether full-codegen code is, or may be, that of a SharedFunctionInfo."""
        slot = self.layout.objects.sfi_code
        if slot is None or not shared & 1:
            return True
        try:
            return self.heap.read_field(shared, slot) == code.address + 1
        except FaultError:
            return True

    def bytecode_array_of(self, code: CodeObject) -> int | None:
        """Return the BytecodeArray that baseline code was made from; None if it does not say.

        Since V8 9.6 it is in the slot that optimized code has its deoptimization data in. Source:
        `Code::bytecode_or_interpreter_data` in src/objects/code-inl.h, at 10.2.154.
        """
        data = code.deoptimization_data
        is_array = self.heap.instance_type(data) == self.layout.types.bytecode_array
        return data if is_array else None
