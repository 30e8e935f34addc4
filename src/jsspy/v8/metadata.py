"""`Layout` from a binary: its `v8dbg_*` symbols, the code of a few builtins, and rules.

Most comes from V8's own metadata, see `jsspy.v8.constants`.

Where the Isolate keeps the words of exit frames is in no constant, but generated code uses them:
`Builtins_JSEntry` saves c_entry_fp, sets js_entry_sp, and every fast C call stores its caller.

What neither tells comes from `jsspy.v8.layouts`, by version; `Layout.derived` lists such fields.
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from dataclasses import asdict, fields
from typing import Any

from jsspy.errors import MalformedData, UnknownV8
from jsspy.model.units import FileAddress
from jsspy.target import cache
from jsspy.target.elf import ElfFile, Symbol
from jsspy.v8 import legacy_metadata
from jsspy.v8.constants import Constants
from jsspy.v8.isolates import tls_size
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
from jsspy.v8.stripped import find_bytecode_sizes, find_isolate_tls

_SCHEMA = 15
"""Raise it whenever a Layout of the same binary could come out differently than before."""

_ISOLATE_TLS = "_ZN2v88internal18g_current_isolate_E"
_ISOLATE_KEY = "_ZN2v88internal7Isolate12isolate_key_E"
_BYTECODE_SIZES = "_ZN2v88internal11interpreter9Bytecodes14kBytecodeSizesE"

_JS_ENTRY_SIZE = 0x120
"""Enough of JSEntry: the last instruction that is looked for is within 0xa0 bytes."""

_TRAMPOLINE_SIZE = 0x500
"""Of InterpreterEntryTrampoline, the longest way to where it makes the frame and beyond."""

_BLOB_LIMIT = 64 << 20
_TABLE_LIMIT = 1 << 16
_SIZE_OF_INT = 4
_OPERAND_SCALES = 3

_TYPE_CLASSES = {
    "map": "Map",
    "js_function": "JSFunction",
    "shared_function_info": "SharedFunctionInfo",
    "script": "Script",
    "scope_info": "ScopeInfo",
    "code": "Code",
    "bytecode_array": "BytecodeArray",
    "fixed_array": "FixedArray",
    "byte_array": "ByteArray",
    "oddball": "Oddball",
}
"""Fields of `TypeLayout` -> V8's classes; without one of these nothing can be named."""

_LATER_TYPES = frozenset({"scope_info", "bytecode_array"})
"""Not there, or not told, in V8 before 6.8."""

_OPTIONAL_TYPE_CLASSES = {
    "instruction_stream": "InstructionStream",
    "trusted_byte_array": "TrustedByteArray",
    "interpreter_data": "InterpreterData",
    "baseline_data": "BaselineData",
    "debug_info": "DebugInfo",
    "shared_function_info_wrapper": "SharedFunctionInfoWrapper",
    "js_promise": "JSPromise",
    "js_async_function_object": "JSAsyncFunctionObject",
    "js_async_generator_object": "JSAsyncGeneratorObject",
    "promise_reaction": "PromiseReaction",
    "promise_capability": "PromiseCapability",
}

