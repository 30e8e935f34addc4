"""What the ptrace engine does with a stack, on stacks that we build in our own memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jsspy.engines import ptrace
from jsspy.engines.ptrace import PauseHistogram
from jsspy.linux.vm import Buffer, Reader
from jsspy.model.capture import CapturePlan, Registers, StackSnapshot
from jsspy.model.profile import PauseStats
from jsspy.target.process import Target

PLAN = CapturePlan(
    isolate_start=16,
    isolate_size=32,
    exit_slots=(24,),
    marker_slot=-8,
    entry_markers=(2, 4),
    saved_exit_slots=(-32,),
    follow_slot=-16,
    follow_size=16,
    follow_registers=("rdi",),
)
WORDS = 1 << 16


class World:
    """A stack, an isolate and objects of ours, and the copier that looks at them."""

    def __init__(self) -> None:
        self.stack = Buffer(8 * WORDS)
        self.isolate = Buffer(64)
        self.objects = Buffer(1 << 12)
        for index in range(len(self.objects.words)):
            self.objects.words[index] = 0x1000 + index
        self.reader = Reader(os.getpid())
        target = SimpleNamespace(pid=os.getpid(), memory=SimpleNamespace(reader=self.reader))
        self.sampled = ptrace._Sampled(cast("Target", target), PLAN)
        self.copier = ptrace._Copier()
        self.copier.prepare(PLAN)

    def address(self, index: int) -> int:
        """Address of a word of the stack."""
        return self.stack.address + 8 * index

    def tagged(self, index: int) -> int:
        """Return a tagged pointer to object `index`, and what it holds is `content(index)`."""
        return self.objects.address + 16 * index + 1

    @staticmethod
    def content(index: int) -> bytes:
        return b"".join((0x1000 + 2 * index + half).to_bytes(8, "little") for half in (0, 1))

    def frame(self, index: int, caller: int, function: int = 0, marker: int = 0x77) -> None:
        """Put a frame at word `index`; its caller's frame is at word `caller`."""
        self.stack.words[index] = self.address(caller)
        self.stack.words[index - 1] = marker
        self.stack.words[index - 2] = function

    def capture(
        self,
        sp: int,
        fp: int,
        *,
        end: int = WORDS,
        isolate: int | None = None,
        pointers: tuple[int, ...] = (),
    ) -> StackSnapshot:
        """Copy from word `sp` on and walk from word `fp`."""
        thread: Any = SimpleNamespace(
            tid=os.getpid(),
            isolate=self.isolate.address if isolate is None else isolate,
            stack_end=self.address(end),
        )
        self.copier.copy(self.sampled, thread, self.address(sp))
        self.copier.follow(self.sampled, [self.address(fp)], set(pointers))
        return self.copier.snapshot(self.sampled, thread, Registers())

    def functions(self, snapshot: StackSnapshot) -> set[int]:
        """Return the indexes of the objects that were followed, all of them checked."""
        found = set()
        for pointer, data in snapshot.followed.items():
            index = (pointer - 1 - self.objects.address) // 16
            assert data == self.content(index)
            found.add(index)
        return found


