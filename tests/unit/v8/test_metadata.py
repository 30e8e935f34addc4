"""Layouts from the symbols and the code of a binary that is made up."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

import elf_builder
from builders import LAYOUT
from elf_builder import OBJECT, TEXT_ADDRESS, TLS, Sym
from jsspy.errors import MalformedData, UnknownV8
from jsspy.target import cache
from jsspy.target.elf import ElfFile
from jsspy.v8.layout import CodeKind, Layout, PositionEncoding
from jsspy.v8.metadata import _SCHEMA, decode_layout, derive_layout, encode_layout, load_layout

VERSION = "_ZN2v88internal7Version6{}_E"
CURRENT_ISOLATE = "_ZN2v88internal18g_current_isolate_E"
ISOLATE_KEY = "_ZN2v88internal7Isolate12isolate_key_E"
SIZES = "_ZN2v88internal11interpreter9Bytecodes14kBytecodeSizesE"
COUNTS = "_ZZN2v88internal29TranslationOpcodeOperandCountENS0_17TranslationOpcodeEE6counts"

COMMON = {
    "off_fp_context": -8,
    "off_fp_function": -16,
    "frametype_EntryFrame": 1,
    "frametype_ConstructEntryFrame": 2,
    "frametype_ExitFrame": 3,
    "FirstNonstringType": 128,
    "StringRepresentationMask": 7,
    "StringEncodingMask": 8,
    "OneByteStringTag": 8,
    "SeqStringTag": 0,
    "ConsStringTag": 1,
    "ExternalStringTag": 2,
    "SlicedStringTag": 3,
    "ThinStringTag": 5,
    "scopeinfo_idx_ncontextlocals": 2,
    "class_Map__instance_type__uint16_t": 12,
    "class_Script__name__Object": 16,
    "class_Script__line_ends__Object": 56,
    "class_String__length__int32_t": 12,
    "class_SeqOneByteString__chars__char": 16,
    "class_ConsString__first__String": 16,
    "class_ConsString__second__String": 24,
    "class_SlicedString__parent__String": 16,
    "class_SlicedString__offset__SMI": 24,
    "class_ThinString__actual__String": 16,
    "class_ExternalString__resource__Object": 16,
    "class_FixedArrayBase__length__SMI": 8,
    "class_FixedArray__data__uintptr_t": 16,
    "type_Map__MAP_TYPE": 272,
    "type_JSFunction__JS_FUNCTION_TYPE": 2065,
    "type_SharedFunctionInfo__SHARED_FUNCTION_INFO_TYPE": 282,
    "type_Script__SCRIPT_TYPE": 167,
    "type_ScopeInfo__SCOPE_INFO_TYPE": 280,
    "type_Code__CODE_TYPE": 187,
    "type_BytecodeArray__BYTECODE_ARRAY_TYPE": 186,
    "type_FixedArray__FIXED_ARRAY_TYPE": 205,
    "type_ByteArray__BYTE_ARRAY_TYPE": 217,
    "type_Oddball__ODDBALL_TYPE": 131,
}
NEW = COMMON | {
    "off_fp_bytecode_array": -32,
    "off_fp_bytecode_offset": -40,
    "scopeinfo_idx_first_vars": 5,
    "class_JSFunction__shared__SharedFunctionInfo": 32,
    "class_JSFunction__context__Tagged_Context_": 40,
    "class_SharedFunctionInfo__name_or_scope_info__Tagged_NameOrScopeInfoT_": 24,
    "class_SharedFunctionInfo__script__Tagged_HeapObject_": 40,
    "class_Script__compiled_lazy_function_positions__Tagged_Object_": 96,
    "class_Script__eval_from_position__SMI": 80,
    "class_Code__instruction_start__Address": 40,
    "class_Code__instruction_size__int": 56,
    "class_Code__flags__uint32_t": 52,
    "class_InstructionStream__instruction_start__uintptr_t": 32,
    "class_BytecodeArray__wrapper__Tagged_BytecodeWrapper_": 16,
    "class_BytecodeArray__data__uintptr_t": 64,
    "CodeKindBaseline": 10,
    "CodeKindFieldShift": 0,
    "CodeKindFieldMask": 15,
    "DeoptimizationDataInlinedFunctionCountIndex": 1,
    "DeoptimizationDataLiteralArrayIndex": 3,
    "DeoptimizationDataWrappedSharedFunctionInfoIndex": 7,
    "DeoptimizationDataInliningPositionsIndex": 8,
}
OLD = COMMON | {
    "scopeinfo_idx_first_vars": 3,
    "class_JSFunction__shared__SharedFunctionInfo": 24,
    "class_SharedFunctionInfo__function_data__Object": 8,
    "class_SharedFunctionInfo__name_or_scope_info__Object": 16,
    "class_SharedFunctionInfo__script_or_debug_info__HeapObject": 32,
    "class_Script__eval_from_position__SMI": 80,
    "class_Code__instruction_size__int": 40,
    "class_Code__instruction_start__uintptr_t": 96,
    "class_BytecodeArray__source_position_table__Object": 32,
}

FRAME = bytes.fromhex("55 48 89e5 6a02 4883ec08 4154 4155 4156 4157 53 4989fd")
"""push rbp; mov rbp, rsp; push 2; sub rsp, 8; push r12..r15, rbx; mov r13, rdi"""


def push(offset: int) -> bytes:
    """Push [r13 + offset - 128]."""
    return b"\x41\xff\xb5" + struct.pack("<i", offset - 128)


def entry_code(saved: tuple[int, ...], context: int, js_entry_sp: int) -> bytes:
    """Return a JSEntry."""
    code = FRAME + b"".join(map(push, saved))
    code += b"\x4d\x8b\x95" + struct.pack("<i", context - 128) + b"\x4c\x89\x55\xf0"
    code += b"\x49\x8b\x85" + struct.pack("<i", js_entry_sp - 128) + b"\x48\x85\xc0"
    return code + push(0x800)


def store_fast_caller(fp: int, pc: int) -> bytes:
    """Mov [r13 + pc - 128], r10; mov [r13 + fp - 128], rbp."""
    long_pc = b"\x4d\x89\x95" + struct.pack("<i", pc - 128)
    return long_pc + b"\x49\x89\x6d" + struct.pack("<b", fp - 128)


class Binary:
    """Collects constants and code, then writes them as an ELF file."""

    def __init__(self, version: tuple[int, int, int, int], constants: dict[str, int]) -> None:
        self.text = bytearray()
        self.symbols: list[Sym] = []
        names = ("major", "minor", "build", "patch")
        for part, number in zip(names, version, strict=True):
            self.add(VERSION.format(part), struct.pack("<i", number))
        for name, value in constants.items():
            self.add(f"v8dbg_{name}", struct.pack("<i", value))

    def add(self, name: str, data: bytes, symbol_type: int = OBJECT) -> int:
        """Add a symbol with data; returns its address."""
        address = TEXT_ADDRESS + len(self.text)
        self.symbols.append(Sym(name, address, len(data), symbol_type))
        self.text += data.ljust((len(data) + 7) // 8 * 8, b"\0")
        return address

    def load(self, directory: Path) -> ElfFile:
        """Write the file and open it."""
        path = directory / "node"
        path.write_bytes(
            elf_builder.build(self.symbols, text=bytes(self.text), build_id=b"\1" * 20)
        )
        return ElfFile.load(path)


def new_binary(constants: dict[str, int] | None = None) -> Binary:
    binary = Binary((13, 6, 233, 17), NEW if constants is None else constants)
    binary.add("Builtins_JSEntry", entry_code((0x140, 0x128, 0x120), 0x150, 0x1D8), 2)
    binary.add(SIZES, bytes([1, 1, 1, 1, 1, 2, 3] * 3))
    binary.add(COUNTS, struct.pack("<3i", 6, 4, 3))
    binary.symbols.append(Sym(CURRENT_ISOLATE, 264, 8, TLS))
    return binary


def old_binary(version: tuple[int, int, int, int] = (8, 4, 371, 23)) -> Binary:
    binary = Binary(version, OLD)
    start = binary.add("Builtins_JSEntry", entry_code((0x32F0,), 0x3290, 0x3318), 2)
    code = store_fast_caller(0x38, 0x40) * 3 + store_fast_caller(0x60, 0x68) + b"\x90" * 8
    binary.add("Builtins_Calls", code, 2)
    end = TEXT_ADDRESS + len(binary.text)
    binary.symbols.append(Sym("v8_Default_embedded_blob_data_", start, 0))
    binary.add("v8_Default_embedded_blob_size_", struct.pack("<I", end - start))
    binary.add(SIZES, struct.pack("<21i", *[1, 1, 1, 1, 1, 2, 3] * 3))
    binary.add(ISOLATE_KEY, bytes(4))
    return binary


def test_new_binary(tmp_path: Path) -> None:
    layout = derive_layout(new_binary().load(tmp_path))
    assert layout.v8_version == (13, 6, 233, 17)
    assert layout.isolate == LAYOUT.isolate
    assert layout.objects == LAYOUT.objects
    assert layout.strings == LAYOUT.strings
    assert layout.frame == replace(LAYOUT.frame, types={1: "Entry", 2: "ConstructEntry", 3: "Exit"})
    assert layout.code == replace(LAYOUT.code, translation_operand_counts=(6, 4, 3))
    assert (layout.isolate_tls_offset, layout.isolate_key_address) == (264, None)
    assert layout.types.trusted_byte_array == -1
    assert "objects.sfi_function_data" in layout.derived
    assert "objects.sfi_script" not in layout.derived
    start, end = layout.embedded_blob or (0, 0)
    assert 0 < end - start < 0x200


def test_old_binary(tmp_path: Path) -> None:
    binary = old_binary()
    layout = derive_layout(binary.load(tmp_path))
    isolate, frame = layout.isolate, layout.frame
    assert (isolate.c_entry_fp, isolate.js_entry_sp, isolate.vm_state) == (0x32F0, 0x3318, 0x3328)
    assert (isolate.fast_c_call_caller_fp, isolate.fast_c_call_caller_pc) == (0x38, 0x40)
    assert (frame.bytecode_array, frame.bytecode_offset) == (-24, -32)
    assert frame.entry_saved_c_entry_fp == -64
    assert frame.entry_saved_fast_c_call_fp is None
    assert layout.objects.sfi_untrusted_function_data is None
    assert (layout.objects.script_id, layout.objects.script_source_url) == (64, 104)
    assert (layout.objects.scope_info_first_slot, layout.objects.script_source) == (16, 8)
    assert layout.code.kinds == {0: CodeKind.TURBOFAN, 4: CodeKind.REGEXP}
    assert (0x2A >> layout.code.kind_shift) & layout.code.kind_mask == 0x15
    assert layout.code.bytecode_sizes == LAYOUT.code.bytecode_sizes
    assert layout.code.position_encoding is PositionEncoding.ZIGZAG_FROM_MINUS_1
    assert not layout.code.instruction_start_is_pointer
    assert layout.isolate_key_address == next(
        symbol.value for symbol in binary.symbols if symbol.name == ISOLATE_KEY
    )


@pytest.mark.parametrize(
    ("removed", "named"),
    [
        ("class_JSFunction__shared__SharedFunctionInfo", "JSFunction.shared"),
        ("class_SharedFunctionInfo__script__Tagged_HeapObject_", "SharedFunctionInfo.script"),
        ("type_ScopeInfo__SCOPE_INFO_TYPE", "type_ScopeInfo"),
        ("off_fp_function", "off_fp_function"),
        ("frametype_EntryFrame", "frametype_EntryFrame"),
        ("class_Code__flags__uint32_t", "code.flags"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, removed: str, named: str) -> None:
    constants = {name: value for name, value in NEW.items() if name != removed}
    with pytest.raises(UnknownV8) as caught:
        derive_layout(new_binary(constants).load(tmp_path))
    assert caught.value.version == "13.6.233.17"
    assert caught.value.missing == (named,)


def test_types_in_symbol_names_may_change(tmp_path: Path) -> None:
    constants = dict(NEW)
    value = constants.pop("class_SharedFunctionInfo__script__Tagged_HeapObject_")
    constants["class_SharedFunctionInfo__script__Tagged_UnionOf_Script_DebugInfo_"] = value
    assert derive_layout(new_binary(constants).load(tmp_path)).objects == LAYOUT.objects


def test_version_without_rules_is_unknown(tmp_path: Path) -> None:
    # V8 8.8, which no release of Node has: code kinds had moved, and had no symbols yet.
    with pytest.raises(UnknownV8) as caught:
        derive_layout(old_binary((8, 8, 278, 17)).load(tmp_path))
    assert "code.kind_shift" in caught.value.missing


@pytest.mark.parametrize("code", [b"", b"\xcc" * 64, FRAME, b"\x55\x48\x89\xe5\xe8" + FRAME[4:]])
def test_entry_code_that_is_not_known(tmp_path: Path, code: bytes) -> None:
    binary = new_binary()
    symbols = [symbol for symbol in binary.symbols if symbol.name != "Builtins_JSEntry"]
    binary.symbols = symbols
    binary.add("Builtins_JSEntry", code, 2)
    with pytest.raises(UnknownV8) as caught:
        derive_layout(binary.load(tmp_path))
    assert "isolate.c_entry_fp" in caught.value.missing


def test_no_version_no_layout(tmp_path: Path) -> None:
    path = tmp_path / "node"
    path.write_bytes(elf_builder.build([Sym("main", TEXT_ADDRESS, 8)]))
    with pytest.raises(UnknownV8):
        derive_layout(ElfFile.load(path))


def test_layout_survives_the_cache(tmp_path: Path) -> None:
    elf = new_binary().load(tmp_path)
    layout = load_layout(elf)
    assert load_layout(elf) == layout == decode_layout(encode_layout(layout))
    assert decode_layout(encode_layout(LAYOUT)) == LAYOUT


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b'{"frame": {"marker_scheme": 1}}', b"\xff"])
def test_damaged_cache_is_not_believed(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(MalformedData):
        decode_layout(data)
    elf = new_binary().load(tmp_path)
    layout: Layout = load_layout(elf)
    cache.store(elf.identity, f"layout-{_SCHEMA}", data)
    assert load_layout(elf) == layout
