"""Stacks that were walked in the kernel: the same names as a full copy gives, and not too long."""

from __future__ import annotations

import pytest

from builders import LAYOUT, smi
from chains import walk
from jsspy.model.capture import FrameChain, Registers, StackSnapshot
from jsspy.model.stack import Frame
from jsspy.model.units import Address
from jsspy.symbolize.chain import ChainSymbolizer, NamedChain
from jsspy.symbolize.js import JsSymbolizer
from jsspy.symbolize.native import NativeSymbolizer
from jsspy.unwind.chain import whole
from jsspy.v8.plan import make_plan
from stack_world import (
    CONTEXT,
    ENTRY,
    EXIT,
    EXIT_MARKER,
    HANDLER,
    LAYOUT_HERE,
    RUNTIME,
    START,
    World,
)

PLAN = make_plan(LAYOUT_HERE)
HEADER = LAYOUT.code.bytecode_data or 0


class Program:
    """Native code < builtin exit < third < second < first < C++ < outer < C++ < _start."""

    def __init__(self) -> None:
        self.world = world = World()
        self.heap = heap = world.heap
        self.script = heap.script(heap.string("a\nb\nc"), heap.string("/app/a.js"))
        self.bytecodes: dict[str, int] = {}
        self.shared = {name: self.make_shared(name) for name in ("first", "second", "third")}
        self.functions = {name: heap.function(it) for name, it in self.shared.items()}
        builtin = heap.shared(heap.string("parse"), heap.undefined, smi(77))
        self.functions["parse"] = heap.function(builtin)
        world.push(0, START + 9)
        entry = world.entry_frame(rbx=world.sp - 8)
        outer = self.js("first", ENTRY + 9, entry)
        exit_1 = world.frame(HANDLER + 16, outer, EXIT_MARKER, 0)
        # C++ between: RUNTIME calls CALL, which calls V8.
        world.push(EXIT + 16, RUNTIME + 9)
        entry = world.entry_frame(exit_fp=exit_1, rbx=world.sp - 8)
        fp = self.js("first", ENTRY + 9, entry)
        fp = self.js("second", HANDLER + 16, fp)
        self.fp = self.js("third", HANDLER + 16, fp)
        self.exit_fp = world.frame(HANDLER + 16, self.fp, EXIT_MARKER, 0)
        world.push(EXIT + 16)
        self.now = 1000
        self.symbolizer = ChainSymbolizer(
            PLAN,
            world.code,
            world.unwinder,
            JsSymbolizer(world.reader, world.code),
            NativeSymbolizer(world.target),
            world.reader.decoder,
            clock=lambda: self.now,
        )

    def make_shared(self, name: str) -> int:
        heap = self.heap
        # Code offset 0 is script offset 2: zig-zag of (offset + 1) and of (2 + 1) << 1.
        table = heap.object(LAYOUT.types.trusted_byte_array, 64, {8: smi(2)})
        heap.write_bytes(table - 1 + 16, bytes([1 << 1, (2 + 1) << 2]))
        bytecode = heap.object(LAYOUT.types.bytecode_array, 128, {8: smi(16), 24: table})
        self.bytecodes[name] = bytecode
        scope = heap.scope_info(heap.string(name), heap.undefined, (0, 3))
        return heap.shared(scope, self.script, bytecode)

    def js(self, name: str, caller_pc: int, caller_fp: int) -> int:
        return self.world.frame(
            *(caller_pc, caller_fp, CONTEXT, self.functions[name]),
            *(1, self.bytecodes[name], smi(HEADER - 1)),
        )

    def snapshot(self) -> StackSnapshot:
        snapshot = self.world.snapshot(RUNTIME + 4, 4, self.exit_fp)
        followed = {it: self.heap.read(it - 1, 48) for it in self.functions.values()}
        return snapshot._replace(followed=followed)

    def slowly(self, snapshot: StackSnapshot) -> list[str]:
        """Name a stack without anything that was known before."""
        stack, truncation = self.world.unwinder.unwind(snapshot)
        assert truncation is None
        js = JsSymbolizer(self.world.reader, self.world.code)
        native = NativeSymbolizer(self.world.target)
        frames: list[Frame] = []
        named = js.symbolize(stack, snapshot.followed, snapshot.registers)
        for raw, expanded in zip(stack, named, strict=True):
            if expanded is None:
                frame = native.frame(raw.pc, is_return_address=raw.is_return_address)
                assert frame is not None
                expanded = (frame,)  # noqa: PLW2901 - what it expands to
            frames.extend(expanded)
        self.world.reader.heap.beliefs.confirm()
        return [frame.name for frame in frames]

    def name(self, chain: FrameChain, time_ns: int) -> list[str]:
        found = self.symbolizer.name(chain, time_ns)
        assert isinstance(found, NamedChain)
        return [frame.name for frame in found.frames]


