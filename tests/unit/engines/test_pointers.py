"""What frames point to: as the plan says, and the same whatever stacks were seen before."""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.engines.pointers import PointerFinder
from jsspy.model.capture import CapturePlan

START = 0x7FFC_0000_1000
ENTRY, EXIT = 2, 10
PLAN = CapturePlan(
    isolate_start=0,
    isolate_size=8,
    exit_slots=(0,),
    marker_slot=-8,
    entry_markers=(ENTRY,),
    saved_exit_slots=(-64, -72),
    follow_slot=-16,
    follow_size=32,
    follow_registers=("rdi",),
    frame_slots=(-8, -16, -32, -40, 24),
)
OLD_PLAN = PLAN._replace(marker_slot=-16, frame_slots=(-8, -16, 0, 0, 24))


def fp(index: int) -> int:
    """Return the address of a word."""
    return START + 8 * index


def make_stack(size: int, frames: dict[int, tuple[int, int, int]], more: dict[int, int]) -> bytes:
    """Return a stack; by place of fp in words: the caller's, marker or context, function."""
    words = [7] * size
    for at, (caller, marker, function) in frames.items():
        words[at], words[at - 1], words[at - 2] = fp(caller), marker, function
    for at, word in more.items():
        words[at] = word
    return pack(f"<{size}Q", *words)


FRAMES = {
    3: (10, 0x5001, 0x1001),
    10: (20, EXIT, 0x1101),
    20: (35, ENTRY, 7),
    40: (50, 0x5001, 0x1201),
    50: (0, ENTRY, 7),
}
"""The entry frame saved the exit frame at 40, and a caller that is none of V8's."""
MORE = {13: 0x2001, 20 - 8: fp(40), 20 - 9: 0, 23: 0x2101, 53: 0x2201}
STACK = make_stack(56, FRAMES, MORE)


@pytest.mark.parametrize("again", range(4))
def test_functions_targets_and_what_entry_frames_saved(again: int) -> None:
    finder = PointerFinder(PLAN)
    for _ in range(again):
        finder.find(STACK, START, fp(3))
    assert finder.find(STACK, START, fp(3)) == {0x1001, 0x1101, 0x2001, 0x2101, 0x1201, 0x2201}
    assert finder.find(STACK, START, fp(40)) == {0x1201, 0x2201}


def test_slots_that_have_not_been_pushed_are_not_looked_at() -> None:
    finder = PointerFinder(PLAN)
    for _ in range(3):
        assert finder.find(STACK[16:], fp(2), fp(3)) == {0x1101, 0x2001, 0x2101, 0x1201, 0x2201}
        assert finder.find(STACK, START, fp(3)) >= {0x1001}


@pytest.mark.parametrize("place", [0, 1, START - 8, fp(3) + 4, fp(56), 1 << 63, (1 << 64) - 8])
def test_what_is_no_frame_points_to_nothing(place: int) -> None:
    assert PointerFinder(PLAN).find(STACK, START, place) == frozenset()


worst = st.sampled_from(
    [*map(fp, (0, 3, 10, 20, 40, 50, 55, 56, 1000)), 0, 1, ENTRY, 0x7001, fp(3) + 4, (1 << 64) - 8]
)
changes = st.lists(st.tuples(st.integers(0, 55), worst), max_size=6)


@given(
    st.lists(changes, min_size=2, max_size=12),
    st.integers(0, 12),
    st.integers(30, 56),
    st.booleans(),
)
def test_stacks_that_were_seen_before_change_nothing(
    changed: Sequence[Sequence[tuple[int, int]]], first: int, last: int, old: bool
) -> None:
    plan = OLD_PLAN if old else PLAN
    finder = PointerFinder(plan)
    for some in changed:
        stack = make_stack(56, FRAMES, MORE | dict(some))
        parts = (stack[: 8 * last], stack, stack, stack[8 * first :])
        for data, start in zip(parts, (START, START, START, fp(first)), strict=True):
            for place in map(fp, (3, 10, 40)):
                expected = PointerFinder(plan).find(data, start, place)
                assert finder.find(data, start, place) == expected
