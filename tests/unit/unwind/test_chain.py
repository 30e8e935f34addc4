"""Chains out of copies of stacks: what the program in the kernel makes of them, if all is right."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack_into

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chains import walk
from jsspy.model.capture import ROW, SLOTS, FrameChain, RawFrame, StackSnapshot
from jsspy.model.units import Address
from jsspy.unwind.chain import ChainCutter
from jsspy.unwind.trail import TrailWalker
from jsspy.v8.plan import make_plan
from stack_world import (
    CONTEXT,
    ENTRY,
    ENTRY_MARKER,
    EXIT,
    EXIT_MARKER,
    HANDLER,
    JIT,
    LAYOUT_HERE,
    RUNTIME,
    START,
    World,
)

PLAN = make_plan(LAYOUT_HERE)
SHARED = 0x8001
OPTIMIZED = JIT + 0x100


class Judge:
    """Takes all code from `OPTIMIZED` on for optimized, and all functions but one for wrong."""

    def __init__(self) -> None:
        self.generation = 0
        self.is_any = True

    def belongs(self, raw: RawFrame, shared: int) -> bool:
        return self.is_any and bool(raw.pc) and shared == SHARED

    def is_optimized(self, pc: int) -> bool:
        return pc >= OPTIMIZED


class Program:
    """JIT code (or C++ < exit) < third < second < first < C++ < outer < C++ < _start."""

    def __init__(self) -> None:
        self.world = world = World()
        world.push(0, START + 9)
        entry = world.entry_frame(rbx=world.sp - 8)
        fp = world.frame(ENTRY + 9, entry, CONTEXT, 0x6001, 1, 0x6101, 7 << 32)
        exit_fp = world.frame(HANDLER + 16, fp, EXIT_MARKER, 0)
        world.push(EXIT + 16, RUNTIME + 9)
        entry = world.entry_frame(exit_fp=exit_fp, rbx=world.sp - 8)
        fp = world.frame(ENTRY + 9, entry, CONTEXT, 0x6001, 1, 0x6101, 5 << 32)
        fp = world.frame(HANDLER + 16, fp, CONTEXT, 0x6201, 1, 0x6301, 3 << 32)
        self.fp = world.frame(OPTIMIZED + 8, fp, CONTEXT, 0x6401, 1, 0x6501, 9 << 32)
        self.exit_fp = world.frame(OPTIMIZED + 24, self.fp, EXIT_MARKER, 0)
        world.push(EXIT + 16)
        self.functions = (0x6001, 0x6201, 0x6401)
        # Those behind marked frames are, too: they may be of a builtin.
        self.followed = {word: make_object(SHARED) for word in (*self.functions, 0x6101, 0x6501)}

    def snapshot(self, pc: int, fp: int, changes: Sequence[tuple[int, int]] = ()) -> StackSnapshot:
        """Return a copy with words changed, which are counted from the root."""
        snapshot = self.world.snapshot(pc, fp, self.exit_fp)
        stack = bytearray(snapshot.stack)
        for index, word in changes:
            pack_into("<Q", stack, len(stack) - 8 - 8 * index, word)
        return snapshot._replace(
            stack=bytes(stack), followed=self.followed, late_exit_fp=self.exit_fp
        )


def make_cutter(program: Program, judge: Judge | None = None) -> ChainCutter:
    world = program.world
    trails = TrailWalker(world.code, world.unwinder)
    return ChainCutter(PLAN, world.code, trails, judge or Judge())


def make_object(shared: int) -> bytes:
    data = bytearray(PLAN.follow_size)
    pack_into("<Q", data, PLAN.follow_word, shared)
    return bytes(data)


def strip(chain: FrameChain | None) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return rows and slots without what does not count beyond the newest frame."""
    assert chain is not None
    frames: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for row, slots in zip(ROW.iter_unpack(chain.rows), SLOTS.iter_unpack(chain.slots), strict=True):
        fp, marker, function, array, offset, target = slots
        pc, identity, detail = row
        if frames and marker & 3 == 1:
            marker, target = 1, 0
            if pc >= OPTIMIZED:
                array = offset = detail = 0
        elif frames:
            array = offset = 0
        frames.append(((pc, identity, detail), (fp, marker, function, array, offset, target)))
    return frames


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.mark.parametrize("seen", [0, 1, 2, 3])
def test_it_is_the_chain_that_the_kernel_walks(program: Program, seen: int) -> None:
    cutter = make_cutter(program)
    native = program.snapshot(RUNTIME + 4, 4)
    script = program.snapshot(OPTIMIZED + 4, program.fp)
    for _ in range(seen):
        cutter.cut(native)
        cutter.cut(script)
    cut = cutter.cut(native)
    assert strip(cut) == strip(walk(native, PLAN))
    assert cut is not None
    assert cut.pieces[1:] == walk(native, PLAN).pieces[1:]
    assert cut.pieces[0] == (native.stack_start, native.stack)
    assert cut.complete
    # Up to the newest frame it is the same.
    assert strip(cutter.cut(script)) == strip(walk(script._replace(isolate_words=b""), PLAN))


