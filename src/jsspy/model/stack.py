"""Frames and stacks as the user sees them."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class FrameKind(Enum):
    """What kind of code a frame runs. Values are the words used in files and on the screen."""

    JS = "js"
    BUILTIN = "builtin"
    BYTECODE_HANDLER = "bytecode-handler"
    REGEXP = "regexp"
    WASM = "wasm"
    NATIVE = "native"
    KERNEL = "kernel"
    VM_STATE = "vm-state"
    VM_FRAME = "vm-frame"
    """V8's own glue: entry, exit, internal, construct and adaptor frames."""
    ASYNC_BOUNDARY = "async-boundary"
    THREAD = "thread"
    PROCESS = "process"
    UNKNOWN = "unknown"

    __hash__ = object.__hash__  # that of Enum is Python code: a third of the hash of a frame


class Tier(Enum):
    """Which of V8's execution tiers a JS frame is in. Values are V8's own marks."""

    INTERPRETED = "~"
    BASELINE = "^"
    MAGLEV = "+"
    OPTIMIZED = "*"

    __hash__ = object.__hash__


class Location(NamedTuple):
    """A position in a script. 1-based; None is not known."""

    url: str
    line: int | None = None
    column: int | None = None


class Module(NamedTuple):
    """A file that native code was mapped from."""

    path: str
    build_id: str = ""


class Frame(NamedTuple):
    """One frame of a stack: the key by which frames are interned, so all of it is hashable."""

    name: str
    """"" is an anonymous function; never contains NUL, CR or LF."""
    kind: FrameKind
    tier: Tier | None = None
    location: Location | None = None
    """Where it is executing: for JS the position in the script."""
    definition: Location | None = None
    """Where the function begins, in the same script."""
    inlined: bool = False
    """Inlined into the frame that follows it towards the root."""
    script_id: int = 0
    module: Module | None = None
    """Native code only: the file it was mapped from."""
    address: int | None = None
    """Native code only: the pc as linked in `module` (a FileAddress), or for kernel code the pc."""
    original: Location | None = None
    """The executing position after source mapping; never replaces `location`."""
    original_name: str | None = None
    original_definition: Location | None = None
    """Where the function begins, after source mapping."""
    package: str = ""
    """`name@version` as the package.json of its package says; "" is not known."""


class Truncation(Enum):
    """Why a stack does not reach the root of its thread."""

    UNREADABLE = "unreadable"
    """A word that the walk needed could not be read."""
    NO_UNWIND_INFO = "no-unwind-info"
    """Native code without unwind data and without a usable frame pointer."""
    BROKEN_CHAIN = "broken-chain"
    """The next frame would not lie nearer to the root than this one."""
    TOO_DEEP = "too-deep"
    """More frames than the cap."""
    STACK_TOO_LARGE = "stack-too-large"
    """More bytes of stack than the engine copies."""
    STALE = "stale"
    """Objects that the stack named were gone when they were looked at."""


class Stack(NamedTuple):
    """Frames, root first."""

    frames: tuple[Frame, ...]
    truncated: Truncation | None = None
