"""Maps, instance types and arrays, in heaps that are made up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import LAYOUT, OLD_LAYOUT, HeapBuilder, smi
from jsspy.errors import FaultError, MalformedData
from jsspy.v8.heap import MAX_MAPS, is_heap_object, is_smi, smi_value
from jsspy.v8.layout import Layout


@given(st.integers(-(1 << 31), (1 << 31) - 1))
def test_smi_is_the_signed_upper_half(value: int) -> None:
    word = smi(value)
    assert is_smi(word)
    assert not is_heap_object(word)
    assert smi_value(word) == value


def test_tags() -> None:
    assert is_heap_object(0x1001)
    assert not is_heap_object(0x1003)
    assert not is_smi(0x1001)


def test_instance_type_needs_the_meta_map() -> None:
    builder = HeapBuilder()
    good = builder.object(167, 64)
    forwarded = builder.object(167, 64)
    builder.set(forwarded, 0, good - 1)
    no_meta = builder.object(167, 64)
    builder.set(no_meta, 0, good)
    # A map whose map is an ordinary object that is its own map, but is no map by its type.
    liar = builder.object(5, 64)
    builder.set(liar, 0, liar)
    lied_to = builder.object(5, 64)
    builder.set(lied_to, 0, liar)
    heap = builder.heap()
    assert heap.instance_type(good) == 167
    assert heap.instance_type(builder.meta_map) == LAYOUT.types.map
    assert heap.instance_type(forwarded) is None
    assert heap.instance_type(no_meta) is None
    assert heap.instance_type(lied_to) is None
    assert heap.instance_type(good - 1) is None
    assert heap.instance_type(0xDEAD0001) is None


def test_types_are_remembered_by_map_within_a_cap() -> None:
    builder = HeapBuilder()
    objects = [builder.object(1000 + index, 16) for index in range(MAX_MAPS + 5)]
    heap = builder.heap()
    for _ in range(2):
        types = [heap.instance_type(obj) for obj in objects]
        assert types == list(range(1000, 1000 + MAX_MAPS + 5))
    assert len(heap._types) <= MAX_MAPS


@pytest.mark.parametrize("layout", [LAYOUT, OLD_LAYOUT])
def test_function_is_told_by_what_it_shares(layout: Layout) -> None:
    builder = HeapBuilder(layout)
    shared = builder.shared(builder.string("f"), builder.undefined, smi(1))
    function = builder.function(shared)
    other = builder.function(builder.undefined)
    heap = builder.heap()
    assert heap.is_js_function(function)
    assert not heap.is_js_function(other)
    assert not heap.is_js_function(shared)
    assert not heap.is_js_function(smi(5))
    assert not heap.is_js_function(0xDEAD0001)


def test_arrays() -> None:
    builder = HeapBuilder()
    array = builder.array(smi(1), builder.undefined)
    data = builder.object(217, 24)
    builder.set(data, 8, smi(5))
    builder.write_bytes(data - 1 + 16, b"hello")
    huge = builder.array()
    builder.set(huge, 8, smi(1 << 30))
    negative = builder.array()
    builder.set(negative, 8, smi(-1))
    not_smi = builder.array()
    builder.set(not_smi, 8, builder.undefined)
    heap = builder.heap()
    assert heap.read_fixed_array(array) == (smi(1), builder.undefined)
    assert heap.read_byte_array(data) == b"hello"
    for bad in (huge, negative, not_smi):
        with pytest.raises(MalformedData):
            heap.read_fixed_array(bad)
    with pytest.raises(MalformedData):
        heap.read_byte_array(data, cap=4)
    with pytest.raises(FaultError):
        heap.read_field(0xDEAD0001, 8)
