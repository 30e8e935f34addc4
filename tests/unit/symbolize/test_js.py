"""JsSymbolizer on a hand-made heap."""

from __future__ import annotations

import pytest

from builders import LAYOUT, smi
from jsspy.model.capture import RawFrame, Registers
from jsspy.model.stack import Frame, FrameKind, Location, Tier
from jsspy.model.units import Address
from jsspy.symbolize.base import UNKNOWN
from jsspy.symbolize.builtins import builtin_frame
from jsspy.symbolize.js import JsSymbolizer
from jsspy.v8.builtins import Builtin
from jsspy.v8.frames import FrameWords
from stack_world import CONTEXT, ENTRY_MARKER, HANDLER, JIT, PLAIN, START, TRAMPOLINE, World

HEADER = LAYOUT.code.bytecode_data or 0
SOURCE = "first line\n  second(line)\nthird"
TABLE = bytes([0x02, 0x0E, 0x04, 0x10])
"""Bytecode offset 0 is script offset 3 (position word 8 >> 1 ...), see `make_function`."""


class Program:
    """A function of a script, and frames that run it."""

    def __init__(self) -> None:
        self.world = World()
        heap = self.heap = self.world.heap
        types = LAYOUT.types
        script = heap.script(heap.string(SOURCE), heap.string("/app/a.js"))
        # (code offset + 1, position << 1) pairs, zig-zag: offset 0 -> 13, offset 2 -> 20.
        table = bytes([*_zigzag(1), *_zigzag((13 + 1) << 1), *_zigzag(2), *_zigzag(7 << 1)])
        self.table = heap.object(types.trusted_byte_array, 64)
        heap.set(self.table, 8, smi(len(table)))
        heap.write_bytes(self.table - 1 + 16, table)
        self.bytecode = heap.object(types.bytecode_array, 128, {8: smi(16), 24: self.table})
        scope = heap.scope_info(heap.string("second"), heap.undefined, (13, 25))
        self.shared = heap.shared(scope, script, self.bytecode)
        self.function = heap.function(self.shared)
        builtin = heap.shared(heap.string("map"), heap.undefined, smi(77))
        self.builtin = heap.function(builtin)
        self.symbolizer = JsSymbolizer(self.world.reader, self.world.code)

    def followed(self, *functions: int) -> dict[int, bytes]:
        return {function: self.heap.read(function - 1, 48) for function in functions}

    def interpreted(self, offset: int, pc: int = HANDLER + 16) -> RawFrame:
        words = FrameWords(CONTEXT, self.function, self.bytecode, smi(offset + HEADER - 1), 0)
        return RawFrame(Address(pc), is_return_address=True, fp=Address(0x7000), words=words)

    def name(self, *frames: RawFrame, registers: Registers | None = None) -> list[Frame]:
        """Name a stack as the resolver does: once more if what was remembered has changed."""
        followed = self.followed(self.function, self.builtin)
        counts = self.symbolizer.js_frames, self.symbolizer.js_frames_named
        named = self.symbolizer.symbolize(frames, followed, registers)
        if not self.world.reader.heap.beliefs.confirm():
            self.symbolizer.js_frames, self.symbolizer.js_frames_named = counts
            return self.name(*frames, registers=registers)
        return [frame for expanded in named for frame in expanded or ()]


def _zigzag(value: int) -> list[int]:
    value <<= 1
    out = []
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return [*out, value]


@pytest.fixture
def program() -> Program:
    return Program()


def second(line: int, column: int) -> Frame:
    return Frame(
        "second",
        FrameKind.JS,
        Tier.INTERPRETED,
        Location("/app/a.js", line, column),
        Location("/app/a.js", 2, 3),
        script_id=7,
    )


@pytest.mark.parametrize(("offset", "column"), [(0, 3), (1, 3), (2, 10), (9, 10)])
def test_an_interpreted_frame_has_name_file_and_line(
    program: Program, offset: int, column: int
) -> None:
    assert program.name(program.interpreted(offset)) == [second(2, column)]
    # And from the cache:
    assert program.name(program.interpreted(offset)) == [second(2, column)]
    assert (program.symbolizer.js_frames, program.symbolizer.js_frames_named) == (2, 2)


def test_a_frame_that_is_being_entered_is_at_the_functions_start(program: Program) -> None:
    frame = program.interpreted(0)
    words = FrameWords(*frame.words)._replace(bytecode_array=0, bytecode_offset=0)
    assert program.name(frame._replace(words=words)) == [second(2, 3)]


def test_a_function_that_is_gone_is_unknown_and_counted(program: Program) -> None:
    frame = program.interpreted(0)
    assert program.name(frame) == [second(2, 3)]
    program.heap.set(program.shared, 0, program.heap.map_of(LAYOUT.types.fixed_array))
    assert program.name(frame) == [UNKNOWN]
    assert (program.symbolizer.js_frames, program.symbolizer.js_frames_named) == (2, 1)


def test_another_function_in_the_same_place_gets_its_own_name(program: Program) -> None:
    heap = program.heap
    frame = program.interpreted(0)
    assert program.name(frame) == [second(2, 3)]
    other = heap.scope_info(heap.string("other"), heap.undefined, (13, 25))
    heap.set(program.shared, LAYOUT.objects.sfi_name_or_scope_info, other)
    assert [named.name for named in program.name(frame)] == ["other"]


