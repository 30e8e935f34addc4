"""HybridUnwinder on stacks laid out by hand."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from elf_builder import TEXT_ADDRESS
from jsspy.model.capture import RawFrame
from jsspy.model.stack import Truncation
from jsspy.model.units import Address
from jsspy.target.maps import Mapping
from jsspy.unwind.base import MAP_GROWING_S, MAP_REFRESH_S, MAX_FRAMES, Region
from stack_world import (
    ASSEMBLY,
    BLOB,
    CALL,
    CONTEXT,
    DEOPT,
    ENTRY,
    ENTRY_MARKER,
    EXIT,
    EXIT_MARKER,
    HANDLER,
    JIT,
    LEAF,
    PLAIN,
    RUNTIME,
    STACK,
    STACK_END,
    START,
    THREAD,
    TIDY,
    TRAMPOLINE,
    World,
    build_nested,
)


@pytest.fixture
def world() -> World:
    return World()


def pcs(frames: list[RawFrame]) -> list[int]:
    return [frame.pc for frame in frames]


def test_native_leaf_to_start(world: World) -> None:
    js_fp, exit_fp = build_nested(world)
    world.push(EXIT + 16)
    frames, truncation = world.unwinder.unwind(world.snapshot(RUNTIME + 4, exit_fp, exit_fp))
    assert truncation is None
    assert pcs(frames) == [RUNTIME + 4, EXIT + 16, HANDLER + 16, ENTRY + 9, CALL + 9, START + 9]
    assert [frame.fp for frame in frames[1:3]] == [exit_fp, js_fp]
    assert [frame.is_return_address for frame in frames] == [False, True, True, True, True, True]
    assert frames[2].words[:2] == (CONTEXT, 0x6001)
    assert frames[0].words == ()


def test_without_rules_and_frame_pointer_the_exit_frame_is_next(world: World) -> None:
    _, exit_fp = build_nested(world)
    world.push(0xDEAD, 0xBEEF)
    frames, truncation = world.unwinder.unwind(world.snapshot(ASSEMBLY, 4, exit_fp))
    assert truncation is None
    # The pc of the exit frame is not known.
    assert pcs(frames) == [ASSEMBLY, 0, HANDLER + 16, ENTRY + 9, CALL + 9, START + 9]


def test_a_leaf_without_rules_may_not_have_touched_the_stack(world: World) -> None:
    """So it is where glibc's clone3 returns from the kernel, which no rule covers on purpose."""
    world.push(START + 9, RUNTIME + 9)
    frames, truncation = world.unwinder.unwind(world.snapshot(ASSEMBLY, 4))
    assert truncation is None
    assert pcs(frames) == [ASSEMBLY, RUNTIME + 9, START + 9]
    world.push(RUNTIME + 10)  # no call before it
    frames, truncation = world.unwinder.unwind(world.snapshot(ASSEMBLY, 4))
    assert truncation is Truncation.NO_UNWIND_INFO


def test_without_rules_the_start_is_next_if_nothing_else_can_be(world: World) -> None:
    """So it is in musl, which has no rules."""
    world.push(THREAD + 3, 1, START, 0)
    world.push(ASSEMBLY + 9)
    frames, truncation = world.unwinder.unwind(world.snapshot(RUNTIME + 4, 4))
    assert truncation is None
    assert pcs(frames) == [RUNTIME + 4, ASSEMBLY + 9, THREAD + 3]
    world.words[1] = RUNTIME + 9
    frames, truncation = world.unwinder.unwind(world.snapshot(RUNTIME + 4, 4))
    assert truncation is Truncation.NO_UNWIND_INFO
    assert pcs(frames) == [RUNTIME + 4, ASSEMBLY + 9]


def test_without_rules_a_function_is_left_as_it_leaves_itself(world: World) -> None:
    _, exit_fp = build_nested(world)
    world.push(EXIT + 16, exit_fp, RUNTIME + 9)
    frames, truncation = world.unwinder.unwind(world.snapshot(TIDY, 4, exit_fp))
    assert truncation is None
    assert pcs(frames) == [TIDY, EXIT + 16, HANDLER + 16, ENTRY + 9, CALL + 9, START + 9]
    # What is in the place of the return address is none.
    world.words[-3], world.words[-1] = EXIT + 15, 1
    frames, _ = world.unwinder.unwind(world.snapshot(TIDY, 4, exit_fp))
    assert pcs(frames)[:2] == [TIDY, 0]


