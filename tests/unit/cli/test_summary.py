"""The account adds up, in words too."""

from __future__ import annotations

import pytest

from jsspy.cli.summary import show_summary
from jsspy.model.profile import PauseStats, Profile, ThreadInfo
from jsspy.model.sample import LossReason, Sample, ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Stack, Truncation
from jsspy.model.units import Pid, Tid


def profile() -> Profile:
    """Return three samples, one of them truncated, of five that were due."""
    made = Profile()
    thread = made.intern_thread(ThreadInfo(Pid(7), Tid(7), "node"))
    frames = (Frame("main", FrameKind.JS),)
    timers = Frame("uv__run_timers", FrameKind.NATIVE)
    for truncated in (None, Truncation.STALE, None):
        stack = Stack(frames if truncated else (timers, *frames), truncated)
        state, vm_state = ThreadState.RUNNING, VmState.JS
        made.add(Sample(Pid(7), Tid(7), 0, 10, state, vm_state, stack), thread)
    stats = made.stats
    stats.requested = 5
    stats.lost = {LossReason.NOT_STOPPED: 1, LossReason.LATE: 1}
    stats.truncated = {Truncation.STALE: 1}
    stats.idle = 4
    stats.js_frames, stats.js_frames_named = 1000, 999
    stats.pauses = PauseStats(3, 84_000, 1_200_000, 1_300_000, 1_384_000)
    made.meta.notes.append("something \x1b[2J happened")
    return made


def test_summary_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    counts = "5 = 2 stacks + 1 truncated (stale 1) + 2 lost (late 1, not-stopped 1)"
    show_summary(profile(), "Wrote a.html", ["node ended with exit code 0"])
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Wrote a.html",
        f"  samples    {counts}; asleep 4 times more",
        "  pauses     p50 84 us, p99 1.2 ms, max 1.3 ms",
        "  JS frames  99.9 % of 1000 have their function",
        "  V8         js 100 %",
        "  event loop timers 67 %, other 33 %",
        "  node ended with exit code 0",
        "  note: something \\x1b[2J happened",
    ]


def test_what_there_is_none_of_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    show_summary(Profile(), "Wrote nothing")
    assert capsys.readouterr().err.splitlines() == [
        "Wrote nothing",
        "  samples    0 = 0 stacks + 0 truncated + 0 lost",
    ]