def test_a_closure_that_was_not_copied_must_fit_the_bytecode(program: Program) -> None:
    frame = program.interpreted(0)
    assert program.symbolizer.symbolize([frame], {}) == [(second(2, 3),)]
    words = FrameWords(*frame.words)._replace(bytecode_array=program.table)
    assert program.symbolizer.symbolize([frame._replace(words=words)], {}) == [(UNKNOWN,)]


def test_a_closure_that_moved_is_known_by_the_bytecode_it_runs(program: Program) -> None:
    frame = program.interpreted(0)
    words = FrameWords(*frame.words)._replace(function=0x9999_9999)
    assert program.name(frame, frame._replace(words=words)) == [second(2, 3), second(2, 3)]


def test_what_is_no_function_is_unknown(program: Program) -> None:
    frame = program.interpreted(0)
    for word in (0, CONTEXT, program.bytecode, program.table, 0xFFFF_FFFF_FFFF_FFFF):
        words = FrameWords(*frame.words)._replace(function=word)
        assert program.symbolizer.symbolize([frame._replace(words=words)], {}) == [(UNKNOWN,)]


def test_glue_is_named_by_its_marker(program: Program) -> None:
    words = FrameWords(ENTRY_MARKER, 0, 0, 0, 0)
    frame = RawFrame(Address(0), is_return_address=True, fp=Address(0x7000), words=words)
    assert program.name(frame) == [Frame("[entry frame]", FrameKind.VM_FRAME)]
    assert program.symbolizer.js_frames == 0


def test_a_builtin_in_cpp_stands_above_its_exit_frame(program: Program) -> None:
    words = FrameWords(27 << 1, 0, 0, 0, program.builtin)
    frame = RawFrame(Address(0), is_return_address=True, fp=Address(0x7000), words=words)
    assert [named.name for named in program.name(frame)] == ["[builtin exit frame]", "map"]
    # A function of a script is never a builtin: then the word is something else.
    words = words._replace(target=program.function)
    assert [named.name for named in program.name(frame._replace(words=words))] == [
        "[builtin exit frame]"
    ]


def test_a_builtin_is_named_as_in_javascript(program: Program) -> None:
    words = FrameWords(CONTEXT, program.builtin, 0, 0, 0)
    frame = RawFrame(Address(PLAIN + 16), is_return_address=True, fp=Address(0x70), words=words)
    assert program.name(frame) == [Frame("map", FrameKind.BUILTIN)]


def test_generated_code_that_is_not_found_leaves_the_position_open(program: Program) -> None:
    frame = program.interpreted(0, pc=JIT + 0x100)
    (named,) = program.name(frame)
    assert (named.name, named.tier, named.location) == ("second", None, Location("/app/a.js"))


def test_native_frames_are_left_to_others(program: Program) -> None:
    frame = RawFrame(Address(START), is_return_address=False)
    assert program.symbolizer.symbolize([frame], {}) == [None]


def leaf(program: Program, r9: int, handler: int) -> list[Frame]:
    """Name an interpreted frame whose slot says 0, stopped in LdaHandler."""
    heap = program.heap
    table = heap.allocate(256 * 8)
    heap.write(table - 1 + 8 * 5, handler)
    heap.write_bytes(program.bytecode - 1 + HEADER, bytes([5] * 16))
    registers = Registers(r9=r9, r15=table - 1)
    label = RawFrame(Address(HANDLER + 8), is_return_address=False)
    return program.name(label, program.interpreted(0, HANDLER + 8), registers=registers)


def test_the_live_bytecode_offset_replaces_the_stale_slot(program: Program) -> None:
    label, frame = leaf(program, 4 + HEADER - 1, HANDLER)
    assert label == Frame("LdaHandler", FrameKind.BYTECODE_HANDLER)
    assert frame == second(2, 10)


@pytest.mark.parametrize(
    ("r9", "handler"),
    [(4 + HEADER - 1, PLAIN), (16 + HEADER - 1, HANDLER), (3, HANDLER), (1 << 63, HANDLER)],
)
def test_a_register_that_does_not_check_out_is_not_believed(
    program: Program, r9: int, handler: int
) -> None:
    assert leaf(program, r9, handler)[1] == second(2, 3)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("LdaNamedPropertyHandler", FrameKind.BYTECODE_HANDLER),
        ("InterpreterEntryTrampoline", FrameKind.VM_FRAME),
        ("CEntry_Return1_ArgvOnStack_NoBuiltinExit", FrameKind.VM_FRAME),
        ("Call_ReceiverIsAny", FrameKind.VM_FRAME),
        ("RunMicrotasks", FrameKind.VM_FRAME),
        ("StringEqual", FrameKind.BUILTIN),
        ("ArrayPrototypeSort", FrameKind.BUILTIN),
        ("KeyedLoadIC_Megamorphic", FrameKind.BUILTIN),
    ],
)
def test_builtins_at_the_leaf(name: str, kind: FrameKind) -> None:
    assert builtin_frame(Builtin(name, 0, 1)).kind is kind


def test_a_builtin_without_symbol_is_no_guess() -> None:
    assert builtin_frame(None) == Frame("(builtin)", FrameKind.BUILTIN)


def test_the_trampoline_is_found_by_address(program: Program) -> None:
    (frame,) = program.name(RawFrame(Address(TRAMPOLINE + 4), is_return_address=False))
    assert frame.name == "[InterpreterEntryTrampoline]"
