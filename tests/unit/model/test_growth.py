from __future__ import annotations

import pytest

from jsspy.model.growth import GrowthTaker, add_growth, discard_samples
from jsspy.model.profile import Profile, ThreadInfo
from jsspy.model.sample import ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Stack, Truncation
from jsspy.model.units import Pid, Tid

A, B, C = (Frame(name, FrameKind.JS) for name in "abc")


def add(profile: Profile, *frames: Frame, truncated: Truncation | None = None) -> None:
    thread = profile.intern_thread(ThreadInfo(Pid(1), Tid(1), "main"))
    if truncated is not None:
        profile.truncated[len(profile)] = truncated
    row = profile.intern_stack(Stack(frames))
    profile.add_row(row, thread, len(frames), 10, ThreadState.RUNNING, VmState.JS)


def columns(profile: Profile) -> list[object]:
    return [
        [profile.stack_frames(row) for row in profile.stack],
        list(profile.thread),
        list(profile.time_ns),
        list(profile.weight),
        profile.state,
        profile.vm_state,
        profile.truncated,
        profile.frames,
        profile.threads,
    ]


def test_what_is_taken_makes_the_same_profile_elsewhere() -> None:
    source, whole, copy = Profile(), Profile(), Profile()
    taker = GrowthTaker(source)
    for profile in (source, whole):
        add(profile, A, B)
        add(profile, A, truncated=Truncation.TOO_DEEP)
    add_growth(copy, taker.take())
    assert len(source) == 0
    assert source.truncated == {}
    for profile in (source, whole):
        add(profile, A, B, C, truncated=Truncation.STALE)
    add_growth(copy, taker.take())
    add_growth(copy, taker.take())
    assert columns(copy) == columns(whole)
    assert copy.truncated == {1: Truncation.TOO_DEEP, 2: Truncation.STALE}
    copy.check()


def test_a_piece_that_is_missing_is_noticed() -> None:
    source = Profile()
    taker = GrowthTaker(source)
    add(source, A, B)
    taker.take()
    add(source, A, B)
    with pytest.raises(ValueError, match="not taken"):
        add_growth(Profile(), taker.take())


def test_discarding_keeps_the_rest_in_order() -> None:
    profile = Profile()
    add(profile, A, truncated=Truncation.STALE)
    add(profile, A, B)
    add(profile, A, B, C, truncated=Truncation.TOO_DEEP)
    discard_samples(profile, 1)
    assert [len(profile.stack_frames(row)) for row in profile.stack] == [2, 3]
    assert profile.truncated == {1: Truncation.TOO_DEEP}
    profile.check()
