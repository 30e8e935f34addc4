"""What sampling measures, and how much of each stack is wanted."""

from __future__ import annotations

from enum import Enum

from jsspy.model.profile import ValueType


class Mode(Enum):
    """Which moments of a thread are sampled. Values are the words of the command line."""

    CPU = "cpu"
    """While it runs."""
    WALL = "wall"
    """Always, whatever it does or waits for."""
    OFFCPU = "offcpu"
    """While it does not run: the time from giving up the CPU until running again."""

    @property
    def value_type(self) -> ValueType:
        """What the weights of such samples are."""
        return _VALUE_TYPES[self]


class NativeFrames(Enum):
    """Which native frames a stack has. Values are the words of the command line.

    V8's glue on the way into native code and back counts as native, and so does the kernel.
    """

    FULL = "full"
    """All, from the leaf to the thread's start."""
    LEAF = "leaf"
    """Those that the newest JavaScript, builtin or WebAssembly frame called; a stack without such
    a frame keeps all."""
    OFF = "off"
    """None; a stack without any other frame is "(native)"."""


class Threads(Enum):
    """Which threads of a process are sampled. Values are the words of the command line."""

    MAIN = "main"
    JS = "js"
    """Those that run JavaScript: the main thread and workers."""
    ALL = "all"
    """V8's helpers and libuv's pool too."""


_VALUE_TYPES = {
    Mode.CPU: ValueType.CPU,
    Mode.WALL: ValueType.WALL,
    Mode.OFFCPU: ValueType.OFF_CPU,
}