def test_a_leaf_may_keep_its_frame_below_the_stack(world: World) -> None:
    _, exit_fp = build_nested(world)
    world.push(EXIT + 16)
    cfa = world.sp + 8
    world.push(1, 2, 3)
    snapshot = world.snapshot(LEAF + 4, exit_fp, exit_fp)
    snapshot = snapshot._replace(red_zone=bytes(120) + cfa.to_bytes(8, "little"))
    frames, truncation = world.unwinder.unwind(snapshot)
    assert truncation is None
    assert pcs(frames) == [LEAF + 4, EXIT + 16, HANDLER + 16, ENTRY + 9, CALL + 9, START + 9]
    # Where it was not copied, who called the leaf is not known.
    frames, _ = world.unwinder.unwind(snapshot._replace(red_zone=b""))
    assert EXIT + 16 not in pcs(frames)


def test_assembly_with_a_frame_pointer_is_walked_by_it(world: World) -> None:
    _, exit_fp = build_nested(world)
    fp = world.frame(EXIT + 16, exit_fp)
    world.push(1, 2, 3)
    frames, truncation = world.unwinder.unwind(world.snapshot(ASSEMBLY, fp, exit_fp))
    assert truncation is None
    assert pcs(frames)[:3] == [ASSEMBLY, EXIT + 16, HANDLER + 16]


def test_a_chain_that_passes_the_exit_frame_was_wrong(world: World) -> None:
    _, exit_fp = build_nested(world)
    world.words[0:2] = [START + 9, 0]  # looks like the caller's, but lies above the bridge
    world.push(0)
    snapshot = world.snapshot(CALL + 4, 4, exit_fp)
    snapshot = snapshot._replace(registers=snapshot.registers._replace(rbx=STACK_END - 16))
    frames, _ = world.unwinder.unwind(snapshot)
    assert pcs(frames)[:3] == [CALL + 4, 0, HANDLER + 16]


def test_c_called_straight_from_javascript(world: World) -> None:
    js_fp, _ = build_nested(world)
    world.push(0xBAD)
    fast = (js_fp, HANDLER + 16)
    frames, truncation = world.unwinder.unwind(world.snapshot(ASSEMBLY, 4, 0, fast))
    assert truncation is None
    assert pcs(frames)[:3] == [ASSEMBLY, HANDLER + 16, ENTRY + 9]


def test_javascript_under_c_under_javascript(world: World) -> None:
    _, exit_fp = build_nested(world)
    world.push(0)
    inner_entry = world.frame(ASSEMBLY + 3, 7, ENTRY_MARKER, 0, 0, 0, 0, 0, 0, exit_fp, 0, 0)
    js_fp = world.frame(ENTRY + 9, inner_entry, CONTEXT, 0x6001, 1, 0, 0)
    world.push(0)
    frames, truncation = world.unwinder.unwind(world.snapshot(HANDLER + 8, js_fp, exit_fp))
    assert truncation is None
    assert pcs(frames) == [
        *(HANDLER + 8, HANDLER + 8, ENTRY + 9),
        *(ASSEMBLY + 3, 0, HANDLER + 16, ENTRY + 9, CALL + 9, START + 9),
    ]


@pytest.mark.parametrize("offset", [0, 4, 16])
def test_code_before_its_frame_is_there(world: World, offset: int) -> None:
    js_fp, _ = build_nested(world)
    world.words = world.words[:-4]  # the exit frame away: the JS frame is the newest
    world.push(HANDLER + 16)
    frames, truncation = world.unwinder.unwind(world.snapshot(TRAMPOLINE + offset, js_fp))
    assert truncation is None
    assert pcs(frames)[:3] == [TRAMPOLINE + offset, HANDLER + 16, ENTRY + 9]
    assert frames[1].fp == js_fp