# x86-64 machine code; r13 is V8's root register.
_PUSH_ROOT = re.compile(rb"\x41\xff\xb5(....)", re.DOTALL)
"""push [r13+d]"""
_TEST_JS_ENTRY_SP = re.compile(rb"\x49\x8b\x85(....)\x48\x85\xc0", re.DOTALL)
"""mov rax, [r13+d]; test rax, rax"""
_PUSH_CONTEXT = re.compile(rb"\x4d\x8b\x95(....)\x4c\x89\x55\xf0", re.DOTALL)
"""mov r10, [r13+d]; mov [rbp-0x10], r10"""
SET_ROOT = re.compile(rb"\x49\x89\xfd|\x4c\x8b\xef")
"""mov r13, rdi"""
_STORE_FAST_CALLER = re.compile(
    rb"(?:\x4d\x89\x55(.)|\x4d\x89\x95(....))(?:\x49\x89\x6d(.)|\x49\x89\xad(....))", re.DOTALL
)
"""mov [r13+pc], r10; mov [r13+fp], rbp, each with an 8-bit or a 32-bit displacement"""
MAKE_INTERPRETER_FRAME = re.compile(
    # push rbp; mov rbp, rsp; push rsi (context); push rdi (function); perhaps push rax (argc)
    rb"\x55\x48\x89\xe5\x56\x57(\x50?).{0,12}?"
    # mov r9, offset of the first bytecode; push r12 or r14 (bytecode array)
    rb"(?:\x49\xc7\xc1|\x41\xb9)(....)\x41[\x54\x56]"
    # mov rcx, r9; shl rcx, 32; push rcx (the offset as a Smi)
    rb"\x49\x8b\xc9\x48\xc1\xe1\x20\x51",
    re.DOTALL,
)
_PUSH = re.compile(
    rb"\x6a.|\x48\x83\xec\x08|\x41[\x50-\x57]|[\x50-\x57]",  # push imm8; sub rsp, 8; push reg
    re.DOTALL,
)
_FRAME_SETUP = b"\x55\x48\x89\xe5"
"""push rbp; mov rbp, rsp"""


def load_layout(elf: ElfFile) -> Layout:
    """Return the layout of the V8 in a binary, from the cache of an earlier run if there is one.

    Raises:
        UnknownV8: Something without which no frame can be named is neither in the binary nor in
            the rules for its version.
    """
    kind = f"layout-{_SCHEMA}"
    data = cache.load(elf.identity, kind)
    if data is not None:
        try:
            return decode_layout(data)
        except MalformedData:
            pass
    layout = derive_layout(elf)
    cache.store(elf.identity, kind, encode_layout(layout))
    return layout


def derive_layout(elf: ElfFile) -> Layout:
    """Return the layout of the V8 in a binary.

    Raises:
        UnknownV8: As `load_layout`.
    """
    metadata = Constants(elf)
    symbols = metadata.symbols
    sizes = symbols.get(_BYTECODE_SIZES)
    key = symbols.get(_ISOLATE_KEY)
    tls = None if key is not None else _find_tls(elf, symbols)
    blob = _find_blob(metadata)
    if not metadata.builtins and legacy_metadata.has_address_table(metadata):
        isolate, frame = legacy_metadata.derive_isolate_and_frame(metadata)
    else:
        isolate, frame = _derive_isolate_and_frame(metadata, blob)
    if tls is None and key is None:
        metadata.missing.append(_ISOLATE_TLS)
    layout = Layout(
        v8_version=metadata.version,
        frame=frame,
        isolate=isolate,
        types=_derive_types(metadata),
        objects=_derive_objects(metadata),
        strings=_derive_strings(metadata),
        code=_derive_code(
            metadata, find_bytecode_sizes(elf) if sizes is None else _read_sizes(elf, sizes)
        ),
        isolate_tls_offset=tls,
        isolate_key_address=None if key is None else key.address,
        embedded_blob=blob,
        derived=tuple(metadata.derived),
    )
    if metadata.missing:
        raise UnknownV8(layout.version_text(), tuple(metadata.missing))
    return layout


def _find_tls(elf: ElfFile, symbols: dict[str, Symbol]) -> int | None:
    """Return where in V8's thread-local variables the current isolate is."""
    symbol = symbols.get(_ISOLATE_TLS)
    if symbol is not None:
        return symbol.address
    found = find_isolate_tls(elf)
    return None if found is None else tls_size(elf) + found