@pytest.fixture(params=["gather", "file"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    world = World()
    world.reader.can_gather = request.param == "gather"
    yield world
    world.reader.close()


def test_frames_are_followed_to_the_root(world: World) -> None:
    world.frame(20, 30, world.tagged(0))
    world.frame(30, 40, world.tagged(1))
    world.frame(40, 40, world.tagged(2))  # its own caller: the end
    snapshot = world.capture(10, 20)
    assert world.functions(snapshot) == {0, 1, 2}
    assert snapshot.stack_start == world.address(10)
    assert snapshot.stack == bytes(world.stack.bytes[80:])
    assert snapshot.stack_complete
    assert snapshot.isolate_words == bytes(world.isolate.bytes[16:48])


def test_the_red_zone_is_copied(world: World) -> None:
    world.frame(40, 40, world.tagged(0))
    snapshot = world.capture(30, 40)
    assert snapshot.red_zone == bytes(world.stack.bytes[30 * 8 - 128 : 30 * 8])
    assert snapshot.stack == bytes(world.stack.bytes[30 * 8 :])


def test_exit_frames_come_from_the_isolate_and_from_entry_frames(world: World) -> None:
    world.isolate.words[3] = world.address(50)
    world.frame(50, 60, world.tagged(3))
    world.frame(60, 0, marker=2)
    world.stack.words[60 - 4] = world.address(100)
    world.frame(100, 110, world.tagged(4))
    world.frame(110, 0, marker=4)
    world.stack.words[110 - 4] = 0
    assert world.functions(world.capture(10, 0)) == {3, 4}


def test_registers_are_followed(world: World) -> None:
    assert world.functions(world.capture(10, 0, pointers=(world.tagged(9), 8))) == {9}


def test_only_tagged_words_that_can_be_read_are_followed(world: World) -> None:
    world.frame(20, 30, world.tagged(5))
    world.frame(30, 40, 0xDEAD0001)
    world.frame(40, 50, world.tagged(6) & ~1)
    world.frame(50, 60, (1 << 64) - 3)
    world.frame(60, 0, world.tagged(7))
    assert world.functions(world.capture(10, 20)) == {5, 7}


def test_slots_of_a_frame_that_is_being_pushed_read_as_zero(world: World) -> None:
    world.stack.words[9] = 2
    world.stack.words[8] = world.tagged(1)
    world.frame(20, 0, world.tagged(2))
    world.stack.words[10] = world.address(20)
    assert world.functions(world.capture(10, 10)) == {2}


def test_cycles_and_odd_frame_pointers_end_the_walk(world: World) -> None:
    world.frame(20, 30, world.tagged(0))
    world.frame(30, 20, world.tagged(1), marker=2)  # back down
    world.stack.words[30 - 4] = world.address(20)  # and again, by the saved exit frame
    assert world.functions(world.capture(10, 20)) == {0, 1}
    world.stack.words[20] = world.address(30) + 4
    assert world.functions(world.capture(10, 20)) == {0}


def test_the_number_of_frames_is_capped(world: World) -> None:
    for index in range(16, WORDS - 8, 4):
        world.frame(index, index + 4, marker=2)
    world.frame(16, 20, world.tagged(0))
    last = 16 + 4 * (ptrace.MAX_WALKED_FRAMES - 1)
    world.frame(last, last + 4, world.tagged(1))
    world.frame(last + 4, last + 8, world.tagged(2))
    assert world.functions(world.capture(10, 16)) == {0, 1}


def test_the_number_of_objects_is_capped(world: World) -> None:
    for number, index in enumerate(range(16, 16 + 4 * 2000, 4)):
        world.frame(index, index + 4, world.stack.address + 16 * number + 1)
    assert len(world.capture(10, 16).followed) == ptrace.MAX_FOLLOWED


def test_a_stack_that_ends_early_is_incomplete(world: World) -> None:
    snapshot = world.capture(10, 20, end=WORDS + (1 << 40))
    assert not snapshot.stack_complete
    assert len(snapshot.stack) <= ptrace.MAX_STACK_BYTES
    assert snapshot.stack.startswith(bytes(world.stack.bytes[80:1000]))


def test_without_an_isolate_the_stack_is_still_copied(world: World) -> None:
    world.frame(20, 0, world.tagged(1))
    for isolate in (0, 0x10):
        snapshot = world.capture(10, 20, isolate=isolate)
        assert snapshot.isolate_words == b""
        assert world.functions(snapshot) == {1}
        assert snapshot.stack_complete


def test_a_plan_that_reaches_too_far_is_refused() -> None:
    target = cast("Target", SimpleNamespace(pid=1))
    with pytest.raises(ValueError, match="below fp"):
        ptrace._Sampled(target, PLAN._replace(follow_slot=-4096))
    with pytest.raises(ValueError, match="isolate words"):
        ptrace._Sampled(target, PLAN._replace(exit_slots=(48,)))


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=200))
def test_pause_quantiles_are_at_most_a_32nd_too_high(durations: list[int]) -> None:
    histogram = PauseHistogram()
    for duration in durations:
        histogram.add(duration)
    stats = histogram.stats()
    ordered = sorted(durations)
    assert (stats.count, stats.total_ns, stats.max_ns) == (
        len(durations),
        sum(durations),
        ordered[-1],
    )
    for percent, found in ((50, stats.p50_ns), (99, stats.p99_ns)):
        true = ordered[-(-len(ordered) * percent // 100) - 1]
        assert true <= found <= true + true // 32


def test_no_pauses() -> None:
    assert PauseHistogram().stats() == PauseStats()
