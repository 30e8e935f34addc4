"""The parts of a `Layout` that V8 before 7.1 (Node 0.10 to 11) lays out in its own way.

Where the Isolate keeps the words of exit frames was told by no builtin's code then: entering and
leaving JavaScript was done by stubs made at run time. But these stubs got the addresses from a
table in the Isolate, which `Isolate::get_address_from_id` reads and `Isolate::Init` fills:

    get_address_from_id    mov rax, [rdi+rsi*8+table]
    Init                   lea rax, [rbx+c_entry_fp]; mov [rbx+table+8], rax

Everything else comes from `v8dbg_*` symbols, and from rules, as in `jsspy.v8.metadata`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from jsspy.errors import FaultError
from jsspy.v8.layout import (
    CodeKind,
    CodeLayout,
    FrameLayout,
    IsolateLayout,
    LegacyCodeLayout,
    MarkerScheme,
    ObjectLayout,
    PositionEncoding,
    RelocationEncoding,
)

if TYPE_CHECKING:
    from jsspy.target.elf import Symbol
    from jsspy.v8.constants import Constants

_GET_ADDRESS = re.compile(r"_ZN2v88internal7Isolate19get_address_from_idE\w+")
_INIT = re.compile(r"_ZN2v88internal7Isolate4InitE\w+")

_MAX_CODE = 1 << 16
"""Bytes: Isolate::Init has up to 14 KiB."""

_LOAD_FROM_TABLE = re.compile(rb"\x48\x8b\x84\xf7(....)", re.DOTALL)
"""mov rax, [rdi+rsi*8+d]"""

_STORE = rb"([\x48-\x4f])\x89([\x80-\x83\x85-\xbf]|[\x84\x8c\x94\x9c\xa4\xac\xb4\xbc]\x24)"
"""mov [r2+disp32], r1 up to the displacement: REX, opcode, ModRM (and SIB where r2 is r12)."""

_LEA_BACK = 24
"""Bytes between the lea of an address and its store, at most."""

# Indexes in the table. Source: FOR_EACH_ISOLATE_ADDRESS_NAME in src/isolate.h (later
# src/globals.h) at 3.14.5, 3.28.71, 4.5.103, 6.8.275.
_HANDLER, _C_ENTRY_FP = 0, 1

_OPCODE = re.compile(r"(\w+):(\d)")


def has_address_table(constants: Constants) -> bool:
    """Say whether the Isolate has a table of addresses for the stubs that V8 makes."""
    return _find(constants, _GET_ADDRESS) is not None


def has_positions_in_functions(constants: Constants) -> bool:
    """Say whether a SharedFunctionInfo itself has the positions of its function."""
    return "SharedFunctionInfo.start_position_and_type" in constants.fields


def derive_isolate_and_frame(constants: Constants) -> tuple[IsolateLayout, FrameLayout]:
    """Read where exit frames are linked from the code that fills the table of addresses."""
    known, need = constants.constants.get, constants.need
    getter, init = _find(constants, _GET_ADDRESS), _find(constants, _INIT)
    load = _LOAD_FROM_TABLE.search(_read_code(constants, getter))
    places: dict[int, int] = {}
    if load is None:
        constants.missing.append("the code of Isolate::get_address_from_id")
    else:
        places = _decode_stores(_read_code(constants, init), _signed(load[1]))

    def place(name: str, index: int) -> int:
        found = places.get(index)
        if found is None:
            constants.missing.append(f"isolate.{name}")
            return 0
        return found

    js_entry_sp = place("js_entry_sp", need("isolate.js_entry_sp_index"))
    delta = constants.optional("isolate.vm_state_from_js_entry_sp", None)
    isolate = IsolateLayout(
        c_entry_fp=place("c_entry_fp", _C_ENTRY_FP),
        js_entry_sp=js_entry_sp,
        vm_state=None if delta is None else js_entry_sp + delta,
        context=place("context", need("isolate.context_index")),
        fast_c_call_caller_fp=None,
        fast_c_call_caller_pc=None,
        root_register_bias=0,
        handler=place("handler", _HANDLER),
    )
    function = need("off_fp_function", known("off_fp_function"))
    array = constants.optional("frame.bytecode_array_from_function", None)
    if known("off_fp_marker") is not None:
        scheme = MarkerScheme.SMI_AT_FUNCTION
    elif known("off_fp_context_or_frame_type") is not None:
        scheme = MarkerScheme.TYPE_SHL_1
    else:
        scheme = MarkerScheme.SMI_AT_CONTEXT
    frame = FrameLayout(
        context=need("off_fp_context", known("off_fp_context")),
        function=function,
        bytecode_array=None if array is None else function + array,
        bytecode_offset=None if array is None else function + array - 8,
        marker_scheme=scheme,
        types={
            value: name.removeprefix("frametype_").removesuffix("Frame")
            for name, value in sorted(constants.constants.items())
            if name.startswith("frametype_")
        },
        entry_saved_c_entry_fp=need("frame.entry_saved_c_entry_fp"),
        entry_saved_fast_c_call_fp=None,
        entry_saved_fast_c_call_pc=None,
    )
    if "Entry" not in frame.types.values():
        constants.missing.append("frametype_EntryFrame")
    return isolate, frame


def _find(constants: Constants, pattern: re.Pattern[str]) -> Symbol | None:
    found = (symbol for name, symbol in constants.symbols.items() if pattern.fullmatch(name))
    return next(found, None)


def _read_code(constants: Constants, symbol: Symbol | None) -> bytes:
    if symbol is None:
        return b""
    try:
        return constants.elf.read(symbol.address, min(symbol.size, _MAX_CODE))
    except FaultError:
        return b""


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _decode_stores(code: bytes, table: int) -> dict[int, int]:
    """Return index in the table -> offset in the Isolate of what the entry points to.

    Each is put there by `lea r1, [r2+offset]` and, one or two instructions later,
    `mov [r2+table+8*index], r1`, with 32-bit displacements: equal but for the opcode, 0x8d or 0x89.
    """
    result: dict[int, int] = {}
    for index in range(32):
        displacement = (table + 8 * index).to_bytes(4, "little", signed=True)
        store = re.compile(_STORE + re.escape(displacement), re.DOTALL)
        for match in store.finditer(code):
            rex, modrm = match[1], match[2]
            start = code.rfind(
                rex + b"\x8d" + modrm, max(match.start() - _LEA_BACK, 0), match.start()
            )
            if start >= 0:
                operand = start + 2 + len(modrm)
                result[index] = _signed(code[operand : operand + 4])
                break
    return result


def derive_objects(constants: Constants) -> ObjectLayout:
    """Return the fields of objects where functions have their positions (V8 before 6.9)."""
    known, need, constant = constants.fields.get, constants.need, constants.constants.get

    def field(name: str) -> int:
        return need(name, known(name))

    is_wide = constant("class_Map__instance_type__uint16_t") is not None
    shared = field("JSFunction.shared")
    line_ends = field("Script.line_ends")
    name = known("SharedFunctionInfo.raw_name", known("SharedFunctionInfo.name"))
    name = known("SharedFunctionInfo.name_or_scope_info", name)
    has_ints = constant("class_SharedFunctionInfo__end_position__int") is not None
    return ObjectLayout(
        map_instance_type=need(
            "Map.instance_type", known("Map.instance_type", known("Map.instance_attributes"))
        ),
        map_instance_type_size=2 if is_wide else 1,
        js_function_shared=shared,
        js_function_context=known("JSFunction.context", shared + 8),
        js_function_code=need("objects.js_function_code"),
        sfi_function_data=field("SharedFunctionInfo.function_data"),
        sfi_untrusted_function_data=None,
        sfi_name_or_scope_info=need("SharedFunctionInfo.name", name),
        sfi_script=field("SharedFunctionInfo.script"),
        script_source=field("Script.source"),
        script_name=field("Script.name"),
        script_line_offset=field("Script.line_offset"),
        script_column_offset=field("Script.column_offset"),
        script_line_ends=line_ends,
        script_id=field("Script.id"),
        script_source_url=known("Script.source_url"),
        script_source_mapping_url=known("Script.source_mapping_url"),
        scope_info_first_slot=field("FixedArray.data"),
        scope_info_first_vars=constant("scopeinfo_idx_first_vars", 0),
        scope_info_context_local_count=constant("scopeinfo_idx_ncontextlocals", 0),
        scope_info_positions_in_front=False,
        scope_info_names_hashtable_from=None,
        fixed_array_length=field("FixedArrayBase.length"),
        fixed_array_data=field("FixedArray.data"),
        uncompiled_inferred_name=0,
        uncompiled_start=0,
        scope_info_parameter_count=constant("scopeinfo_idx_nparams"),
        scope_info_stack_local_count=constant("scopeinfo_idx_nstacklocals"),
        sfi_inferred_name=known(
            "SharedFunctionInfo.function_identifier", known("SharedFunctionInfo.inferred_name")
        ),
        # int32 on all of them: where the symbol says SMI, two of them share the halves of a word,
        # and the lower one is shifted as a Smi of 31 bits would be.
        sfi_start=field("SharedFunctionInfo.start_position_and_type"),
        sfi_start_shift=constant("sharedfunctioninfo_start_position_shift", 2),
        sfi_end=field("SharedFunctionInfo.end_position"),
        sfi_end_shift=0 if has_ints else 1,
        sfi_code=known("SharedFunctionInfo.code"),
        script_type=known("Script.type"),
        only_newline_ends_line=bool(constants.optional("objects.only_newline_ends_line", None)),
    )


def derive_code(constants: Constants, sizes: bytes) -> CodeLayout:
    """Return the fields of code that tells where it is by safepoints and translations."""
    known, need = constants.fields.get, constants.need
    relocation = constants.rule("code.relocation_encoding")
    encoding = constants.rule("code.position_encoding")
    if not isinstance(encoding, str):
        # Without bytecode there are no tables to decode.
        encoding = PositionEncoding.ZIGZAG_PLAIN.name
        if not isinstance(relocation, str):
            constants.missing.append("code.position_encoding")
    has_relocation = isinstance(relocation, str)
    positions = known("Code.relocation_info" if has_relocation else "Code.source_position_table")
    opcodes = constants.rule("code.translation_opcodes")
    if not isinstance(opcodes, str):
        constants.missing.append("code.translation_opcodes")
        opcodes = ""
    own = constants.optional("code.deopt_shared_function_info", None)
    return CodeLayout(
        deoptimization_data=need("code.deoptimization_data", known("Code.deoptimization_data")),
        position_table=need("code.position_table", positions),
        flags=need("code.flags"),
        instruction_size=need("code.instruction_size", known("Code.instruction_size")),
        instruction_start=need("code.instruction_start", known("Code.instruction_start")),
        instruction_start_is_pointer=False,
        instruction_stream_header=None,
        kind_shift=need("code.kind_shift"),
        kind_mask=need("code.kind_mask"),
        kinds=_derive_kinds(constants),
        position_encoding=PositionEncoding[encoding],
        bytecode_length=known("BytecodeArray.length", known("FixedArrayBase.length")),
        bytecode_positions=known("BytecodeArray.source_position_table"),
        bytecode_data=constants.optional("code.bytecode_data", None),
        bytecode_sizes=sizes,
        translation_operand_counts=(),
        maglev_positions_empty=False,
        deopt_inlined_function_count=0,
        deopt_literal_array=need("code.deopt_literal_array"),
        deopt_shared_function_info=-1 if own is None else own,
        deopt_inlining_positions=0,
        deopt_first_entry=need("code.deopt_first_entry"),
        legacy=LegacyCodeLayout(
            relocation_encoding=RelocationEncoding[relocation]
            if isinstance(relocation, str)
            else None,
            safepoint_table_offset=need("code.safepoint_table_offset"),
            safepoint_table_shift=need("code.safepoint_table_shift"),
            safepoint_table_bits=need("code.safepoint_table_bits"),
            safepoint_entry_size=need("code.safepoint_entry_size"),
            deopt_translations=need("code.deopt_translations"),
            deopt_entry_size=need("code.deopt_entry_size"),
            opcodes=tuple((name, int(count)) for name, count in _OPCODE.findall(opcodes)),
        ),
    )


def decode_code(values: dict[str, Any]) -> LegacyCodeLayout:
    """Return what `dataclasses.asdict` made of a LegacyCodeLayout, after its way through JSON.

    Raises:
        LookupError, TypeError, ValueError: It was not made so.
    """
    encoding = values["relocation_encoding"]
    values["relocation_encoding"] = None if encoding is None else RelocationEncoding[encoding]
    values["opcodes"] = tuple((str(name), int(count)) for name, count in values["opcodes"])
    return LegacyCodeLayout(**values)


def _derive_kinds(constants: Constants) -> dict[int, CodeKind]:
    """Return the kinds of code that are told apart. Source: CODE_KIND_LIST in src/objects.h."""
    kinds = {}
    for name, kind in (
        ("full_codegen", CodeKind.FULL_CODEGEN),
        ("optimized", CodeKind.LEGACY_OPTIMIZED),
        ("bytecode_handler", CodeKind.BYTECODE_HANDLER),
        ("builtin_or_regexp", CodeKind.BUILTIN_OR_REGEXP),
        ("regexp", CodeKind.REGEXP),
    ):
        number = constants.optional(f"code.kind.{name}", None)
        if number is not None:
            kinds[number] = kind
    return kinds