def test_a_frame_without_slots_belongs_to_the_callee(world: World) -> None:
    js_fp, _ = build_nested(world)
    world.words = world.words[:-4]
    fp = world.frame(HANDLER + 16, js_fp)
    snapshot = world.snapshot(TRAMPOLINE + 20, fp)
    snapshot = snapshot._replace(registers=snapshot.registers._replace(rdi=0x7771))
    frames, truncation = world.unwinder.unwind(snapshot)
    assert truncation is None
    assert pcs(frames)[:3] == [TRAMPOLINE + 20, TRAMPOLINE + 20, HANDLER + 16]
    assert (frames[1].fp, frames[1].words[1]) == (0, 0x7771)
    assert frames[2].fp == js_fp


@pytest.mark.parametrize("pushed", range(12))
def test_an_entry_frame_that_is_being_built(world: World, pushed: int) -> None:
    """At every instruction of its prologue and epilogue: rsp says what is there."""
    world.push(0, START + 9)
    rbx = world.sp - 8
    entry_fp = world.entry_frame(rbx=rbx)
    slots = STACK_END - entry_fp
    world.words = world.words[: slots // 8 - 1 + pushed]
    offset, fp = (0, 4) if pushed == 0 else (1, 4) if pushed == 1 else (4, entry_fp)
    snapshot = world.snapshot(ENTRY + 16 + offset, fp)
    registers = snapshot.registers._replace(rbx=rbx)
    frames, truncation = world.unwinder.unwind(snapshot._replace(registers=registers))
    assert truncation is None
    assert pcs(frames)[-2:] == [CALL + 9, START + 9]
    assert frames[0].pc == ENTRY + 16 + offset


@pytest.mark.parametrize("is_bridge", [False, True])
def test_a_function_without_a_frame_that_is_being_deoptimized(
    world: World, is_bridge: bool
) -> None:
    js_fp, _ = build_nested(world)
    world.words = world.words[:-4]
    world.push(0x1234, 0x5678)
    sp = world.sp
    # C++ uses the place where the frame was.
    world.push(DEOPT + 16, *[RUNTIME + 9] * 5)
    # What was its frame is noted as the bridge, and C++ may be deep below it.
    snapshot = world.snapshot(RUNTIME + 4, sp - 24, sp - 24 if is_bridge else 0)
    frames, truncation = world.unwinder.unwind(snapshot)
    assert truncation is None
    assert pcs(frames)[-6:] == [DEOPT + 16, 0, 0, ENTRY + 9, CALL + 9, START + 9]
    assert frames[-4].fp == js_fp


def test_the_code_that_takes_frames_off_the_stack(world: World) -> None:
    js_fp, _ = build_nested(world)
    world.words = world.words[:-4]
    frames, truncation = world.unwinder.unwind(world.snapshot(DEOPT + 8, world.sp - 24))
    assert truncation is None
    assert pcs(frames) == [DEOPT + 8, 0, 0, ENTRY + 9, CALL + 9, START + 9]
    assert frames[2].fp == js_fp


def test_a_circle_of_frames_ends(world: World) -> None:
    fp = world.sp - 16
    world.frame(HANDLER + 16, fp, CONTEXT, 0, 0, 0, 0)
    frames, truncation = world.unwinder.unwind(world.snapshot(HANDLER + 8, fp))
    assert truncation is Truncation.BROKEN_CHAIN
    assert len(frames) == 2


def test_a_cut_copy_says_so(world: World) -> None:
    js_fp, _ = build_nested(world)
    snapshot = world.snapshot(HANDLER + 8, js_fp)
    cut = snapshot._replace(stack=snapshot.stack[: js_fp - snapshot.stack_start + 8])
    assert world.unwinder.unwind(cut)[1] is Truncation.UNREADABLE
    too_large = cut._replace(stack_complete=False)
    assert world.unwinder.unwind(too_large)[1] is Truncation.STACK_TOO_LARGE


def test_the_root_end_is_taken_again_only_if_nothing_in_it_changed(world: World) -> None:
    _, exit_fp = build_nested(world)
    world.push(EXIT + 16)
    snapshot = world.snapshot(RUNTIME + 4, exit_fp, exit_fp)
    first = world.unwinder.unwind(snapshot)
    assert world.unwinder.unwind(snapshot) == first

    # _start is now called from assembly that cannot be unwound: the last word but one changed.
    changed = snapshot._replace(stack=snapshot.stack[:-16] + struct.pack("<2Q", ASSEMBLY + 1, 0))
    frames, truncation = world.unwinder.unwind(changed)
    assert truncation is Truncation.NO_UNWIND_INFO
    assert frames[-1].pc == ASSEMBLY + 1


def test_the_builtins_may_be_mapped_twice(world: World) -> None:
    second = 0x6000_0000
    world.fake.mappings.append(
        Mapping(Address(second), Address(second + 0x800), "r-xp", 0x1000, 5, "/n")
    )
    world.code.refresh()
    area = world.code.find(second + 0x410)
    assert area.region is Region.BUILTINS
    assert second + 0x410 - area.bias == TEXT_ADDRESS + 0x410
    assert world.code.find(second + 0x100).region is Region.NATIVE


def test_the_builtins_may_have_been_copied() -> None:
    world = World()
    start = 0x6100_0000
    world.heap.top = start
    world.heap.allocate(0x3000)
    world.heap.write_bytes(start + 0x1000, world.elf.read(BLOB[0], 0x400))
    world.fake.mappings.append(Mapping(Address(start), Address(start + 0x3000), "r-xp", 0, 0, ""))
    world.code.refresh()
    area = world.code.find(start + 0x1000 + 0x80)
    assert (area.region, start + 0x1080 - area.bias) == (Region.BUILTINS, PLAIN)
    assert world.code.find(start + 0x800).region is Region.GENERATED


def test_unknown_addresses_are_looked_up_again_but_not_too_often(world: World) -> None:
    mapped = Mapping(Address(0x6600_0000), Address(0x6600_1000), "rwxp", 0, 0, "")
    late = Mapping(Address(0x6700_0000), Address(0x6700_1000), "rwxp", 0, 0, "")
    world.fake.mappings.append(mapped)
    # What is known may be as old as the target: at first there is no waiting.
    assert world.code.find(0x6600_0010).mapping == mapped
    assert world.fake.refreshed == 1
    # Nor for long while readings are of use.
    world.now += MAP_GROWING_S
    world.fake.mappings.append(late)
    assert world.code.find(0x6700_0010).mapping == late
    assert world.fake.refreshed == 2
    world.now += MAP_GROWING_S
    assert world.code.find(0x6800_0010).region is Region.GENERATED
    assert world.fake.refreshed == 3
    world.now += MAP_REFRESH_S / 2
    world.code.find(0x6800_0010)
    assert world.fake.refreshed == 3
    world.now += MAP_REFRESH_S
    world.code.find(0x6800_0010)
    assert world.fake.refreshed == 4


SHARED_WORLD = World()
WORDS = st.one_of(
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 0x200).map(lambda at: STACK + 8 * at),
    st.integers(0, 0xFFF).map(lambda at: TEXT_ADDRESS + at),
    st.integers(0, 0xFFFF).map(lambda at: JIT + at),
    st.sampled_from([0, ENTRY_MARKER, EXIT_MARKER, CONTEXT]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=60), WORDS, WORDS, WORDS, WORDS, st.integers(0, 7))
def test_any_stack_ends(
    words: list[int], pc: int, fp: int, exit_fp: int, fast_fp: int, skew: int
) -> None:
    world = SHARED_WORLD
    world.words = words
    snapshot = world.snapshot(pc, fp, exit_fp, (fast_fp, pc))
    snapshot = snapshot._replace(
        registers=snapshot.registers._replace(rsp=world.sp + skew), stack=snapshot.stack[skew:]
    )
    frames, truncation = world.unwinder.unwind(snapshot)
    assert len(frames) <= MAX_FRAMES
    assert truncation is None or isinstance(truncation, Truncation)
