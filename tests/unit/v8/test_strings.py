"""Strings of every shape, honest and not."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import CONS, EXTERNAL, ONE_BYTE, SLICED, THIN, UNCACHED, HeapBuilder, smi
from jsspy.errors import FaultError, MalformedData
from jsspy.v8.strings import MAX_PIECES, read_characters, read_string

TEXT = st.text(max_size=80)


def utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


@given(TEXT)
def test_sequential(text: str) -> None:
    builder = HeapBuilder()
    obj = builder.string(text)
    assert read_string(builder.heap(), obj) == text


@settings(max_examples=60)
@given(st.lists(TEXT, min_size=1, max_size=12), st.data())
def test_any_tree_of_references_reads_as_its_text(texts: list[str], data: st.DataObject) -> None:
    """Cons, thin and sliced strings over each other, of both widths."""
    builder = HeapBuilder()
    pool = [(builder.string(text), text.encode("utf-16-le")) for text in texts]
    for _ in range(data.draw(st.integers(0, 12))):
        first, first_data = data.draw(st.sampled_from(pool))
        shape = data.draw(st.sampled_from([CONS, THIN, SLICED]))
        if shape == CONS:
            second, second_data = data.draw(st.sampled_from(pool))
            both = first_data + second_data
            if len(both) > 5000:
                continue
            pool.append((builder.indirect(CONS, len(both) // 2, first, second), both))
        elif shape == THIN:
            pool.append((builder.indirect(THIN, len(first_data) // 2, first), first_data))
        else:
            start = data.draw(st.integers(0, len(first_data) // 2))
            end = data.draw(st.integers(start, len(first_data) // 2))
            part = first_data[2 * start : 2 * end]
            pool.append((builder.indirect(SLICED, end - start, first, smi(start)), part))
    heap = builder.heap()
    for obj, expected in pool:
        assert read_string(heap, obj) == expected.decode("utf-16-le", "replace")


def test_external() -> None:
    builder = HeapBuilder()
    text = builder.allocate(32) - 1
    builder.write_bytes(text, b"external")
    wide = builder.allocate(32) - 1
    builder.write_bytes(wide, "вне".encode("utf-16-le"))
    heap_string = builder.indirect(EXTERNAL | ONE_BYTE, 8, 0xDEAD000, text)
    wide_string = builder.indirect(EXTERNAL, 3, 0xDEAD000, wide)
    heap = builder.heap()
    assert read_string(heap, heap_string) == "external"
    assert read_string(heap, wide_string) == "вне"


@pytest.mark.parametrize("isolate_first", [False, True])
def test_uncached_external_asks_its_resource(isolate_first: bool) -> None:
    builder = HeapBuilder()
    text = builder.allocate(32) - 1
    builder.write_bytes(text, b"external")
    resource = builder.allocate(32) - 1
    at = resource + (16 if isolate_first else 8)
    builder.write(at, text)
    builder.write(at + 8, 8)
    obj = builder.indirect(EXTERNAL | ONE_BYTE | UNCACHED, 8, resource)
    stranger = builder.indirect(EXTERNAL | ONE_BYTE | UNCACHED, 9, resource)
    heap = builder.heap()
    assert read_string(heap, obj) == "external"
    with pytest.raises(MalformedData, match="unknown kind"):
        read_string(heap, stranger)


def test_lone_surrogates_are_replaced() -> None:
    builder = HeapBuilder()
    obj = builder.string("a\ud800b")
    assert read_string(builder.heap(), obj) == "a\ufffdb"


def test_characters_keep_their_positions() -> None:
    builder = HeapBuilder()
    wide = builder.string("\U0001f600é")
    narrow = builder.string("é")
    both = builder.indirect(CONS, 4, wide, narrow)
    heap = builder.heap()
    assert read_characters(heap, narrow) == (b"\xe9", True)
    assert read_characters(heap, both) == ("\U0001f600éé".encode("utf-16-le"), False)


def test_string_at_the_end_of_memory() -> None:
    builder = HeapBuilder(base=0x100000)
    builder.map_of(ONE_BYTE)
    builder.top = 0x101000 - 24
    obj = builder.string("12345678")
    assert builder.top == 0x101000
    assert read_string(builder.heap(), obj) == "12345678"


def test_cycles_and_lies_end() -> None:
    builder = HeapBuilder()
    thin = builder.indirect(THIN, 4, 0)
    builder.set(thin, 16, thin)
    cons = builder.indirect(CONS, 4, 0, 0)
    builder.set(cons, 16, cons)
    builder.set(cons, 24, cons)
    short = builder.string("ab")
    lying_cons = builder.indirect(CONS, 9, short, short)
    lying_slice = builder.indirect(SLICED, 9, short, smi(0))
    negative_slice = builder.indirect(SLICED, 1, short, smi(-1))
    pointer_slice = builder.indirect(SLICED, 1, short, short)
    huge = builder.indirect(ONE_BYTE, 0x7FFFFFFF, 0)
    gone = builder.indirect(ONE_BYTE, 0xFFFF, 0)
    number = builder.indirect(THIN, 4, smi(3))
    heap = builder.heap()
    for bad in (thin, cons, lying_cons, lying_slice, negative_slice, pointer_slice, huge, number):
        with pytest.raises(MalformedData):
            read_string(heap, bad)
    with pytest.raises(FaultError):
        read_string(heap, gone)
    with pytest.raises(MalformedData):
        read_string(heap, builder.undefined)
    with pytest.raises(MalformedData):
        read_string(heap, short, limit=1)


def test_deep_cons_needs_no_recursion() -> None:
    builder = HeapBuilder()
    letter = builder.string("x")
    text = letter
    for count in range(2, 3001):
        text = builder.indirect(CONS | ONE_BYTE, count, text, letter)
    heap = builder.heap()
    assert read_string(heap, text) == "x" * 3000
    assert MAX_PIECES > 3000


@settings(max_examples=200)
@given(st.binary(min_size=32, max_size=64), st.integers(0, 200))
def test_random_bytes_end_in_a_value_or_an_error(data: bytes, instance_type: int) -> None:
    builder = HeapBuilder()
    obj = builder.object(instance_type, 64)
    builder.write_bytes(obj - 1 + 8, data[8:])
    with contextlib.suppress(FaultError, MalformedData):
        assert isinstance(read_string(builder.heap(), obj, limit=1 << 12), str)
