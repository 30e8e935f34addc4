"""Every offset, tag and marker that jsspy uses to read V8 from outside, in one frozen value.

A `Layout` is made by `jsspy.v8.metadata` from the binary's own metadata (`v8dbg_*` symbols and the
code of a few builtins). Offsets are in bytes from the *untagged* object address (tagged pointer
- 1) unless a field says otherwise; `None` means that this V8 does not have the thing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class CodeKind(Enum):
    """What a Code object holds, as far as jsspy tells kinds apart."""

    BASELINE = "baseline"
    MAGLEV = "maglev"
    TURBOFAN = "turbofan"
    REGEXP = "regexp"
    FULL_CODEGEN = "full-codegen"
    """Unoptimized machine code of V8 before 5.9."""
    LEGACY_OPTIMIZED = "legacy-optimized"
    """Of Crankshaft and early TurboFan: says with translations where it is. V8 before 7.1."""
    BYTECODE_HANDLER = "bytecode-handler"
    """Before V8 embedded its builtins; since then a handler is told by its symbol."""
    BUILTIN_OR_REGEXP = "builtin-or-regexp"
    """V8 3.14 does not tell them apart."""
    OTHER = "other"


class MarkerScheme(Enum):
    """How a frame that is not a JS frame says what it is."""

    TYPE_SHL_1 = "type<<1 at fp-8"
    """V8 6.2 and later."""
    SMI_AT_CONTEXT = "Smi at fp-8"
    """V8 5.1."""
    SMI_AT_FUNCTION = "Smi at fp-16"
    """V8 4.5 and earlier; exit frames have a Code object there."""


class PositionEncoding(Enum):
    """How a source position table is encoded."""

    ZIGZAG_FROM_0 = "zig-zag VLQ, code offsets of optimized code start at 0"
    """V8 before 8.x (Node 12)."""
    ZIGZAG_FROM_MINUS_1 = "zig-zag VLQ, code offsets of optimized code start at -1"
    UNSIGNED_FLAGS = "unsigned VLQ, delta << 2 | breakable << 1 | statement"
    """V8 14."""
    ZIGZAG_PLAIN = "zig-zag VLQ, positions are script offsets and nothing else"
    """V8 5."""
    ZIGZAG_NO_EXTERNAL_BIT = "zig-zag VLQ, positions lack the lowest bit of later ones"
    """V8 6."""


class RelocationEncoding(Enum):
    """How the relocation info of V8 before 5.4 holds the positions of full-codegen code."""

    SHORT_TAGS = "positions are tagged in the low bits of a byte's upper six"
    """V8 4.5 and earlier."""
    MODES = "the upper six bits of a byte are a mode"
    """V8 4.6 to 5.3."""
    MODES_OF_5_0 = "as MODES, with other numbers"


@dataclass(frozen=True, slots=True)
class FrameLayout:
    """Slots relative to fp."""

    context: int
    """Context, or the marker of a frame that is not a JS frame."""
    function: int
    bytecode_array: int | None
    bytecode_offset: int | None
    marker_scheme: MarkerScheme
    types: dict[int, str]
    """Marker number -> V8's name without "Frame": Entry, ConstructEntry, Exit, BuiltinExit, ..."""
    entry_saved_c_entry_fp: int
    entry_saved_fast_c_call_fp: int | None
    entry_saved_fast_c_call_pc: int | None


@dataclass(frozen=True, slots=True)
class IsolateLayout:
    """Offsets from the Isolate."""

    c_entry_fp: int
    js_entry_sp: int
    vm_state: int | None
    context: int | None
    fast_c_call_caller_fp: int | None
    fast_c_call_caller_pc: int | None
    root_register_bias: int
    """r13 - isolate in V8 code; 0 where r13 is something else (the roots, before V8 7.1)."""
    handler: int | None = None
    """Legacy: c_entry_fp is stale unless it lies below the address of the newest try handler."""


@dataclass(frozen=True, slots=True)
class TypeLayout:
    """Instance types. -1 where a V8 does not have the type."""

    map: int
    js_function: int
    shared_function_info: int
    script: int
    scope_info: int
    code: int
    instruction_stream: int
    bytecode_array: int
    fixed_array: int
    byte_array: int
    trusted_byte_array: int
    interpreter_data: int
    baseline_data: int
    debug_info: int
    oddball: int
    shared_function_info_wrapper: int
    first_nonstring: int
    js_promise: int = -1
    js_async_function_object: int = -1
    js_async_generator_object: int = -1
    promise_reaction: int = -1
    promise_capability: int = -1
    uncompiled_data: tuple[int, ...] = ()
    """The types of what a function has in place of bytecode before it is compiled."""


