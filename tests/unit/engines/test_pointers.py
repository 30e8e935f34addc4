"""What frames point to: as the plan says, and the same whatever was seen before."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from itertools import accumulate
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.engines.pointers import ObjectReader, PointerFinder
from jsspy.linux import vm
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


SIZE = 32


class Objects(vm.Reader):
    """Reads our own memory, in which objects lie as far apart as is asked for."""

    def __init__(self, gaps: Sequence[int]) -> None:
        super().__init__(os.getpid())
        self._buffer = vm.Buffer(8 << 12)
        self.memory, self._address = self._buffer.bytes, self._buffer.address
        places = [8 * at for at in accumulate(gaps)]
        self.pointers = [self._address + place + 1 for place in places]
        for place in range(0, len(self.memory), 8):
            self.memory[place : place + 8] = (place * 7 + 1).to_bytes(8, "little")

    def expected(self, pointer: int) -> bytes:
        return bytes(self.memory[pointer - 1 - self._address :][:SIZE])


@given(st.lists(st.integers(0, 300), min_size=1, max_size=20), st.data())
def test_objects_are_read_wherever_they_lie(gaps: list[int], data: st.DataObject) -> None:
    with closing(Objects(gaps)) as reader:
        objects = ObjectReader(PLAN)
        others = [(1, SIZE), (8, 8)]
        for _ in range(3):
            some = data.draw(st.frozensets(st.sampled_from([*reader.pointers, 0x1_0001, 1])))
            expected = {it: reader.expected(it) for it in some if it > 0x1_0001}
            place = reader.pointers[-1] - 1
            ranges = [(place, 8), (place + 8, 16), *others]
            for _ in range(2):
                followed, found = objects.read(reader, some, ranges)
                assert followed == expected
                last = reader.expected(place + 1)
                assert found == [last[:8], last[8:24], None, None]


def test_what_has_not_changed_is_the_same_and_what_has_is_not() -> None:
    with closing(Objects([0, 10, 600])) as reader:
        objects = ObjectReader(PLAN)
        pointers = frozenset(reader.pointers)
        first, _ = objects.read(reader, pointers, ())
        news = [objects.has_news]
        again, _ = objects.read(reader, pointers, ())
        news.append(objects.has_news)
        assert again is first
        objects.read(reader, frozenset(reader.pointers[:2]), ())
        news.append(objects.has_news)
        reader.memory[80:88] = b"changed!"
        now, _ = objects.read(reader, pointers, ())
        assert [*news, objects.has_news] == [True, False, False, True]
        assert now[reader.pointers[1]][:8] == b"changed!"
        assert first[reader.pointers[1]][:8] != b"changed!"


def test_more_ranges_than_one_call_takes_are_read() -> None:
    with closing(Objects([1] * 40)) as reader:
        ranges = [(pointer - 1, 8) for pointer in reader.pointers] * 30
        _, found = ObjectReader(PLAN).read(reader, frozenset(), ranges)
        assert found == [reader.expected(address + 1)[:8] for address, _ in ranges]
