from __future__ import annotations

import pytest

from jsspy.model.phase import Phase, phase_marked_by, weigh_phases, weigh_vm_states
from jsspy.model.profile import Profile, ThreadInfo
from jsspy.model.sample import ThreadState, VmState
from jsspy.model.stack import Frame, FrameKind, Location, Stack
from jsspy.model.units import Pid, Tid


def native(name: str) -> Frame:
    return Frame(name, FrameKind.NATIVE)


def js(name: str, url: str) -> Frame:
    return Frame(name, FrameKind.JS, definition=Location(url, 1))


@pytest.mark.parametrize(
    ("frame", "phase"),
    [
        (native("uv__run_timers"), Phase.TIMERS),
        (native("uv__io_poll"), Phase.POLL),
        (native("uv__io_poll.isra.0"), Phase.POLL),
        (native("uv__run_check"), Phase.CHECK),
        (native("uv__run_closing_handles"), Phase.CLOSE),
        (native("node::LoadEnvironment(node::Environment*)"), Phase.STARTUP),
        (native("v8::internal::MicrotaskQueue::RunMicrotasks"), Phase.MICROTASKS),
        (Frame("RunMicrotasks", FrameKind.BUILTIN), Phase.MICROTASKS),
        (js("processTimers", "node:internal/timers"), Phase.TIMERS),
        (js("listOnTimeout", "internal/timers.js"), Phase.TIMERS),
        (js("processImmediate", "node:internal/timers"), Phase.CHECK),
        (js("processTicksAndRejections", "node:internal/process/task_queues"), Phase.NEXT_TICK),
        # Somebody else's functions of the same names.
        (js("processTimers", "/app/timers.js"), None),
        (native("mine::uv__io_poll"), None),
        (native("uv__io_poller"), None),
        (native("uv_run"), None),
        (js("RunMicrotasks", "node:x"), None),
    ],
)
def test_markers(frame: Frame, phase: Phase | None) -> None:
    assert phase_marked_by(frame) is phase


def test_the_marker_nearest_to_the_leaf_counts() -> None:
    profile = Profile()
    thread = profile.intern_thread(ThreadInfo(Pid(1), Tid(1), "node"))
    loop = native("uv_run")
    timers = (loop, native("uv__run_timers"), js("processTimers", "node:internal/timers"))
    ticks = js("processTicksAndRejections", "node:internal/process/task_queues")
    micro = native("v8::internal::MicrotaskQueue::RunMicrotasks")
    app = js("work", "/app/a.js")
    for weight, frames in (
        (1, (*timers, app)),
        (2, (*timers, ticks, app)),
        (4, (*timers, ticks, micro, app)),
        (8, (loop, app)),
        (16, ()),
    ):
        profile.add_row(profile.intern_stack(Stack(frames)), thread, weight, weight)
    assert weigh_phases(profile) == {
        Phase.TIMERS: 1,
        Phase.NEXT_TICK: 2,
        Phase.MICROTASKS: 4,
        Phase.OTHER: 24,
    }
    assert sum(weigh_phases(profile).values()) == profile.total_weight()
    assert weigh_vm_states(profile) == {VmState.UNKNOWN: 31}
    # Nothing is done in its sleep.
    profile.add_row(0, thread, 6, 100, ThreadState.SLEEPING, VmState.IDLE)
    assert sum(weigh_phases(profile).values()) == 31
    assert weigh_vm_states(profile) == {VmState.UNKNOWN: 31}
