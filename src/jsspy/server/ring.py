"""The recordings of the last minutes, as compressed as they came, in bounded memory."""

from __future__ import annotations

import io
from collections import Counter, deque
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
        """Return the blocks that have a part between two times."""
        return [
            block for block in self._blocks if start_ns < block.end_ns and block.start_ns < end_ns
        ]


def join_blocks(
    blocks: Sequence[Block], start_ns: int = 0, end_ns: int = 1 << 62, pid: int | None = None
) -> Profile:
    """Return what blocks hold between two times, as one profile.

    Windows that follow each other have no sample in common and miss none. Losses have no time of
    their own: those of the blocks at both ends are counted in full.

    Args:
        blocks: In the order of time.
        start_ns: From then on,
        end_ns: and before that.
        pid: Only this process' samples; losses stay those of all.
    """
    if not blocks:
        return Profile(ProfileMeta())
    whole = merge([NativeReader().read(io.BytesIO(block.data)) for block in blocks])
    profile = filter_samples(
        whole,
        threads=None if pid is None else lambda thread: thread.pid == Pid(pid),
        start_ns=start_ns,
        end_ns=end_ns,
    )
    stats, meta = profile.stats, profile.meta
    stats.requested -= len(whole) - len(profile)
    stats.truncated = dict(Counter(profile.truncated.values()))
    start, end = max(blocks[0].start_ns, start_ns), min(blocks[-1].end_ns, end_ns)
    meta.start_time_unix_ns += start - meta.start_ns
    meta.start_ns, meta.duration_ns = start, max(end - start, 0)
    return profile
