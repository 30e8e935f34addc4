"""What the event loop was doing, derived from the frames of a stack.

libuv runs its phases one after the other, each in a function of its own, and Node.js enters
JavaScript through a few functions of its own JavaScript. The marker nearest to the leaf counts:
ticks and microtasks run within a phase, after each callback of it. Without symbols of libuv (they
are static: a stripped binary has none) the JavaScript markers remain.

Source: uv_run in deps/uv/src/unix/core.c; lib/internal/timers.js and
lib/internal/process/task_queues.js; MicrotaskQueue in deps/v8/src/execution/microtask-queue.cc.
The names are in the stacks of Node.js 12 to 26.
"""

from __future__ import annotations

import re
from collections import Counter
from enum import Enum

from jsspy.model.names import Origin, origin_of
from jsspy.model.profile import Profile
from jsspy.model.sample import VmState
from jsspy.model.stack import Frame, FrameKind


class Phase(Enum):
    """A phase of the event loop. Values are the words on the screen."""

    STARTUP = "startup"
    """The main script, before the loop begins."""
    TIMERS = "timers"
    PENDING = "pending"
    PREPARE = "prepare"
    POLL = "poll"
    """Callbacks of input and output, and waiting for it."""
    CHECK = "check"
    """setImmediate."""
    CLOSE = "close"
    NEXT_TICK = "nextTick"
    MICROTASKS = "microtasks"
    OTHER = "other"


_NATIVE = {
    "LoadEnvironment": Phase.STARTUP,
    "uv__run_timers": Phase.TIMERS,
    "uv__run_pending": Phase.PENDING,
    "uv__run_idle": Phase.PREPARE,
    "uv__run_prepare": Phase.PREPARE,
    "uv__io_poll": Phase.POLL,
    "uv__run_check": Phase.CHECK,
    "uv__run_closing_handles": Phase.CLOSE,
    "RunMicrotasks": Phase.MICROTASKS,
}
_NATIVE_NAME = re.compile(
    r"(?:node::|v8::internal::MicrotaskQueue::)?"
    rf"({'|'.join(_NATIVE)})"
    r"(?:[.(\[ ].*)?"  # the compiler's `.isra.0`, arguments
)
_CORE = {
    "processTimers": Phase.TIMERS,
    "listOnTimeout": Phase.TIMERS,
    "processImmediate": Phase.CHECK,
    "processTicksAndRejections": Phase.NEXT_TICK,
}


def phase_marked_by(frame: Frame) -> Phase | None:
    """Return the phase that a frame begins; None for all but a few frames."""
    if frame.kind is FrameKind.NATIVE:
        match = _NATIVE_NAME.fullmatch(frame.name)
        return _NATIVE[match[1]] if match else None
    if frame.kind is FrameKind.BUILTIN:
        return Phase.MICROTASKS if frame.name == "RunMicrotasks" else None
    phase = _CORE.get(frame.name)
    return phase if phase is not None and origin_of(frame) is Origin.CORE else None


def weigh_phases(profile: Profile) -> dict[Phase, int]:
    """Return the weight of the samples in each phase, heaviest first; those without are left out.

    Samples of sleeping threads do not count: the loop does nothing then. Of threads that are not an
    event loop's, all is `OTHER`.
    """
    marks = [phase_marked_by(frame) for frame in profile.frames]
    phases: list[Phase] = []
    for parent, frame in zip(profile.stacks.parent, profile.stacks.frame, strict=True):
        phases.append(marks[frame] or (phases[parent] if parent >= 0 else Phase.OTHER))
    weights: Counter[Phase] = Counter()
    for row, weight, state in zip(profile.stack, profile.weight, profile.state, strict=True):
        if not state.is_idle:
            weights[phases[row] if row >= 0 else Phase.OTHER] += weight
    return dict(weights.most_common())


def weigh_vm_states(profile: Profile) -> dict[VmState, int]:
    """Return the weight of the samples in each state of V8, heaviest first."""
    weights: Counter[VmState] = Counter()
    for what, weight, state in zip(profile.vm_state, profile.weight, profile.state, strict=True):
        if not state.is_idle:
            weights[what] += weight
    return dict(weights.most_common())