@pytest.mark.parametrize("seen", [0, 3])
def test_what_was_not_followed_or_does_not_belong_is_no_chain(program: Program, seen: int) -> None:
    cutter = make_cutter(program)
    snapshot = program.snapshot(RUNTIME + 4, 4)
    for _ in range(seen):
        cutter.cut(snapshot)
    for pointer in program.functions:
        less = {word: data for word, data in program.followed.items() if word != pointer}
        assert cutter.cut(snapshot._replace(followed=less)) is None
        moved = {**program.followed, pointer: make_object(0x9009)}
        assert cutter.cut(snapshot._replace(followed=moved)) is None
    assert cutter.cut(snapshot._replace(isolate=Address(0))) is None


@pytest.mark.parametrize("missing", range(4, 400, 4))
def test_a_copy_that_does_not_reach_the_end_is_a_chain_if_its_frames_are_there(
    program: Program, missing: int
) -> None:
    cutter = make_cutter(program)
    snapshot = program.snapshot(RUNTIME + 4, 4)
    less = snapshot._replace(stack=snapshot.stack[:-missing], stack_complete=False)
    for copy in (less, snapshot, snapshot, snapshot, less):
        cut = cutter.cut(copy)
        if copy is snapshot or cut is not None:
            assert strip(cut) == strip(walk(snapshot, PLAN))
            assert missing <= 16 or copy is snapshot


def test_nothing_is_kept_when_something_is_gone(program: Program) -> None:
    judge = Judge()
    cutter = make_cutter(program, judge)
    snapshot = program.snapshot(RUNTIME + 4, 4)
    for _ in range(3):
        assert cutter.cut(snapshot) is not None
    judge.is_any = False
    # The newest has a marker.
    assert cutter.cut(snapshot) is not None
    judge.generation += 1
    assert cutter.cut(snapshot) is None


places = [0x7FFF_0E00 + 8 * index for index in range(0, 64, 3)]
worst = st.sampled_from(
    [*places, 0, 1, 3, ENTRY_MARKER, EXIT_MARKER, 0x6001, 0x6201, 0x9001, 1 << 32, (1 << 64) - 8]
)
changes = st.lists(st.tuples(st.integers(0, 60), worst), max_size=4)


@given(st.lists(changes, min_size=2, max_size=10))
def test_copies_that_were_seen_before_change_nothing(
    changed: Sequence[Sequence[tuple[int, int]]],
) -> None:
    program = Program()
    cutter = make_cutter(program)
    for some in ((), (), *changed, ()):
        for snapshot in (
            program.snapshot(RUNTIME + 4, 4, some),
            program.snapshot(OPTIMIZED + 4, program.fp, some),
        ):
            assert cutter.cut(snapshot) == make_cutter(program).cut(snapshot)
