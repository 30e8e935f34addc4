"""The recordings of the last minutes, as compressed as they came, in bounded memory."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from jsspy.formats.native import NativeReader
from jsspy.model.profile import Profile, ProfileMeta
from jsspy.model.transform import filter_samples, merge
from jsspy.model.units import Pid

MAX_BYTES = 64 << 20
"""Of compressed recordings. A busy process takes about 10 KB a second at 99 Hz."""


class Block(NamedTuple):
    """One interval."""

    start_ns: int
    """CLOCK_MONOTONIC."""
    end_ns: int
    data: bytes
    """A `.jsspy` recording."""


class Ring:
    """Blocks in the order of time; the oldest go when the ring is full."""

    def __init__(self, duration_ns: int, max_bytes: int = MAX_BYTES) -> None:
        """Make an empty ring.

        Args:
            duration_ns: How far it reaches back.
            max_bytes: How much it may hold.
        """
        self.duration_ns = duration_ns
        self._max_bytes = max_bytes
        self._bytes = 0
        self._blocks: deque[Block] = deque()

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def end_ns(self) -> int:
        """The end of the newest block; 0 if there is none."""
        return self._blocks[-1].end_ns if self._blocks else 0

    def add(self, block: Block) -> None:
        """Append a block."""
        self._blocks.append(block)
        self._bytes += len(block.data)
        oldest = block.end_ns - self.duration_ns
        while len(self._blocks) > 1 and (
            self._blocks[0].end_ns <= oldest or self._bytes > self._max_bytes
        ):
            self._bytes -= len(self._blocks.popleft().data)

    def find(self, start_ns: int, end_ns: int) -> list[Block]:
        """Return the blocks that end after `start_ns` and not after `end_ns`.

        A block is taken whole or not at all, so that the account of its samples stays true, and
        windows that follow each other have no block in common.
        """
        return [block for block in self._blocks if start_ns < block.end_ns <= end_ns]


def join_blocks(blocks: Sequence[Block], pid: int | None = None) -> Profile:
    """Return what blocks hold, as one profile.

    Args:
        blocks: In the order of time.
        pid: Only this process' samples; statistics stay those of all.
    """
    profiles = [NativeReader().read(io.BytesIO(block.data)) for block in blocks]
    if not profiles:
        return Profile(ProfileMeta())
    profile = merge(profiles)
    if pid is not None:
        profile = filter_samples(profile, threads=lambda thread: thread.pid == Pid(pid))
    return profile
