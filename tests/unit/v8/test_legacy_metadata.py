"""What is derived for V8 before 7.1."""

from __future__ import annotations

import pytest

from jsspy.v8.layouts import find_value, load_rules, parse_version
from jsspy.v8.legacy_metadata import _decode_stores

NODE = {
    "0.10.48": "3.14.5.11",
    "0.12.18": "3.28.71.20",
    "4.9.1": "4.5.103.53",
    "5.12.0": "4.6.85.32",
    "6.17.1": "5.1.281.111",
    "7.10.1": "5.5.372.43",
    "8.17.0": "6.2.414.78",
    "10.24.1": "6.8.275.32",
    "11.15.0": "7.0.276.38",
}

NEEDED = (
    *("isolate.js_entry_sp_index", "isolate.context_index", "isolate.vm_state_from_js_entry_sp"),
    *("frame.entry_saved_c_entry_fp", "objects.js_function_code", "code.flags"),
    *("code.kind_shift", "code.kind_mask", "code.kind.optimized", "code.safepoint_table_offset"),
    *("code.safepoint_table_shift", "code.safepoint_table_bits", "code.safepoint_entry_size"),
    *("code.deopt_translations", "code.deopt_literal_array", "code.deopt_first_entry"),
    *("code.deopt_entry_size", "code.translation_opcodes"),
)


@pytest.mark.parametrize("node", NODE)
def test_rules_cover_every_release(node: str) -> None:
    rules, version = load_rules(), parse_version(NODE[node])
    missing = [name for name in NEEDED if find_value(rules, name, version) is None]
    assert missing == []


def displacement(value: int) -> bytes:
    return value.to_bytes(4, "little", signed=True)


@pytest.mark.parametrize(
    ("lea", "store"),
    [
        ("488d83", "488983"),  # rax, rbx
        ("498d85", "498985"),  # rax, r13
        ("498d8424", "49898424"),  # rax, r12, which needs a SIB byte
        ("4c8da3", "4c89a3"),  # r12, rbx
    ],
)
def test_addresses_are_found_by_their_stores(lea: str, store: str) -> None:
    load, put = bytes.fromhex(lea), bytes.fromhex(store)
    code = b"\x90\x55" + load + displacement(0x5980) + b"\xbf\x90\0\0\0"
    code += put + displacement(0x57E0) + load + displacement(0x5978) + put + displacement(0x57E8)
    assert _decode_stores(code, 0x57E0) == {0: 0x5980, 1: 0x5978}


def test_a_store_of_something_else_is_no_address() -> None:
    # mov [rbx+table], r12 after lea rax, [rbx+d]; and a load from the table.
    code = bytes.fromhex("488d83") + displacement(8) + bytes.fromhex("4c89a3") + displacement(64)
    code += bytes.fromhex("488b83") + displacement(64)
    assert _decode_stores(code, 64) == {}
    assert _decode_stores(b"", 64) == {}
    assert _decode_stores(displacement(64), 64) == {}
