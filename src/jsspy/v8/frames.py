"""What the words around a V8 frame pointer mean.

Every frame that V8's code builds starts the same way, so the chain of frames can be followed
without knowing what any of them is (addresses grow upwards, words are 8 bytes):

    fp + 24   JSFunction          only in builtin exit frames: the C++ builtin that was called
    fp + 8    return address      into the caller
    fp        caller's fp
    fp - 8    Context or marker   low bit 0: a marker, this is not a JavaScript frame
    fp - 16   JSFunction          JavaScript frames only
    fp - 24   argument count      since V8 8.7.198; before it everything below is 8 bytes higher
    fp - 32   BytecodeArray       interpreted and baseline frames only
    fp - 40   bytecode offset     interpreted: a Smi; baseline: a heap object (feedback)

**Markers.** A frame of V8's own glue stores its type where a JavaScript frame has its Context.
The two cannot be confused: a Context is a tagged pointer (low bits 01), a marker has bit 0 clear.
The numbers change with nearly every V8 (Interpreted was 12, 12, 11, 12, 13, 13, 14 and 4 in Node
12 to 26), so they come from the binary's `v8dbg_frametype_*`; only Entry and ConstructEntry have
been 1 and 2 all along. Three encodings exist (`MarkerScheme`): type << 1 since V8 6.2, the Smi
type << 32 at fp - 8 in 5.1, and the same at fp - 16 in 4.5 and before, where exit frames have a
Code object instead of a marker.

**Tiers.** Nothing in a frame says which tier it is in: interpreted, baseline and optimized frames
have the same fixed part, and the slots of an optimized frame may still hold a BytecodeArray and a
Smi (after on-stack replacement). The pc decides; see `jsspy.symbolize.js`.

**Bridges.** Between JavaScript and C++ stand two frames. An *exit* frame is the last of V8's on
the way out; its fp is in the isolate's `c_entry_fp` while C++ runs. An *entry* frame is the first
on the way in; it keeps the `c_entry_fp` that was current when it was built, and the registers
that the C++ caller must get back:

    fp + 8    return address into C++ (`Execution::Call`)
    fp        rbp of that C++
    fp - 8    marker (Entry or ConstructEntry), fp - 16 context or a second marker
    fp - 24   r12        fp - 32  r13        fp - 40  r14
    fp - 48   r15        fp - 56  rbx        fp - 64  saved c_entry_fp
    fp - 72   saved fast_c_call_caller_fp, fp - 80 ..._pc      V8 13.6 and later

Source: `Generate_JSEntryVariant` in src/builtins/x64/builtins-x64.cc, from 3.14 to 14.6.

**Builtin exit frames** are the frames of JavaScript-visible functions written in C++
(`JSON.parse`). Their function is an argument of the call, at fp + 24 (the new target is at
fp + 16). Source: `BuiltinExitFrameConstants` in src/execution/frame-constants.h, at 7.8.279.

**Limits.** A frame that is being built or torn down has garbage in its slots. Only the newest
frame of a thread can be in that state, and `jsspy.unwind.hybrid` deals with it.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import NamedTuple

from jsspy.model.stack import FrameKind
from jsspy.v8.layout import FrameLayout, MarkerScheme

CALLER_FP = 0
RETURN_ADDRESS = 8
EXIT_TARGET = 24
"""JSFunction of a builtin exit frame, relative to fp."""

ENTRY_R12 = -24
ENTRY_R13 = -32
ENTRY_R14 = -40
ENTRY_R15 = -48
ENTRY_RBX = -56

_OLD_NAMES = {
    "Entry": "[entry frame]",
    "ConstructEntry": "[constructor entry]",
    "EntryConstruct": "[constructor entry]",
    "Construct": "[constructor frame]",
    "FastConstruct": "[fast constructor frame]",
    "ArgumentsAdaptor": "[arguments adaptor]",
}
"""Labels that do not follow the pattern; the rest is "[builtin exit frame]" for BuiltinExit."""

_CODE = {
    "Irregexp": ("irregexp", FrameKind.REGEXP),
    "Wasm": ("wasm code", FrameKind.WASM),
    "WasmCompiled": ("wasm code", FrameKind.WASM),
    "WasmSegmentStart": ("wasm code", FrameKind.WASM),
}
"""Marked frames that are no glue. Every other Wasm* type surrounds WebAssembly's own code."""


