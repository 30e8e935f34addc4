"""What an engine copies out of the target, and the plan that tells it what to copy.

A plan is data: offsets, slots and ranges, made by `jsspy.v8.plan` from the layout of the V8 at
hand. An engine interprets it without knowing what the words mean.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from jsspy.model.units import Address, Tid

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsspy.model.stack import Frame


class Registers(NamedTuple):
    """x86-64 user registers, in the order of the kernel's `struct user_regs_struct`.

    An engine that cannot see a register leaves it 0.
    Source: arch/x86/include/asm/user_64.h, at v6.12.
    """

    r15: int = 0
    r14: int = 0
    r13: int = 0
    r12: int = 0
    rbp: int = 0
    rbx: int = 0
    r11: int = 0
    r10: int = 0
    r9: int = 0
    r8: int = 0
    rax: int = 0
    rcx: int = 0
    rdx: int = 0
    rsi: int = 0
    rdi: int = 0
    orig_rax: int = 0
    rip: int = 0
    cs: int = 0
    eflags: int = 0
    rsp: int = 0
    ss: int = 0
    fs_base: int = 0
    gs_base: int = 0
    ds: int = 0
    es: int = 0
    fs: int = 0
    gs: int = 0


class CapturePlan(NamedTuple):
    """Which words to copy while the target cannot move them. All offsets are in bytes.

    How an engine interprets it, once per thread and sample:

    1. Copy registers, the stack from rsp to the end of its mapping, and the 128 bytes below rsp.
    2. Copy `isolate_size` bytes at (isolate + `isolate_start`) and, where `isolate_size_2` is not
       0, append `isolate_size_2` bytes at (isolate + `isolate_start_2`): older V8 keeps the words
       of one exit frame up to 25 KiB apart. Either window is at most 256 bytes. The copy counts as
       failed (`isolate_words` empty) unless both could be read.
    3. Walk frame pointers through the copied stack, from rbp and from each word of
       `exit_slots` (offsets from the isolate) that points into the stack. A frame's caller is at
       [fp]. Where the word at fp + `marker_slot` is one of `entry_markers`, the words at
       fp + each of `saved_exit_slots` are further places to start from.
    4. Of each frame whose word at fp + `follow_slot` has `tag_mask` bits equal to `tag`, copy
       `follow_size` bytes at (word - tag). Likewise of each register of `follow_registers`.
    """

    isolate_start: int
    isolate_size: int
    exit_slots: tuple[int, ...]
    marker_slot: int
    entry_markers: tuple[int, ...]
    saved_exit_slots: tuple[int, ...]
    follow_slot: int
    follow_size: int
    follow_registers: tuple[str, ...]
    tag: int = 1
    tag_mask: int = 3
    isolate_start_2: int = 0
    isolate_size_2: int = 0
    frame_slots: tuple[int, ...] = ()
    """Relative to fp: marker or context, function, and three words more that say what a frame is,
    in the order of `jsspy.v8.frames.FrameWords`. For engines that walk but do not copy stacks. A
    slot that this V8 lacks is 0."""
    follow_word: int = 0
    """Of an object that is followed: the offset of the word which says what it is."""
    detail_mask: int = 0xFFFF_FFFF
    """The fourth of `frame_slots` tells frames of one function apart if it has none of these."""

    def isolate_slots(self) -> dict[int, int]:
        """Map each of `exit_slots` to its place in the words copied from the isolate."""
        places = {}
        for slot in self.exit_slots:
            place = slot - self.isolate_start
            if not 0 <= place <= self.isolate_size - 8:
                place = self.isolate_size + slot - self.isolate_start_2
            places[slot] = place
        return places


NO_PLAN: Final = CapturePlan(0, 0, (), 0, (), (), 0, 0, ())
"""Of a process without V8: nothing but registers and stack."""


class ThreadPlan(NamedTuple):
    """A thread that runs JavaScript, and where its isolate is."""

    tid: Tid
    isolate: Address
    stack_end: Address
    """One past the highest address of the thread's stack."""


