"""What a profile has gained since it was last looked at: how a live view in another process grows.

Tables only grow, so a few counts say what is new in them. Samples are moved, not copied: whoever
samples for days must not keep them.
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from jsspy.model.profile import Profile, ThreadInfo
from jsspy.model.sample import ThreadState, VmState
from jsspy.model.stack import Frame, Truncation


class Growth(NamedTuple):
    """New rows of a profile's tables, and samples."""

    frames: list[Frame]
    parents: array[int]
    stack_frames: array[int]
    """With `parents`: new rows of the stack table."""
    threads: list[ThreadInfo]
    stack: array[int]
    thread: array[int]
    time_ns: array[int]
    weight: array[int]
    state: list[ThreadState]
    vm_state: list[VmState]
    truncated: dict[int, Truncation]
    """By index among the samples here."""


class GrowthTaker:
    """Takes the samples out of a growing profile, and copies what is new in its tables."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._frames = 0
        self._rows = 0
        self._threads = 0

    def take(self) -> Growth:
        """Return what came since the last call; the profile then has no samples."""
        profile = self._profile
        growth = Growth(
            profile.frames[self._frames :],
            profile.stacks.parent[self._rows :],
            profile.stacks.frame[self._rows :],
            profile.threads[self._threads :],
            profile.stack[:],
            profile.thread[:],
            profile.time_ns[:],
            profile.weight[:],
            profile.state[:],
            profile.vm_state[:],
            dict(profile.truncated),
        )
        self._frames = len(profile.frames)
        self._rows = len(profile.stacks)
        self._threads = len(profile.threads)
        discard_samples(profile, len(profile))
        return growth


def add_growth(profile: Profile, growth: Growth) -> None:
    """Append what was taken to a profile that has all that was taken before.

    Raises:
        ValueError: Something is missing in between.
    """
    start = len(profile)
    for frame in growth.frames:
        profile.intern_frame(frame)
    for parent, index in zip(growth.parents, growth.stack_frames, strict=True):
        profile.stacks.intern(parent, index)
    for thread in growth.threads:
        profile.intern_thread(thread)
    rows = max(growth.stack, default=-1)
    if rows >= len(profile.stacks) or max(growth.thread, default=-1) >= len(profile.threads):
        raise ValueError("samples of stacks or threads that were not taken")
    profile.stack.extend(growth.stack)
    profile.thread.extend(growth.thread)
    profile.time_ns.extend(growth.time_ns)
    profile.weight.extend(growth.weight)
    profile.state.extend(growth.state)
    profile.vm_state.extend(growth.vm_state)
    for index, reason in growth.truncated.items():
        profile.truncated[start + index] = reason


def discard_samples(profile: Profile, count: int) -> None:
    """Forget the first `count` samples of a profile; its tables stay."""
    for column in (
        profile.stack, profile.thread, profile.time_ns,
        profile.weight, profile.state, profile.vm_state,
    ):  # fmt: skip
        del column[:count]
    kept = {index - count: why for index, why in profile.truncated.items() if index >= count}
    profile.truncated.clear()
    profile.truncated.update(kept)
