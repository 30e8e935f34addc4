"""Functions and scripts in heaps that are made up: every shape, races, and lines."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import CONS, LAYOUT, OLD_LAYOUT, HeapBuilder, smi
from jsspy.v8.function import FunctionReader, find_line_ends
from jsspy.v8.heap import Heap
from jsspy.v8.layout import Layout

LAYOUTS = pytest.mark.parametrize("layout", [LAYOUT, OLD_LAYOUT], ids=["new", "old"])
SOURCE = "let a;\nfunction f(b) {\r\n  return b;\r}\u2028// é\n"


def reader_of(builder: HeapBuilder) -> FunctionReader:
    """Return a reader that sees what the builder writes later, too."""
    return FunctionReader(Heap(builder, builder.layout))


def make_script(builder: HeapBuilder, number: int = 7) -> int:
    return builder.script(builder.string(SOURCE), builder.string("/app/f.js"), number)


@pytest.mark.parametrize(
    ("layout", "between"),
    [(LAYOUT, ()), (OLD_LAYOUT, ()), (OLD_LAYOUT, (smi(12),))],
    ids=["new", "old", "old with a slot between"],
)
@pytest.mark.parametrize("count", [0, 3, 40, 74, 75, 90])
def test_function(layout: Layout, count: int, between: tuple[int, ...]) -> None:
    builder = HeapBuilder(layout)
    array = builder.object(layout.types.bytecode_array, 64)
    script = make_script(builder)
    scope = builder.scope_info(
        builder.string("имя"), builder.string("o.f"), (17, 37), count, between
    )
    shared = builder.shared(scope, script, array)
    info = reader_of(builder).read_shared(shared)
    assert info is not None
    assert (info.name, info.start, info.end, info.bytecode_array) == ("имя", 17, 37, array)
    assert info.script is not None
    assert (info.script.url, info.script.id, info.script.source()) == ("/app/f.js", 7, SOURCE)
    assert info.script.line_column(info.start) == (2, 11)
    assert not info.builtin


@LAYOUTS
def test_inferred_name_only_without_a_name(layout: Layout) -> None:
    builder = HeapBuilder(layout)
    script = make_script(builder)
    inferred = builder.string("o.f")
    scopes = {
        "o.f": builder.scope_info(0, inferred, (1, 2)),
        "f": builder.scope_info(builder.string("f"), inferred, (1, 2)),
        "": builder.scope_info(0, builder.undefined, (1, 2)),
    }
    reader = reader_of(builder)
    for expected, scope in scopes.items():
        info = reader.read_shared(builder.shared(scope, script, smi(0)))
        assert info is not None
        assert (info.name, info.start, info.end) == (expected, 1, 2)


@LAYOUTS
def test_builtin_and_uncompiled(layout: Layout) -> None:
    builder = HeapBuilder(layout)
    reader = reader_of(builder)
    info = reader.read_shared(builder.shared(builder.string("map"), builder.undefined, smi(700)))
    assert info is not None
    assert (info.name, info.script, info.builtin, info.start) == ("map", None, True, -1)
    data = builder.object(layout.types.uncompiled_data[0], 24, {8: builder.string("x.lazy")})
    builder.write_bytes(data - 1 + 16, (17).to_bytes(4, "little") + (37).to_bytes(4, "little"))
    for name, expected in ((0, "x.lazy"), (builder.string("lazy"), "lazy")):
        info = reader.read_shared(builder.shared(name, make_script(builder), data))
        assert info is not None
        assert (info.name, info.start, info.end, info.builtin) == (expected, 17, 37, False)
        assert info.bytecode_array is None


def test_script_scope_of_the_old_layout_has_positions_only() -> None:
    builder = HeapBuilder(OLD_LAYOUT)
    first = OLD_LAYOUT.objects.scope_info_first_slot
    slots = [smi(1), smi(0), smi(0), smi(0), smi(50), builder.undefined]
    fields = {first + 8 * index: word for index, word in enumerate(slots)}
    scope = builder.object(OLD_LAYOUT.types.scope_info, 72, fields)
    info = reader_of(builder).read_shared(builder.shared(scope, make_script(builder), smi(0)))
    assert info is not None
    assert (info.name, info.start, info.end) == ("", 0, 50)


@LAYOUTS
def test_bytecode_is_found_behind_other_objects(layout: Layout) -> None:
    builder = HeapBuilder(layout)
    types = layout.types
    array = builder.object(types.bytecode_array, 64)
    data = builder.object(types.interpreter_data, 40, {16: array})
    code = builder.object(types.code, 64, {8: builder.undefined, 16: data})
    scope = builder.scope_info(builder.string("f"), 0, (1, 2))
    script = make_script(builder)
    reader = reader_of(builder)
    for slot in (array, data, code):
        info = reader.read_shared(builder.shared(scope, script, slot))
        assert info is not None
        assert info.bytecode_array == array
    cycle = builder.object(types.interpreter_data, 40)
    builder.set(cycle, 8, cycle)
    info = reader.read_shared(builder.shared(scope, script, cycle))
    assert info is not None
    assert info.bytecode_array is None


@LAYOUTS
def test_script_behind_debug_info(layout: Layout) -> None:
    builder = HeapBuilder(layout)
    script = make_script(builder)
    debug = builder.object(layout.types.debug_info, 80, {8: smi(1), 24: script})
    scope = builder.scope_info(builder.string("f"), 0, (1, 2))
    info = reader_of(builder).read_shared(builder.shared(scope, debug, smi(0)))
    assert info is not None
    assert info.script is not None
    assert info.script.url == "/app/f.js"


@LAYOUTS
def test_url_of_eval(layout: Layout) -> None:
    builder = HeapBuilder(layout)
    source = builder.string("1+1")
    plain = builder.script(source, builder.undefined)
    named = builder.script(source, builder.undefined)
    assert layout.objects.script_source_url is not None
    assert layout.objects.script_source_mapping_url is not None
    builder.set(named, layout.objects.script_source_url, builder.string("made.js"))
    builder.set(named, layout.objects.script_source_mapping_url, builder.string("made.js.map"))
    scope = builder.scope_info(builder.string("f"), 0, (0, 3))
    reader = reader_of(builder)
    infos = [reader.read_shared(builder.shared(scope, script, smi(0))) for script in (plain, named)]
    scripts = [info.script for info in infos if info is not None and info.script is not None]
    assert [script.url for script in scripts] == ["", "made.js"]
    assert [script.source_mapping_url for script in scripts] == ["", "made.js.map"]


def test_offsets_of_a_script_inside_a_file() -> None:
    builder = HeapBuilder()
    name = builder.string("page.html")
    script = builder.script(builder.string("a\nb"), name, offsets=(10, 4))
    scope = builder.scope_info(0, 0, (0, 3))
    info = reader_of(builder).read_shared(builder.shared(scope, script, smi(0)))
    assert info is not None
    assert info.script is not None
    assert info.script.line_column(0) == (11, 5)
    assert info.script.line_column(2) == (12, 1)


def test_lines_in_front_of_the_first_are_the_first() -> None:
    builder = HeapBuilder()
    text = builder.string("(function anonymous(\n) {\nreturn 1\n})")
    script = builder.script(text, builder.undefined, offsets=(-2, 0))
    scope = builder.scope_info(0, 0, (0, 3))
    info = reader_of(builder).read_shared(builder.shared(scope, script, smi(0)))
    assert info is not None
    assert info.script is not None
    assert info.script.line_column(3) == (1, 4)
    assert info.script.line_column(21) == (1, 1)
    assert info.script.line_column(25) == (1, 1)


def test_stale_functions_are_dropped() -> None:
    builder = HeapBuilder()
    script = make_script(builder)
    first = builder.scope_info(builder.string("first"), 0, (1, 2))
    second = builder.scope_info(builder.string("second"), 0, (3, 4))
    shared = builder.shared(first, script, smi(0))
    other = builder.shared(first, script, smi(0))
    reader = reader_of(builder)
    assert reader.read_shared(shared) is reader.read_shared(shared)
    builder.set(shared, LAYOUT.objects.sfi_name_or_scope_info, second)
    assert reader.read_shared(other) is not None
    assert reader.read_shared(0x5) is None
    assert reader.read_shared(0xDEAD0001) is None
    assert not reader.heap.beliefs.confirm()
    info = reader.read_shared(shared)
    assert info is not None
    assert info.name == "second"
    # Another script, with another id, has taken the place of the first.
    builder.set(script, LAYOUT.objects.script_id, smi(8))
    builder.set(script, LAYOUT.objects.script_name, builder.string("/app/g.js"))
    assert reader.read_shared(shared) is info
    assert not reader.heap.beliefs.confirm()
    # What shares the script is gone with it.
    assert reader.basis([info]) is None
    info = reader.read_shared(shared)
    assert info is not None
    assert info.script is not None
    assert (info.script.id, info.script.url) == (8, "/app/g.js")
    # The function itself has gone.
    builder.set(shared, 0, builder.map_of(5))
    assert reader.read_shared(shared) is not None
    assert not reader.heap.beliefs.confirm()
    assert reader.read_shared(shared) is None


def test_a_script_that_is_gone_gives_no_lines() -> None:
    builder = HeapBuilder()
    script = make_script(builder)
    shared = builder.shared(builder.scope_info(builder.string("f"), 0, (1, 2)), script, smi(0))
    info = reader_of(builder).read_shared(shared)
    assert info is not None
    assert info.script is not None
    builder.set(script, LAYOUT.objects.script_id, smi(99))
    assert info.script.line_column(1) is None


def test_line_ends_of_v8_are_used_only_if_they_make_sense() -> None:
    builder = HeapBuilder()
    scope = builder.scope_info(0, 0, (0, 3))
    reader = reader_of(builder)
    for words, expected in (
        ((smi(1), smi(5)), (2, 1)),
        ((smi(5), smi(1)), (1, 3)),
        ((builder.undefined, smi(5)), (1, 3)),
        ((), (1, 3)),
    ):
        script = builder.script(builder.string("abcde"), builder.undefined)
        builder.set(script, LAYOUT.objects.script_line_ends, builder.array(*words))
        info = reader.read_shared(builder.shared(scope, script, smi(0)))
        assert info is not None
        assert info.script is not None
        assert info.script.line_column(2) == expected
        assert info.script.line_column(6) is None
        assert info.script.line_column(-1) is None


@given(st.text(alphabet="ab\n\r\u2028\u2029é\u0a0a\u0d0d\u2820\U0001f600", max_size=60))
def test_line_ends(text: str) -> None:
    # In UTF-16 code units: characters beyond U+FFFF count twice.
    units = "".join(c if ord(c) < 0x10000 else "xx" for c in text)
    expected = [m.end() - 1 for m in re.finditer("\r\n|[\n\r\u2028\u2029]", units)]
    expected.append(len(units))
    assert find_line_ends(text.encode("utf-16-le"), one_byte=False).tolist() == expected
    if text.isascii():
        assert find_line_ends(text.encode(), one_byte=True).tolist() == expected


def test_line_ends_of_a_large_source_take_linear_time() -> None:
    line = b"  const value = compute(1, 2, 3); // and so on\n"
    started = time.process_time()
    ends = find_line_ends(line * 40_000, one_byte=True)
    wide = find_line_ends((line * 40_000).decode().encode("utf-16-le"), one_byte=False)
    assert ends == wide
    assert len(ends) == 40_001
    assert time.process_time() - started < 2.0


def test_eval_source_is_flattened() -> None:
    builder = HeapBuilder()
    text = builder.indirect(CONS, 8, builder.string("(fn\n"), builder.string("é) "))
    builder.write_bytes(text - 1 + 12, (7).to_bytes(4, "little"))
    script = builder.script(text, builder.undefined)
    scope = builder.scope_info(0, 0, (5, 6))
    info = reader_of(builder).read_shared(builder.shared(scope, script, smi(0)))
    assert info is not None
    assert info.script is not None
    assert info.script.source() == "(fn\né) "
    assert info.script.line_column(5) == (2, 2)


@given(st.binary(min_size=64, max_size=72), st.binary(max_size=200))
def test_random_bytes_end_in_a_value_or_none(shared_data: bytes, scope_data: bytes) -> None:
    builder = HeapBuilder()
    shared = builder.shared(0, 0, 0)
    builder.write_bytes(shared - 1 + 8, shared_data[8:])
    reader = reader_of(builder)
    reader.read_shared(shared)
    scope = builder.object(LAYOUT.types.scope_info, 8 + len(scope_data))
    builder.write_bytes(scope - 1 + 8, scope_data)
    info = reader.read_shared(builder.shared(scope, builder.undefined, smi(1)))
    assert info is None or isinstance(info.name, str)
