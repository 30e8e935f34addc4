"""FrameDecoder on hand-made stacks."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import LAYOUT
from jsspy.model.stack import FrameKind
from jsspy.v8.frames import FrameDecoder, FrameWords, frame_type
from jsspy.v8.layout import MarkerScheme

CONTEXT, FUNCTION, ARRAY = 0x1111, 0x2221, 0x3331
OFFSET = 99 << 32


def stack(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}Q", *words)


FRAME = stack(OFFSET, ARRAY, 3, FUNCTION, CONTEXT, 0xF0, 0xAD, 0, 0x4441)
"""From fp - 40 to fp + 31 of a V8 since 8.7."""


def test_words_come_from_their_slots() -> None:
    decoder = FrameDecoder(LAYOUT.frame)
    words = decoder.decode(FRAME, 40)
    assert words == FrameWords(CONTEXT, FUNCTION, ARRAY, OFFSET, 0x4441)
    assert decoder.find_type(words) is None


def test_older_frames_have_no_argument_count() -> None:
    frame = replace(LAYOUT.frame, bytecode_array=-24, bytecode_offset=-32)
    words = FrameDecoder(frame).decode(stack(OFFSET, ARRAY, FUNCTION, CONTEXT, 1, 2, 3, 4), 32)
    assert words == FrameWords(CONTEXT, FUNCTION, ARRAY, OFFSET, 4)


def test_slots_that_are_not_pushed_are_zero() -> None:
    # rsp is at the context slot: everything below is not part of the stack any more.
    words = FrameDecoder(LAYOUT.frame).decode(FRAME[32:], 8)
    assert words == FrameWords(CONTEXT, 0, 0, 0, 0x4441)


def test_a_copy_may_end_above_the_frame() -> None:
    words = FrameDecoder(LAYOUT.frame).decode(FRAME[:56], 40)
    assert words == FrameWords(CONTEXT, FUNCTION, ARRAY, OFFSET, 0)


@pytest.mark.parametrize(
    ("scheme", "word", "slot"),
    [
        (MarkerScheme.TYPE_SHL_1, 2, "marker"),
        (MarkerScheme.SMI_AT_CONTEXT, 1 << 32, "marker"),
        (MarkerScheme.SMI_AT_FUNCTION, 1 << 32, "function"),
    ],
)
def test_markers_of_every_scheme(scheme: MarkerScheme, word: int, slot: str) -> None:
    decoder = FrameDecoder(replace(LAYOUT.frame, marker_scheme=scheme))
    empty = FrameWords(CONTEXT, FUNCTION, 0, 0, 0)
    found = decoder.find_type(empty._replace(**{slot: word}))
    assert found is not None
    assert found.is_entry
    assert decoder.find_type(empty) is None
    assert decoder.find_type(empty._replace(**{slot: word * 40})) is None


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Entry", "[entry frame]"),
        ("ConstructEntry", "[constructor entry]"),
        ("Construct", "[constructor frame]"),
        ("ArgumentsAdaptor", "[arguments adaptor]"),
        ("Exit", "[exit frame]"),
        ("BuiltinExit", "[builtin exit frame]"),
        ("Internal", "[internal frame]"),
        ("JsToWasm", "[js to wasm frame]"),
    ],
)
def test_labels(name: str, label: str) -> None:
    found = frame_type(name)
    assert (found.label, found.kind) == (label, FrameKind.VM_FRAME)


def test_webassembly_is_code_and_not_glue() -> None:
    assert frame_type("Wasm").kind is FrameKind.WASM
    assert frame_type("WasmCompiled").kind is FrameKind.WASM
    assert frame_type("JsToWasm").kind is FrameKind.VM_FRAME
    assert frame_type("Irregexp").kind is FrameKind.REGEXP


def test_only_exits_stand_above_native_code() -> None:
    assert [frame_type(name).is_exit for name in ("Exit", "ApiCallbackExit", "Stub")] == [
        True,
        True,
        False,
    ]
    assert frame_type("ApiNamedAccessorExit").is_callback
    assert not frame_type("Exit").is_callback
    assert frame_type("BuiltinExit").has_target
    assert not frame_type("Exit").has_target


@given(st.binary(max_size=200), st.integers(-100, 300))
def test_any_bytes_decode(data: bytes, at: int) -> None:
    words = FrameDecoder(LAYOUT.frame).decode(data, at)
    assert all(0 <= word < 1 << 64 for word in words)
