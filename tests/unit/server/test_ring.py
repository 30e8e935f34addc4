"""The ring reaches back as far as it is told, in no more memory than it is told."""

from __future__ import annotations

from array import array
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from jsspy.formats.native import Native
from jsspy.model.profile import Profile
from jsspy.model.sample import LossReason
from jsspy.model.stack import Truncation
from jsspy.server.ring import Block, Ring, join_blocks
from profiles import HOT, MAIN, MAIN_THREAD, PERIOD_NS, START_NS, profile_of, written

SECOND_NS = 1_000_000_000


@given(st.integers(1, 20), st.lists(st.integers(0, 200), max_size=60))
def test_it_is_bounded_in_time_and_memory(seconds: int, sizes: list[int]) -> None:
    ring = Ring(seconds * 10, max_bytes=500)
    for index, size in enumerate(sizes):
        ring.add(Block(index * 10, index * 10 + 10, bytes(size)))
        kept = ring.find(0, 1 << 62)
        assert kept[-1].end_ns == ring.end_ns == index * 10 + 10
        assert len(kept) <= seconds
        assert sum(len(block.data) for block in kept) <= 500
        assert ring._bytes == sum(len(block.data) for block in kept)


def make_blocks(count: int) -> list[Block]:
    """Return blocks of a second, each with two samples, a tenth and two tenths into it."""
    blocks = []
    for second in range(count):
        profile = profile_of((MAIN, HOT), (MAIN,))
        start = profile.meta.start_ns = START_NS + second * SECOND_NS
        profile.meta.duration_ns = SECOND_NS
        profile.time_ns = array("q", (start + SECOND_NS // 10, start + SECOND_NS // 5))
        profile.truncated[1] = Truncation.TOO_DEEP
        profile.stats.truncated = {Truncation.TOO_DEEP: 1}
        profile.stats.requested = 3
        profile.stats.lost = {LossReason.LATE: 1}
        blocks.append(Block(start, start + SECOND_NS, written(Native(), profile)))
    return blocks


@given(st.lists(st.integers(0, 60), min_size=2, max_size=5).map(sorted))
@settings(max_examples=30, deadline=None)
def test_windows_that_follow_each_other_share_nothing_and_miss_nothing(tenths: list[int]) -> None:
    ring = Ring(100 * SECOND_NS)
    for block in make_blocks(5):
        ring.add(block)
    cuts = [START_NS + tenth * SECOND_NS // 10 for tenth in tenths]

    def window(start: int, end: int) -> Profile:
        profile = join_blocks(ring.find(start, end), start, end)
        stats = profile.stats
        assert stats.requested == len(profile) + sum(stats.lost.values())
        assert sum(stats.truncated.values()) == len(profile.truncated)
        assert profile.meta.duration_ns <= end - start
        return profile

    parts = [time for start, end in pairwise(cuts) for time in window(start, end).time_ns]
    assert parts == list(window(cuts[0], cuts[-1]).time_ns)


def test_blocks_are_joined() -> None:
    blocks = make_blocks(3)
    joined = join_blocks(blocks)
    assert len(joined) == 6
    assert joined.stats.requested == 9
    assert joined.meta.duration_ns == 3 * SECOND_NS
    assert joined.meta.period_ns == PERIOD_NS
    assert len(join_blocks(blocks, pid=MAIN_THREAD.pid)) == 6
    assert len(join_blocks(blocks, pid=1)) == 0
    assert len(join_blocks([])) == 0


def test_a_window_says_when_it_begins() -> None:
    unix = join_blocks(make_blocks(1)).meta.start_time_unix_ns
    start = START_NS + SECOND_NS // 2
    joined = join_blocks(make_blocks(3), start, start + SECOND_NS)
    assert joined.meta.start_ns == start
    assert joined.meta.start_time_unix_ns == unix + SECOND_NS // 2
    assert joined.meta.duration_ns == SECOND_NS
    assert len(joined) == 2
