"""Samples: as an engine emits them and as the profile keeps them."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from jsspy.model.capture import Capture
from jsspy.model.stack import Stack
from jsspy.model.units import Address, Pid, Tid


class ThreadState(Enum):
    """What the thread was doing as the kernel sees it."""

    RUNNING = "running"
    RUNNABLE = "runnable"
    """Waiting for a CPU."""
    EPOLL = "epoll"
    """Waiting for events: an event loop with nothing to do."""
    FUTEX = "futex"
    """Waiting for another thread: a lock, Atomics.wait, a pool without work."""
    SLEEPING = "sleeping"
    """Waiting for something else that can be interrupted: a pipe, a timer, a child process."""
    DISK = "disk"
    """Waiting without being interruptible, usually for a disk."""
    STOPPED = "stopped"

    @property
    def is_idle(self) -> bool:
        """Whether nothing that the thread waits for is work on its behalf."""
        return self in _IDLE


_IDLE = frozenset({ThreadState.EPOLL, ThreadState.FUTEX, ThreadState.SLEEPING})


class VmState(Enum):
    """What V8 says that it is doing. Values are the words used in files and on the screen."""

    JS = "js"
    GC = "gc"
    PARSER = "parser"
    BYTECODE_COMPILER = "bytecode-compiler"
    COMPILER = "compiler"
    OTHER = "other"
    EXTERNAL = "external"
    ATOMICS_WAIT = "atomics-wait"
    IDLE = "idle"
    UNKNOWN = "unknown"


class LossReason(Enum):
    """Why a sample that was due has no stack."""

    LATE = "late"
    """jsspy was busy when the sample was due."""
    THREAD_GONE = "thread-gone"
    """The thread ended between being chosen and being stopped."""
    NOT_STOPPED = "not-stopped"
    """The thread could not be stopped, or not read once it was."""
    RING_FULL = "ring-full"
    """The kernel's buffer overflowed."""
    SKIPPED = "skipped"
    """The thread left its CPU so often that not every stack was taken."""
    IN_KERNEL = "in-kernel"
    """The thread was in the kernel, where the engine is not permitted to sample."""
    UNRESOLVED = "unresolved"
    """A stack was copied but nothing at all could be made of it."""


class RawSample(NamedTuple):
    """One capture of one thread."""

    pid: Pid
    tid: Tid
    time_ns: int
    """CLOCK_MONOTONIC."""
    weight_ns: int
    """The time that this sample stands for."""
    state: ThreadState
    capture: Capture
    kernel_chain: tuple[Address, ...] = ()
    """The pc in the kernel and the return addresses above it, where the engine gives them."""


class Sample(NamedTuple):
    """One resolved sample."""

    pid: Pid
    tid: Tid
    time_ns: int
    weight_ns: int
    state: ThreadState
    vm_state: VmState
    stack: Stack
