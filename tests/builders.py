"""Writes V8 heaps as bytes, for shapes that no running process shows on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jsspy.model.units import Address
from jsspy.target.memory import PAGE_BYTES, RecordedMemory
from jsspy.v8.heap import Heap
from jsspy.v8.layout import (
    CodeKind,
    CodeLayout,
    FrameLayout,
    IsolateLayout,
    Layout,
    MarkerScheme,
    ObjectLayout,
    PositionEncoding,
    StringLayout,
    TypeLayout,
)

LAYOUT = Layout(
    v8_version=(13, 6, 233, 17),
    frame=FrameLayout(
        context=-8,
        function=-16,
        bytecode_array=-32,
        bytecode_offset=-40,
        marker_scheme=MarkerScheme.TYPE_SHL_1,
        types={1: "Entry", 2: "ConstructEntry", 3: "Exit", 14: "Interpreted", 27: "BuiltinExit"},
        entry_saved_c_entry_fp=-64,
        entry_saved_fast_c_call_fp=-72,
        entry_saved_fast_c_call_pc=-80,
    ),
    isolate=IsolateLayout(
        c_entry_fp=0x140,
        js_entry_sp=0x1D8,
        vm_state=0x1E8,
        context=0x150,
        fast_c_call_caller_fp=0x128,
        fast_c_call_caller_pc=0x120,
        root_register_bias=128,
    ),
    types=TypeLayout(
        map=272,
        js_function=2065,
        shared_function_info=282,
        script=167,
        scope_info=280,
        code=187,
        instruction_stream=192,
        bytecode_array=186,
        fixed_array=205,
        byte_array=217,
        trusted_byte_array=196,
        interpreter_data=188,
        baseline_data=-1,
        debug_info=154,
        oddball=131,
        shared_function_info_wrapper=195,
        first_nonstring=128,
        uncompiled_data=(175, 176, 177, 178),
    ),
    objects=ObjectLayout(
        map_instance_type=12,
        map_instance_type_size=2,
        js_function_shared=32,
        js_function_context=40,
        js_function_code=None,
        sfi_function_data=8,
        sfi_untrusted_function_data=16,
        sfi_name_or_scope_info=24,
        sfi_script=40,
        script_source=8,
        script_name=16,
        script_line_offset=24,
        script_column_offset=32,
        script_line_ends=56,
        script_id=64,
        script_source_url=112,
        script_source_mapping_url=120,
        scope_info_first_slot=8,
        scope_info_first_vars=5,
        scope_info_context_local_count=2,
        scope_info_positions_in_front=True,
        scope_info_names_hashtable_from=75,
        fixed_array_length=8,
        fixed_array_data=16,
        uncompiled_inferred_name=8,
        uncompiled_start=16,
    ),
    strings=StringLayout(
        representation_mask=7,
        encoding_mask=8,
        one_byte_tag=8,
        seq=0,
        cons=1,
        external=2,
        sliced=3,
        thin=5,
        uncached_external_bit=16,
        length=12,
        length_is_smi=False,
        chars=16,
        cons_first=16,
        cons_second=24,
        sliced_parent=16,
        sliced_offset=24,
        thin_actual=16,
        external_resource=16,
        external_data=24,
    ),
    code=CodeLayout(
        deoptimization_data=8,
        position_table=16,
        flags=52,
        instruction_size=56,
        instruction_start=40,
        instruction_start_is_pointer=True,
        instruction_stream_header=32,
        kind_shift=0,
        kind_mask=15,
        kinds={
            3: CodeKind.REGEXP,
            10: CodeKind.BASELINE,
            11: CodeKind.MAGLEV,
            12: CodeKind.TURBOFAN,
        },
        position_encoding=PositionEncoding.ZIGZAG_FROM_MINUS_1,
        bytecode_length=8,
        bytecode_positions=24,
        bytecode_data=64,
        bytecode_sizes=bytes([1, 1, 1, 1, 1, 2, 3] * 3),
        translation_operand_counts=(),
        maglev_positions_empty=True,
        deopt_inlined_function_count=1,
        deopt_literal_array=3,
        deopt_shared_function_info=7,
        deopt_inlining_positions=8,
        deopt_first_entry=12,
    ),
    isolate_tls_offset=264,
    isolate_key_address=None,
    embedded_blob=(0x19B2000, 0x1BB6D80),
)
"""As of Node 24: the positions of a ScopeInfo in front, function data in two halves."""

OLD_LAYOUT = replace(
    LAYOUT,
    v8_version=(8, 4, 371, 23),
    isolate=replace(
        LAYOUT.isolate,
        c_entry_fp=0x32F0,
        js_entry_sp=0x3318,
        vm_state=0x3328,
        fast_c_call_caller_fp=0x38,
        fast_c_call_caller_pc=0x40,
    ),
    frame=replace(LAYOUT.frame, entry_saved_fast_c_call_fp=None, entry_saved_fast_c_call_pc=None),
    objects=replace(
        LAYOUT.objects,
        js_function_shared=24,
        js_function_context=32,
        sfi_untrusted_function_data=None,
        sfi_name_or_scope_info=16,
        sfi_script=32,
        script_source_url=104,
        script_source_mapping_url=112,
        scope_info_first_slot=16,
        scope_info_first_vars=3,
        scope_info_positions_in_front=False,
        scope_info_names_hashtable_from=None,
    ),
    isolate_tls_offset=None,
    isolate_key_address=0x45B971C,
)
"""As of Node 14: positions in the tail of a ScopeInfo, and the slots after a length."""

ONE_BYTE = 8
CONS, EXTERNAL, SLICED, THIN = 1, 2, 3, 5
UNCACHED = 16


def smi(value: int) -> int:
    """Return the tagged word of a small integer."""
    return (value & 0xFFFFFFFF) << 32


class HeapBuilder:
    """Allocates objects one behind the other. What it returns are tagged pointers."""

    def __init__(self, layout: Layout = LAYOUT, base: int = 0x100000) -> None:
        self.layout = layout
        self.pages: dict[int, bytearray] = {}
        self.top = base
        self.maps: dict[int, int] = {}
        self.meta_map = self.allocate(80)
        self.write(self.meta_map - 1, self.meta_map)
        self._set_type(self.meta_map, layout.types.map)
        self.undefined = self.object(layout.types.oddball, 48)

    def allocate(self, size: int) -> int:
        """Return a tagged pointer to `size` zero bytes (rounded up to words)."""
        address = self.top
        self.top += (size + 7) // 8 * 8
        for page in range(address // PAGE_BYTES, (self.top - 1) // PAGE_BYTES + 1):
            self.pages.setdefault(page * PAGE_BYTES, bytearray(PAGE_BYTES))
        return address + 1

    def write_bytes(self, address: int, data: bytes) -> None:
        """Write at an untagged address."""
        for index, byte in enumerate(data, address):
            self.pages[index - index % PAGE_BYTES][index % PAGE_BYTES] = byte

    def write(self, address: int, word: int) -> None:
        """Write a word at an untagged address."""
        self.write_bytes(address, word.to_bytes(8, "little"))

    def set(self, obj: int, offset: int, word: int) -> None:
        """Write a field."""
        self.write(obj - 1 + offset, word)

    def _set_type(self, map_obj: int, instance_type: int) -> None:
        objects = self.layout.objects
        at = map_obj - 1 + objects.map_instance_type
        self.write_bytes(at, instance_type.to_bytes(objects.map_instance_type_size, "little"))

    def map_of(self, instance_type: int) -> int:
        """Return the map of a type."""
        if instance_type not in self.maps:
            made = self.maps[instance_type] = self.allocate(80)
            self.set(made, 0, self.meta_map)
            self._set_type(made, instance_type)
        return self.maps[instance_type]

    def object(self, instance_type: int, size: int, fields: dict[int, int] | None = None) -> int:
        """Return an object of a type, with words at offsets."""
        map_obj = self.map_of(instance_type)
        obj = self.allocate(size)
        self.set(obj, 0, map_obj)
        for offset, word in (fields or {}).items():
            self.set(obj, offset, word)
        return obj

    def string(self, text: str) -> int:
        """Return a sequential string, of one byte per character where they fit."""
        one_byte = all(ord(character) < 256 for character in text)
        data = text.encode("latin-1" if one_byte else "utf-16-le", "surrogatepass")
        return self._string(ONE_BYTE if one_byte else 0, len(data) // (1 if one_byte else 2), data)

    def _string(self, instance_type: int, length: int, tail: bytes) -> int:
        layout = self.layout.strings
        obj = self.object(instance_type, layout.chars + len(tail))
        self.write_bytes(obj - 1 + layout.length, length.to_bytes(4, "little"))
        self.write_bytes(obj - 1 + layout.chars, tail)
        return obj

    def indirect(self, instance_type: int, length: int, *words: int) -> int:
        """Return a cons, sliced, thin or external string of two words."""
        tail = b"".join(word.to_bytes(8, "little") for word in words)
        return self._string(instance_type, length, tail)

    def array(self, *words: int) -> int:
        """Return a FixedArray."""
        objects = self.layout.objects
        obj = self.object(self.layout.types.fixed_array, objects.fixed_array_data + 8 * len(words))
        self.set(obj, objects.fixed_array_length, smi(len(words)))
        for index, word in enumerate(words):
            self.set(obj, objects.fixed_array_data + 8 * index, word)
        return obj

    def script(
        self, source: int, name: int, number: int = 7, offsets: tuple[int, int] = (0, 0)
    ) -> int:
        """Return a Script."""
        objects = self.layout.objects
        fields = dict.fromkeys(range(8, 144, 8), self.undefined)
        fields |= {
            objects.script_source: source,
            objects.script_name: name,
            objects.script_line_offset: smi(offsets[0]),
            objects.script_column_offset: smi(offsets[1]),
            objects.script_id: smi(number),
        }
        return self.object(self.layout.types.script, 144, fields)

    def scope_info(
        self,
        name: int,
        inferred: int,
        positions: tuple[int, int],
        count: int = 0,
        between: tuple[int, ...] = (),
    ) -> int:
        """Return the ScopeInfo of a function with `count` captured variables."""
        objects = self.layout.objects
        start, end = map(smi, positions)
        slots = [smi(4), smi(0), smi(count)]
        if objects.scope_info_positions_in_front:
            slots += [start, end]
        hashtable_from = objects.scope_info_names_hashtable_from
        hashed = hashtable_from is not None and count >= hashtable_from
        slots += [self.string("local")] * (1 if hashed else count) + [smi(1)] * count
        slots += [*between, name, smi(0), inferred]
        if not objects.scope_info_positions_in_front:
            slots += [start, end]
        first = objects.scope_info_first_slot
        fields = {first + 8 * index: word for index, word in enumerate(slots)}
        return self.object(self.layout.types.scope_info, first + 8 * len(slots), fields)

    def shared(self, name_or_scope_info: int, script: int, data: int) -> int:
        """Return a SharedFunctionInfo; `data` is what it has for code (in both halves if two)."""
        objects = self.layout.objects
        fields = {objects.sfi_function_data: data}
        if objects.sfi_untrusted_function_data is not None:
            fields[objects.sfi_untrusted_function_data] = data
        fields |= {objects.sfi_name_or_scope_info: name_or_scope_info, objects.sfi_script: script}
        return self.object(self.layout.types.shared_function_info, 72, fields)

    def function(self, shared: int) -> int:
        """Return a closure."""
        fields = {self.layout.objects.js_function_shared: shared}
        return self.object(self.layout.types.js_function + 15, 64, fields)

    def memory(self) -> RecordedMemory:
        """Return what was built so far; later writes do not show."""
        return RecordedMemory({page: bytes(data) for page, data in self.pages.items()})

    def heap(self) -> Heap:
        """Return a reader of what was built so far."""
        return Heap(self.memory(), self.layout)

    def read(self, address: int, size: int) -> bytes:
        """Return bytes at an untagged address, as they are now; implements `Memory`."""
        return self.memory().read(Address(address), size)

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> list[bytes | None]:
        """Return bytes as they are now; implements `Memory`."""
        return self.memory().read_many(ranges)