def _find_blob(metadata: Constants) -> tuple[int, int] | None:
    """Return the address range of the embedded builtins, as linked.

    The instructions are `..._code_data_` (V8 8.5 to 10), `..._code_` (later), or, with the
    metadata of the builtins in front of them, `..._data_` (earlier).
    Source: src/snapshot/embedded/embedded-file-writer.cc at 7.8.279, 9.4.146 and 11.3.244.
    """
    elf, symbols = metadata.elf, metadata.symbols
    prefix = "v8_Default_embedded_blob_"
    split = prefix + "code_size_" in symbols
    names = ("code_data_", "code_") if split else ("data_",)
    size = symbols.get(prefix + ("code_size_" if split else "size_"))
    start = next((symbols[prefix + name] for name in names if prefix + name in symbols), None)
    if start is not None and size is not None:
        count = int.from_bytes(elf.read(size.address, _SIZE_OF_INT), "little")
        return start.address, start.address + min(count, _BLOB_LIMIT)
    builtins = metadata.builtins.values()
    if not builtins:
        return None
    return min(s.address for s in builtins), max(s.address + max(s.size, 1) for s in builtins)


def _derive_isolate_and_frame(
    metadata: Constants, blob: tuple[int, int] | None
) -> tuple[IsolateLayout, FrameLayout]:
    """Read where exit frames are linked from the code of JSEntry and of fast C calls.

    JSEntry pushes the callee-saved registers, loads the root register, then pushes c_entry_fp
    (and in V8 13 and later, the caller of the fast C call in progress) for the time that JS runs.
    Source: src/builtins/x64/builtins-x64.cc at 7.8.279 and 13.6.233, Generate_JSEntryVariant;
    src/codegen/x64/macro-assembler-x64.cc at 13.6.233, CallCFunction.
    """
    bias = metadata.need("isolate.root_register_bias")
    entry = metadata.builtins.get("Builtins_JSEntry")
    code = b"" if entry is None else metadata.elf.read(entry.address, _JS_ENTRY_SIZE)
    root = SET_ROOT.search(code)
    test = _TEST_JS_ENTRY_SP.search(code)
    pushed = count_pushes(code[: root.start()]) if root else None
    if root is None or test is None or pushed is None:
        metadata.missing.append("the code of Builtins_JSEntry")
        saved, js_entry_sp, pushed = [], 0, 0
    else:
        saved = [_displacement(m[1]) + bias for m in _PUSH_ROOT.finditer(code, root.end())]
        saved = saved[: len(_PUSH_ROOT.findall(code, root.end(), test.start()))]
        js_entry_sp = _displacement(test[1]) + bias
    if not saved:
        metadata.missing.append("isolate.c_entry_fp")
        saved = [0]
    saves_fast_call = len(saved) >= 3
    fast_fp, fast_pc = saved[1:3] if saves_fast_call else (None, None)
    if fast_fp is None and blob is not None:
        fast_fp, fast_pc = _find_fast_caller(
            metadata.elf.read(FileAddress(blob[0]), blob[1] - blob[0]), bias
        )
    context = _PUSH_CONTEXT.search(code)
    entry_saved = -8 * (pushed + 1)
    delta = metadata.optional("isolate.vm_state_from_js_entry_sp", None)
    isolate = IsolateLayout(
        c_entry_fp=saved[0],
        js_entry_sp=js_entry_sp,
        vm_state=None if delta is None else js_entry_sp + delta,
        context=None if context is None else _displacement(context[1]) + bias,
        fast_c_call_caller_fp=fast_fp,
        fast_c_call_caller_pc=fast_pc,
        root_register_bias=bias,
    )
    constants = metadata.constants
    function = metadata.need("off_fp_function", constants.get("off_fp_function"))
    array = constants.get("off_fp_bytecode_array")
    if array is None:
        array = function + metadata.need("frame.bytecode_array_from_function")
    frame = FrameLayout(
        context=metadata.need("off_fp_context", constants.get("off_fp_context")),
        function=function,
        bytecode_array=array,
        bytecode_offset=constants.get("off_fp_bytecode_offset", array - 8),
        marker_scheme=MarkerScheme.TYPE_SHL_1,
        types={
            value: name.removeprefix("frametype_").removesuffix("Frame")
            for name, value in sorted(constants.items())
            if name.startswith("frametype_")
        },
        entry_saved_c_entry_fp=entry_saved,
        entry_saved_fast_c_call_fp=entry_saved - 8 if saves_fast_call else None,
        entry_saved_fast_c_call_pc=entry_saved - 16 if saves_fast_call else None,
    )
    if "Entry" not in frame.types.values():
        metadata.missing.append("frametype_EntryFrame")
    return isolate, frame