@pytest.fixture
def program() -> Program:
    return Program()


NAMES = [
    *("runtime", "[exit frame]", "third", "second", "first", "[entry frame]"),
    *("call", "runtime", "[exit frame]", "first", "[entry frame]", "call", "_start"),
]


def test_a_copy_with_holes_unwinds_as_a_full_one(program: Program) -> None:
    snapshot = program.snapshot()
    chain = walk(snapshot, PLAN)
    assert chain.complete
    assert len(chain.pieces) == 3
    sparse = whole(chain, PLAN)
    assert program.world.unwinder.unwind(sparse) == program.world.unwinder.unwind(snapshot)
    assert sparse.stack_complete


def test_names_are_those_of_the_full_copy(program: Program) -> None:
    snapshot = program.snapshot()
    expected = program.slowly(snapshot)
    assert expected == NAMES
    chain = walk(snapshot, PLAN)
    for time_ns in (1, 2, 3000):
        assert program.name(chain, time_ns) == expected


def test_nothing_is_read_for_samples_older_than_the_last_look(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = walk(program.snapshot(), PLAN)
    expected = program.name(chain, 500)
    read_many = program.heap.read_many
    calls = []

    def counted(ranges: list[tuple[int, int]]) -> list[bytes | None]:
        calls.append(len(ranges))
        return read_many(ranges)

    monkeypatch.setattr(program.heap, "read_many", counted)
    for time_ns in range(500, 1001):
        assert program.name(chain, time_ns) == expected
    assert not calls
    # One look for a sample that is newer than the last.
    program.now = 2000
    assert program.name(chain, 1500) == expected
    assert len(calls) == 1
    assert program.name(chain, 2000) == expected
    assert len(calls) == 1


def test_a_function_that_was_replaced_has_its_new_name(program: Program) -> None:
    chain = walk(program.snapshot(), PLAN)
    assert "second" in program.name(chain, 500)
    heap, shared = program.heap, program.shared["second"]
    scope = heap.scope_info(heap.string("another"), heap.undefined, (0, 3))
    heap.set(shared, LAYOUT.objects.sfi_name_or_scope_info, scope)
    # The sample is older than the look that found "second": it was that.
    assert "second" in program.name(chain, 900)
    program.now = 2000
    names = program.name(chain, 1500)
    assert "another" in names
    assert "second" not in names


def test_another_function_in_the_same_frame_is_another_stack(program: Program) -> None:
    snapshot = program.snapshot()
    assert "third" in program.name(walk(snapshot, PLAN), 500)
    moved = dict(snapshot.followed)
    moved[program.functions["third"]] = snapshot.followed[program.functions["second"]]
    names = program.name(walk(snapshot._replace(followed=moved), PLAN), 500)
    assert "third" not in names
    assert names.count("second") == 2


def test_what_does_not_fit_is_left_to_the_whole_stack(program: Program) -> None:
    chain = walk(program.snapshot(), PLAN)
    name = program.symbolizer.name
    assert name(chain._replace(complete=False), 1) is None
    assert name(chain._replace(rows=chain.rows[:24], slots=chain.slots[:48]), 1) is None
    assert name(chain._replace(pieces=chain.pieces[:2]), 1) is None
    assert (
        name(chain._replace(pieces=((chain.pieces[0][0] + 8, b""), *chain.pieces[1:])), 1) is None
    )
    # A function that could not be followed.
    rows = bytearray(chain.rows)
    rows[2 * 24 + 8 : 2 * 24 + 16] = bytes(8)
    assert name(chain._replace(rows=bytes(rows)), 1) is None


def test_frames_are_counted_each_time(program: Program) -> None:
    chain = walk(program.snapshot(), PLAN)
    js = program.symbolizer._js
    for count in (1, 2, 3):
        program.name(chain, 500)
        assert (js.js_frames, js.js_frames_named) == (4 * count, 4 * count)


def test_a_leaf_in_v8s_code(program: Program) -> None:
    world = program.world
    registers = Registers(rip=HANDLER + 8, rbp=program.fp, rsp=program.fp - 48)
    snapshot = program.snapshot()
    at = registers.rsp - snapshot.stack_start
    plain = world.snapshot(HANDLER + 8, program.fp)
    snapshot = plain._replace(
        registers=registers,
        stack_start=Address(registers.rsp),
        stack=snapshot.stack[at:],
        followed=snapshot.followed,
    )
    expected = program.slowly(snapshot)
    assert expected[0] == "LdaHandler"
    chain = walk(snapshot, PLAN)
    assert program.name(chain, 1) == expected
    assert program.name(chain, 2) == expected