@dataclass(frozen=True, slots=True)
class ObjectLayout:
    """Fields of heap objects."""

    map_instance_type: int
    map_instance_type_size: int
    """Bytes: 1 before V8 6.8, 2 since."""
    js_function_shared: int
    js_function_context: int
    js_function_code: int | None
    sfi_function_data: int
    """In V8 13 and later the trusted half."""
    sfi_untrusted_function_data: int | None
    sfi_name_or_scope_info: int
    sfi_script: int
    script_source: int
    script_name: int
    script_line_offset: int
    script_column_offset: int
    script_line_ends: int
    script_id: int
    script_source_url: int | None
    script_source_mapping_url: int | None
    scope_info_first_slot: int
    scope_info_first_vars: int
    """Index of the first variable slot, counted in slots from `scope_info_first_slot`."""
    scope_info_context_local_count: int
    """Slot index of the number of context locals."""
    scope_info_positions_in_front: bool
    """start and end position are slots 3 and 4 (V8 12.8 and later), else they are in the tail."""
    scope_info_names_hashtable_from: int | None
    """From this many locals on, the names are one hashtable slot (V8 9.5 and later)."""
    fixed_array_length: int
    fixed_array_data: int
    uncompiled_inferred_name: int
    uncompiled_start: int
    """int32, followed by the end position."""
    scope_info_parameter_count: int | None = None
    """Slot index of the number of parameters, where their names are in the ScopeInfo."""
    scope_info_stack_local_count: int | None = None
    """Slot index of the number of locals on the stack, where their names are in the ScopeInfo."""
    sfi_inferred_name: int | None = None
    """A String, or something else that says nothing."""
    sfi_start: int | None = None
    """int32, shifted; None where positions are in ScopeInfo or UncompiledData."""
    sfi_start_shift: int = 0
    sfi_end: int = 0
    sfi_end_shift: int = 0
    sfi_code: int | None = None
    """The unoptimized Code."""
    script_type: int | None = None
    """A Smi: 0 is V8's own JavaScript. Only where V8 has builtins in JavaScript."""
    only_newline_ends_line: bool = False


@dataclass(frozen=True, slots=True)
class StringLayout:
    """Strings: shape bits of the instance type and fields."""

    representation_mask: int
    encoding_mask: int
    one_byte_tag: int
    seq: int
    cons: int
    external: int
    sliced: int
    thin: int | None
    uncached_external_bit: int
    length: int
    length_is_smi: bool
    chars: int
    cons_first: int
    cons_second: int
    sliced_parent: int
    sliced_offset: int
    thin_actual: int | None
    external_resource: int
    external_data: int


@dataclass(frozen=True, slots=True)
class LegacyCodeLayout:
    """Relocation info, safepoints and translations: see `jsspy.v8.legacy`."""

    relocation_encoding: RelocationEncoding | None
    """`CodeLayout.position_table` is relocation info; None: it is a source position table."""
    safepoint_table_offset: int
    """Offset in Code of the uint32 that says where, from the first instruction on, the table is."""
    safepoint_table_shift: int
    safepoint_table_bits: int
    safepoint_entry_size: int
    """Bytes: pc and info, then perhaps the pc of a trampoline."""
    deopt_translations: int
    """Index, in the deoptimization data, of the ByteArray with the translations."""
    deopt_entry_size: int
    """Words of an entry; the second one says where its translation begins."""
    opcodes: tuple[tuple[str, int], ...]
    """Translation opcodes by number: name, and how many operands follow."""


@dataclass(frozen=True, slots=True)
class CodeLayout:
    """Code objects, bytecode arrays and their tables."""

    deoptimization_data: int
    position_table: int
    flags: int
    instruction_size: int
    instruction_start: int
    """Offset of the instructions, or of the pointer to them."""
    instruction_start_is_pointer: bool
    instruction_stream_header: int | None
    kind_shift: int
    kind_mask: int
    """kind = (flags >> kind_shift) & kind_mask."""
    kinds: dict[int, CodeKind]
    position_encoding: PositionEncoding
    bytecode_length: int | None
    bytecode_positions: int | None
    bytecode_data: int | None
    """Header size of a BytecodeArray."""
    bytecode_sizes: bytes
    """kBytecodeSizes: 3 operand scales, one byte per bytecode; empty if not known."""
    translation_operand_counts: tuple[int, ...]
    """TranslationOpcodeOperandCount; empty if not known."""
    maglev_positions_empty: bool
    """Maglev code has an empty position table: recover from deoptimization data (V8 11-13)."""
    deopt_inlined_function_count: int
    deopt_literal_array: int
    deopt_shared_function_info: int
    deopt_inlining_positions: int
    deopt_first_entry: int
    """Index of the first (bytecode offset, translation index, pc) triple."""
    legacy: LegacyCodeLayout | None = None
    """What V8 did before its code told positions by tables."""


class Confidence(Enum):
    """How sure jsspy is of a layout."""

    EXACT = "exact"
    """Every field that is needed came from the binary and the self-test passed."""
    DERIVED = "derived"
    """Some fields came from the rules for this V8 version; the self-test passed."""
    FAILED = "failed"
    """Something needed is missing or the self-test failed: native frames only."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How one build of V8 lays out what jsspy reads."""

    v8_version: tuple[int, int, int, int]
    frame: FrameLayout
    isolate: IsolateLayout
    types: TypeLayout
    objects: ObjectLayout
    strings: StringLayout
    code: CodeLayout
    isolate_tls_offset: int | None
    """Thread-local g_current_isolate_: value of the TLS symbol, from the start of the TLS block."""
    isolate_key_address: int | None
    """FileAddress of `Isolate::isolate_key_`, a pthread key (int32)."""
    embedded_blob: tuple[int, int] | None
    """FileAddress range [start, end) of the embedded builtins."""
    derived: tuple[str, ...] = field(default=())
    """Fields that came from version rules and not from the binary."""

    def version_text(self) -> str:
        """Return the V8 version as V8 prints it."""
        return ".".join(map(str, self.v8_version))