def count_pushes(code: bytes) -> int | None:
    """Return how many words code pushes after setting up its frame; None if it does more."""
    if not code.startswith(_FRAME_SETUP):
        return None
    count, position = 0, len(_FRAME_SETUP)
    while position < len(code):
        push = _PUSH.match(code, position)
        if push is None:
            return None
        count, position = count + 1, push.end()
    return count


def _displacement(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _find_fast_caller(code: bytes, bias: int) -> tuple[int | None, int | None]:
    """Return the isolate offsets (fp, pc) that fast C calls store their caller to.

    Every such call in the builtins has the same pair of stores: the most frequent one wins.
    """
    counts = Counter(match.groups() for match in _STORE_FAST_CALLER.finditer(code))
    if not counts:
        return None, None
    (short_pc, long_pc, short_fp, long_fp), _ = counts.most_common(1)[0]
    return _displacement(short_fp or long_fp) + bias, _displacement(short_pc or long_pc) + bias


def _derive_types(metadata: Constants) -> TypeLayout:
    types = metadata.types
    # Where functions have their positions, no names are looked for in what may have no type.
    is_optional = legacy_metadata.has_positions_in_functions(metadata)
    needed = {
        field: types.get(name, -1)
        if is_optional and field in _LATER_TYPES
        else metadata.need(f"type_{name}", types.get(name))
        for field, name in _TYPE_CLASSES.items()
    }
    others = {field: types.get(name, -1) for field, name in _OPTIONAL_TYPE_CLASSES.items()}
    first_nonstring = metadata.need(
        "FirstNonstringType", metadata.constants.get("FirstNonstringType")
    )
    uncompiled = (types[name] for name in types if name.startswith("UncompiledData"))
    return TypeLayout(
        **needed,
        **others,
        first_nonstring=first_nonstring,
        uncompiled_data=tuple(sorted(uncompiled)),
    )


def _derive_objects(metadata: Constants) -> ObjectLayout:
    if legacy_metadata.has_positions_in_functions(metadata):
        return legacy_metadata.derive_objects(metadata)
    known = metadata.fields.get
    need = metadata.need

    def field(name: str) -> int:
        return need(name, known(name))

    shared = field("JSFunction.shared")
    script_name = field("Script.name")
    line_ends = field("Script.line_ends")
    name_or_scope_info = field("SharedFunctionInfo.name_or_scope_info")
    function_data = need("objects.sfi_function_data", known("SharedFunctionInfo.function_data"))
    # Since V8 13 a trusted and an untrusted half stand before the name, where one word did.
    two_halves = name_or_scope_info == function_data + 16
    script = known("SharedFunctionInfo.script", known("SharedFunctionInfo.script_or_debug_info"))
    # compiled_lazy_function_positions, flags, source_url; without the first: eval_from_position,
    # shared_function_infos, flags, source_url. Source: src/objects/script.tq at 9.4.146, 11.3.244.
    lazy_positions = known("Script.compiled_lazy_function_positions")
    position = known("Script.eval_from_position")
    source_url = known("Script.source_url")
    if source_url is None and lazy_positions is not None:
        source_url = lazy_positions + 16
    elif source_url is None and position is not None:
        source_url = position + 24
    mapping_url = None if source_url is None else source_url + 8
    first_vars = need(
        "scopeinfo_idx_first_vars", metadata.constants.get("scopeinfo_idx_first_vars")
    )
    local_count = metadata.constants.get("scopeinfo_idx_ncontextlocals")
    return ObjectLayout(
        map_instance_type=field("Map.instance_type"),
        map_instance_type_size=2,
        js_function_shared=shared,
        js_function_context=known("JSFunction.context", shared + 8),
        js_function_code=metadata.optional(
            "objects.js_function_code", known("JSFunction.code", known("JSFunction.raw_code"))
        ),
        sfi_function_data=function_data,
        sfi_untrusted_function_data=function_data + 8 if two_halves else None,
        sfi_name_or_scope_info=name_or_scope_info,
        sfi_script=need("SharedFunctionInfo.script", script),
        script_source=known("Script.source", script_name - 8),
        script_name=script_name,
        script_line_offset=known("Script.line_offset", script_name + 8),
        script_column_offset=known("Script.column_offset", script_name + 16),
        script_line_ends=line_ends,
        script_id=known("Script.id", line_ends + 8),
        script_source_url=source_url,
        script_source_mapping_url=known("Script.source_mapping_url", mapping_url),
        scope_info_first_slot=need("objects.scope_info_first_slot"),
        scope_info_first_vars=first_vars,
        scope_info_context_local_count=need("scopeinfo_idx_ncontextlocals", local_count),
        # Flags, parameter count, local count, and then either the variables or the positions.
        # Source: src/objects/scope-info.tq at 12.4.254 and 13.6.233, position_info.
        scope_info_positions_in_front=first_vars == 5,
        scope_info_names_hashtable_from=metadata.optional(
            "objects.scope_info_names_hashtable_from", None
        ),
        fixed_array_length=field("FixedArrayBase.length"),
        fixed_array_data=field("FixedArray.data"),
        # Source: src/objects/shared-function-info.tq at 8.4.371 (which lacks the one symbol).
        uncompiled_inferred_name=known("UncompiledData.inferred_name", 8),
        uncompiled_start=known("UncompiledData.start_position", 16),
    )


def _derive_strings(metadata: Constants) -> StringLayout:
    known = metadata.fields.get

    def constant(name: str, other: str = "") -> int:
        return metadata.need(name, metadata.constants.get(name, metadata.constants.get(other)))

    def field(name: str, other: str = "") -> int:
        return metadata.need(name, known(name, known(other)))

    resource = field("ExternalString.resource")
    return StringLayout(
        representation_mask=constant("StringRepresentationMask"),
        encoding_mask=constant("StringEncodingMask"),
        # "Ascii" before V8 3.29.
        one_byte_tag=constant("OneByteStringTag", "AsciiStringTag"),
        seq=constant("SeqStringTag"),
        cons=constant("ConsStringTag"),
        external=constant("ExternalStringTag"),
        sliced=constant("SlicedStringTag"),
        thin=metadata.constants.get("ThinStringTag"),
        uncached_external_bit=metadata.need("strings.uncached_external_bit"),
        length=field("String.length"),
        length_is_smi="class_String__length__SMI" in metadata.constants,
        chars=field("SeqOneByteString.chars", "SeqAsciiString.chars"),
        cons_first=field("ConsString.first"),
        cons_second=field("ConsString.second"),
        sliced_parent=field("SlicedString.parent"),
        sliced_offset=field("SlicedString.offset"),
        thin_actual=known("ThinString.actual"),
        external_resource=resource,
        external_data=resource + 8,
    )


def _derive_code(metadata: Constants, sizes: bytes) -> CodeLayout:
    if metadata.rule("code.translation_opcodes") is not None:
        return legacy_metadata.derive_code(metadata, sizes)
    known = metadata.fields.get
    constant = metadata.constants.get
    need = metadata.need
    # A start that is typed `Address` is a field that holds one; `uintptr_t` is where they begin.
    start = constant("class_Code__instruction_start__Address")
    inline_start = constant("class_Code__instruction_start__uintptr_t")
    stream_header = known("InstructionStream.instruction_start")
    is_pointer = inline_start is None
    positions = None if start is None else start - 24
    wrapper = known("BytecodeArray.wrapper")
    shift = need("code.kind_shift", constant("CodeKindFieldShift"))
    mask = constant("CodeKindFieldMask")
    length = known("BytecodeArray.length", known("FixedArrayBase.length"))
    encoding = metadata.rule("code.position_encoding")
    if not isinstance(encoding, str):
        metadata.missing.append("code.position_encoding")
        encoding = PositionEncoding.UNSIGNED_FLAGS.name
    # One word of metadata more in front of it than at 7: a protected literal array (V8 13).
    inlining = need(
        "code.deopt_inlining_positions", constant("DeoptimizationDataInliningPositionsIndex")
    )
    return CodeLayout(
        deoptimization_data=need(
            "code.deoptimization_data", None if positions is None else positions - 8
        ),
        position_table=need("code.position_table", positions),
        flags=need("code.flags", known("Code.flags")),
        instruction_size=need("code.instruction_size", known("Code.instruction_size")),
        instruction_start=need("code.instruction_start", inline_start if start is None else start),
        instruction_start_is_pointer=is_pointer,
        instruction_stream_header=stream_header,
        kind_shift=shift,
        kind_mask=need("code.kind_mask", None if mask is None else mask >> shift),
        kinds=_derive_kinds(metadata),
        position_encoding=PositionEncoding[encoding],
        bytecode_length=length,
        # Length, wrapper, source position table. Source: src/objects/bytecode-array.tq at 12.4.254.
        bytecode_positions=metadata.optional(
            "code.bytecode_positions",
            known("BytecodeArray.source_position_table", None if wrapper is None else wrapper + 8),
        ),
        bytecode_data=_find_bytecode_data(metadata),
        bytecode_sizes=sizes,
        translation_operand_counts=_read_operand_counts(metadata),
        maglev_positions_empty=bool(metadata.optional("code.maglev_positions_empty", None)),
        deopt_inlined_function_count=need(
            "code.deopt_inlined_function_count",
            constant("DeoptimizationDataInlinedFunctionCountIndex"),
        ),
        deopt_literal_array=need(
            "code.deopt_literal_array", constant("DeoptimizationDataLiteralArrayIndex")
        ),
        deopt_shared_function_info=need(
            "code.deopt_shared_function_info",
            next(
                (
                    value
                    for name in (
                        "SharedFunctionInfo",
                        "SharedFunctionInfoWrapper",
                        "WrappedSharedFunctionInfo",
                    )
                    if (value := constant(f"DeoptimizationData{name}Index")) is not None
                ),
                None,
            ),
        ),
        deopt_inlining_positions=inlining,
        # InliningPositions, DeoptExitStart, two counts of exits, then the entries.
        # Source: src/objects/deoptimization-data.h at 11.3.244, 12.4.254 and 13.6.233.
        deopt_first_entry=inlining + 4,
    )


def _derive_kinds(metadata: Constants) -> dict[int, CodeKind]:
    """Return the code kinds that have frames of their own.

    Baseline is followed by two kinds of optimized code: Turboprop (V8 9) or Maglev, and TurboFan.
    Source: src/objects/code-kind.h at 9.4.146, 11.3.244 and 13.6.233, CODE_KIND_LIST.
    """
    regexp = metadata.optional("code.kind.regexp", None)
    kinds = {} if regexp is None else {regexp: CodeKind.REGEXP}
    baseline = metadata.optional("code.kind.baseline", metadata.constants.get("CodeKindBaseline"))
    if baseline is None:
        kinds[metadata.need("code.kind.turbofan")] = CodeKind.TURBOFAN
        return kinds
    last = metadata.optional("code.kind.turbofan", None) or baseline + 2
    between = CodeKind.MAGLEV if metadata.version >= (10,) else CodeKind.TURBOFAN
    kinds |= dict.fromkeys(range(baseline + 1, last), between)
    return kinds | {baseline: CodeKind.BASELINE, last: CodeKind.TURBOFAN}


def _find_bytecode_data(metadata: Constants) -> int | None:
    """Return where a BytecodeArray's bytecodes begin.

    The interpreter is entered with the offset of the first of them, from the tag on.
    Source: src/builtins/x64/builtins-x64.cc at 7.8.279 and 13.6.233,
    Generate_InterpreterEntryTrampoline: kHeaderSize - kHeapObjectTag.
    """
    symbol = metadata.builtins.get("Builtins_InterpreterEntryTrampoline")
    if symbol is not None:
        match = MAKE_INTERPRETER_FRAME.search(metadata.elf.read(symbol.address, _TRAMPOLINE_SIZE))
        if match:
            return _displacement(match[2]) + 1
    return metadata.optional("code.bytecode_data", metadata.fields.get("BytecodeArray.data"))


def _read_sizes(elf: ElfFile, symbol: Symbol) -> bytes:
    """Return kBytecodeSizes, one byte per bytecode and operand scale.

    Source: src/interpreter/bytecodes.h at 7.8.279 (int) and 9.4.146 (uint8_t).
    """
    data = elf.read(symbol.address, min(symbol.size, _TABLE_LIMIT))
    if len(data) % (_OPERAND_SCALES * _SIZE_OF_INT) == 0 and not any(data[1:4]):
        data = data[::_SIZE_OF_INT]
    return data if len(data) % _OPERAND_SCALES == 0 else b""


def _read_operand_counts(metadata: Constants) -> tuple[int, ...]:
    for name, symbol in metadata.symbols.items():
        if name.endswith("6counts"):
            count = min(symbol.size, _TABLE_LIMIT) // _SIZE_OF_INT
            data = metadata.elf.read(symbol.address, count * _SIZE_OF_INT)
            return struct.unpack(f"<{count}i", data)
    return ()


def encode_layout(layout: Layout) -> bytes:
    """Return a layout as JSON."""
    values = asdict(layout)
    values["frame"]["marker_scheme"] = layout.frame.marker_scheme.name
    values["code"]["position_encoding"] = layout.code.position_encoding.name
    values["code"]["kinds"] = {kind: value.name for kind, value in layout.code.kinds.items()}
    values["code"]["bytecode_sizes"] = layout.code.bytecode_sizes.hex()
    legacy = layout.code.legacy
    if legacy is not None and legacy.relocation_encoding is not None:
        values["code"]["legacy"]["relocation_encoding"] = legacy.relocation_encoding.name
    return json.dumps(values, separators=(",", ":")).encode()


def decode_layout(data: bytes) -> Layout:
    """Return the layout that `encode_layout` wrote.

    Raises:
        MalformedData: It was not written by this version of jsspy, or was damaged since.
    """
    try:
        values: dict[str, Any] = json.loads(data)
        frame, code = values["frame"], values["code"]
        frame["marker_scheme"] = MarkerScheme[frame["marker_scheme"]]
        frame["types"] = {int(number): str(name) for number, name in frame["types"].items()}
        code["position_encoding"] = PositionEncoding[code["position_encoding"]]
        code["kinds"] = {int(kind): CodeKind[name] for kind, name in code["kinds"].items()}
        code["bytecode_sizes"] = bytes.fromhex(code["bytecode_sizes"])
        code["translation_operand_counts"] = tuple(code["translation_operand_counts"])
        legacy = code["legacy"]
        if legacy is not None:
            code["legacy"] = legacy_metadata.decode_code(legacy)
        types = values["types"]
        types["uncompiled_data"] = tuple(types["uncompiled_data"])
        major, minor, build, patch = values["v8_version"]
        blob = values["embedded_blob"]
        if values.keys() != {field.name for field in fields(Layout)}:
            raise MalformedData("cached layout", "its fields are not those of this jsspy")
        return Layout(
            v8_version=(major, minor, build, patch),
            frame=FrameLayout(**frame),
            isolate=IsolateLayout(**values["isolate"]),
            types=TypeLayout(**types),
            objects=ObjectLayout(**values["objects"]),
            strings=StringLayout(**values["strings"]),
            code=CodeLayout(**code),
            isolate_tls_offset=values["isolate_tls_offset"],
            isolate_key_address=values["isolate_key_address"],
            embedded_blob=None if blob is None else (blob[0], blob[1]),
            derived=tuple(values["derived"]),
        )
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise MalformedData("cached layout", str(error)) from error