class StackSnapshot(NamedTuple):
    """A copy of a thread that was stopped, or that sleeps: nothing in it can change any more."""

    registers: Registers
    stack_start: Address
    """Address of `stack[0]`: rsp, unless the thread slept (then the lowest address copied)."""
    stack: bytes
    isolate: Address
    isolate_words: bytes
    """The one or two windows of the plan, back to back; empty if they could not be read."""
    followed: dict[int, bytes]
    """Tagged pointer -> `CapturePlan.follow_size` bytes of the object; unreadable ones absent."""
    stack_complete: bool = True
    """False if the stack was larger than the engine's cap: its root end is missing."""
    more: dict[int, bytes] | None = None
    """Address -> bytes: what a `StoppedReader` read; None if there was none."""
    red_zone: bytes = b""
    """What is right below rsp, up to 128 bytes: a function that calls nothing may keep data there.
    (x86-64 psABI, 3.2.2. OpenSSL's SHA-512 keeps there where its caller's frame is.)"""
    late_red_zone: bytes = b""
    """The same, read when the thread ran again: not of the moment of the rest."""
    late_exit_fp: int | None = None
    """Where the isolate said that the newest exit frame is, likewise; None: it was not asked."""


class StoppedReader(Protocol):
    """Reads more of a thread while it stands still, where no plan can say beforehand what.

    For data that is found only by following it, and that moves once the thread runs.
    """

    def read(self, isolate: Address, read: Callable[[int, int], bytes]) -> None:
        """Read what is wanted of the thread that is stopped.

        Args:
            isolate: Of the thread.
            read: Returns `size` bytes at an address, and keeps them in the capture. Raises
                FaultError where it cannot, and once the engine's bounds on the number of reads and
                on the time that the thread may stand still are reached.
        """
        ...


class RawFrame(NamedTuple):
    """One physical frame. Sequences of them are leaf first."""

    pc: Address
    is_return_address: bool
    """Then the instruction that is executing ends at pc: look up pc - 1."""
    fp: Address = Address(0)
    """Frame pointer of the frame; 0 where there is none (native code unwound by CFI)."""
    words: tuple[int, ...] = ()
    """Words around fp, in the order of `jsspy.v8.frames.FrameWords`; empty for native code."""


class FrameChain(NamedTuple):
    """A stack that was walked in the kernel at sample time: V8 frames as rows, the rest raw.

    Equal `rows` and equal pieces beyond the leaf's mean equal stacks beyond the newest frame, as
    long as the functions and the code that they name have not been replaced.
    """

    registers: Registers
    isolate: Address
    isolate_words: bytes
    """As in `StackSnapshot`."""
    stack_end: Address
    rows: bytes
    """`ROW` per frame, leaf first: pc, identity, detail. pc is 0 where it is not known (frames
    that the isolate or an entry frame led to). identity is the marker, or what the function leads
    to (`CapturePlan.follow_word`; 0 if it could not be read). detail is the fourth word if it
    counts, else 0; of frames with a marker it is what the fifth word leads to."""
    slots: bytes
    """`SLOTS` per frame: fp and the words of `CapturePlan.frame_slots`."""
    pieces: tuple[tuple[int, bytes], ...]
    """Copies of the stack, (address, bytes): from rsp to the newest V8 frame at least, then from
    each entry frame to the exit frame that it saved, or to the end of the stack."""
    followed_registers: tuple[int, ...] = ()
    """What each of `CapturePlan.follow_registers` leads to; 0: nothing."""
    complete: bool = True
    """The walk ended at the outermost entry frame."""
    too_deep: bool = False
    """There are more frames than the engine walks."""
    red_zone: bytes = b""
    """As in `StackSnapshot`."""
    key: int = 0
    """If not 0: a `RepeatedChain` may follow that means the very same stack."""


class RepeatedChain(NamedTuple):
    """A stack that was sent before, and was only counted since."""

    key: int
    """Of the `FrameChain`, the last one of its target that had it."""


ROW: Final = Struct("<3Q")
SLOTS: Final = Struct("<6Q")


class ResolvedChain(NamedTuple):
    """A stack that arrived with names (inspector, imported recordings). Leaf first."""

    frames: tuple[Frame, ...]


Capture = StackSnapshot | FrameChain | RepeatedChain | ResolvedChain