class FrameWords(NamedTuple):
    """The words of a V8 frame that say what it is; 0 where the copy of the stack has no such word.

    This is the order of `RawFrame.words`.
    """

    marker: int
    """Context of a JavaScript frame, else a marker."""
    function: int
    bytecode_array: int
    bytecode_offset: int
    target: int
    """JSFunction of a builtin exit frame; of other frames an argument or the caller's word."""


class FrameType(NamedTuple):
    """What a marker says."""

    name: str
    """V8's name without "Frame"."""
    label: str
    """As shown to people."""
    kind: FrameKind
    is_entry: bool
    is_exit: bool
    """The frame below it (towards the leaf) is C++."""
    has_target: bool
    is_callback: bool
    """The C++ below it is the embedder's: a function, constructor, accessor or interceptor."""


def _label(name: str) -> str:
    old = _OLD_NAMES.get(name)
    if old is not None:
        return old
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower()
    return f"[{words} frame]"


def frame_type(name: str) -> FrameType:
    """Describe the frame type that V8 calls `name` (without "Frame")."""
    label, kind = _CODE.get(name, ("", FrameKind.VM_FRAME))
    return FrameType(
        name=name,
        label=label or _label(name),
        kind=kind,
        is_entry=name in {"Entry", "ConstructEntry", "EntryConstruct"},
        is_exit=name.endswith("Exit"),
        has_target=name == "BuiltinExit",
        # ApiCallbackExit since V8 11.9; ApiAccessorExit in 13; ApiConstructExit,
        # ApiNamedAccessorExit and ApiIndexedAccessorExit in 14 (v8dbg_frametype_* of the binaries).
        is_callback=name.startswith("Api") and name.endswith("Exit"),
    )


class FrameDecoder:
    """Cuts the words of V8 frames out of a copied stack and classifies them.

    Attributes:
        lowest: The first byte of a frame that `decode` looks at, relative to fp (negative).
        size: Bytes that `decode` needs from fp + `lowest` on.
        types: Marker word -> what it says.
    """

    __slots__ = ("_at_function", "_exit", "_order", "_unpack", "lowest", "size", "types")

    def __init__(self, layout: FrameLayout) -> None:
        slots = (layout.context, layout.function, layout.bytecode_array, layout.bytecode_offset)
        self.lowest = min(slot for slot in slots if slot is not None)
        self.size = EXIT_TARGET + 8 - self.lowest
        self._unpack = Struct(f"<{self.size // 8}Q").unpack_from
        # A slot that this V8 lacks reads the caller's fp: never tagged, so never an object.
        self._order = [(slot if slot is not None else 0) for slot in slots] + [EXIT_TARGET]
        self._order = [(slot - self.lowest) // 8 for slot in self._order]
        shift = 1 if layout.marker_scheme is MarkerScheme.TYPE_SHL_1 else 32
        self._at_function = layout.marker_scheme is MarkerScheme.SMI_AT_FUNCTION
        self.types = {number << shift: frame_type(name) for number, name in layout.types.items()}
        self._exit = next((n << shift for n, name in layout.types.items() if name == "Exit"), 0)

    def decode(self, stack: bytes, at: int) -> FrameWords:
        """Return the words of the frame whose fp is at `stack[at]`.

        Words outside of `stack` are 0: the leaf end of a stack is its lowest address, so that is
        the state of a frame whose slots have not been pushed yet.
        """
        first = at + self.lowest
        if first >= 0 and first + self.size <= len(stack):
            words = self._unpack(stack, first)
        else:
            before = max(0, -first)
            part = stack[max(0, first) : max(0, first + self.size)]
            words = self._unpack((bytes(before) + part).ljust(self.size, b"\0"), 0)
        marker, function, array, offset, target = self._order
        return self.arrange(
            words[marker], words[function], words[array], words[offset], words[target]
        )

    def arrange(
        self, context: int, function: int, array: int, offset: int, target: int
    ) -> FrameWords:
        """Return the words of a frame, given those at the slots of the plan."""
        marker = self._old_marker(context, function) if self._at_function else context
        return FrameWords(marker, function, array, offset, target)

    def _old_marker(self, context: int, function: int) -> int:
        """Return the marker of a frame of V8 4.6 or earlier, or its context if it has none."""
        if not function & 1:
            return function
        if context == 0 or (not context & 1 and context & 0xFFFF_FFFF):
            # 0 until the stack pointer is known.
            return self._exit
        return context

    def find_type(self, words: FrameWords) -> FrameType | None:
        """Return what the frame's marker says, or None if it is not a marker that this V8 has."""
        found = self.types.get(words.marker)
        if found is None and self._at_function:
            found = self.types.get(words.function)
        return found
