"""Unwind a copied stack: native code by its unwind tables, V8's code by frame pointers.

A Node stack alternates between the two (leaf at the top):

    native      memcpy < JsonParser < Builtin_JsonParse       .eh_frame rules
    exit frame  ------------------------------------------    the isolate's c_entry_fp points here
    V8          parse < load < main                           frame pointers
    entry frame ------------------------------------------    holds the c_entry_fp before it
    native      Execution::Call < node::Start < _start        .eh_frame rules again

Each bridge is known twice: unwinding leads to it, and a word of the isolate (or, further up, of the
entry frame) points to it. So where native code cannot be unwound - assembly without tables, a
sleeping thread whose rbp nobody saved - the walk continues at the bridge, and no JavaScript frame
is lost. c_entry_fp is used only from native code: V8 before 9 leaves the old value there while
nested JavaScript runs.

**The newest frame** is the one that may not be complete. If the pc is in V8's code, rbp is one of:
the frame of the function that owns pc; its caller's frame (before `push rbp`, after `pop rbp`, and
in the many builtins that never make a frame); or a frame whose slots have not been pushed. The
first is only assumed when the others have been ruled out, by the instructions at pc and at the
function's start, by rsp, and by comparing the frame's function with the code's. Where a frame is
missing, the return address is on top of the stack: it is accepted if it follows a call. Code that
C++ calls (JSEntry) returns into native code then.

**A function that is being deoptimized** has no frame on the stack for a while: it is in the heap,
rbp points below the caller's part of the stack, which C++ uses already. So the caller's frame is
searched, and both are frames without a place.

Every step must move towards the root; frames are capped by `MAX_FRAMES`, scans by the constants
below.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from jsspy.errors import FaultError
from jsspy.model.capture import RawFrame, StackSnapshot
from jsspy.model.mode import NativeFrames
from jsspy.model.stack import Truncation
from jsspy.model.units import Address, FileAddress, TaggedPtr
from jsspy.target.elf import ElfFile
from jsspy.target.memory import Memory
from jsspy.unwind.base import MAX_FRAMES, CodeArea, CodeMap, Region
from jsspy.unwind.cfi import (
    MAX_CACHED,
    R12,
    R13,
    R14,
    R15,
    RBP,
    RBX,
    RIP,
    RSP,
    VOLATILE_KNOWN,
    CfiTable,
    Step,
    start_registers,
)
from jsspy.unwind.framepointer import StretchEnd, walk_frame_pointers
from jsspy.unwind.returning import Return, find_return
from jsspy.v8.code import (
    CodeObject,
    frame_push_offset,
    return_address_offset,
    returns_after_call,
)
from jsspy.v8.frames import (
    ENTRY_R12,
    ENTRY_R13,
    ENTRY_R14,
    ENTRY_R15,
    ENTRY_RBX,
    FrameWords,
)
from jsspy.v8.layout import CodeKind, MarkerScheme
from jsspy.v8.reader import V8Reader

_FRAMELESS_SCAN_WORDS = 48
"""How far above rsp the return address of a frameless builtin is searched: they spill little."""

_LOST_RBP_SCAN_WORDS = 1 << 13
"""How far a lost rbp is searched: uv__io_poll has 12 KiB of events on the stack."""

_LOST_FRAME_SCAN_WORDS = 1 << 10
"""How far the caller of a function without a frame is searched: what lies between are the caller's
own variables."""

_MAX_CALL_SIZE = 7
"""Bytes of the longest call instruction without prefixes: ff /2 with SIB and disp32."""

_MAX_ROOTS = 256
"""Entry frames whose root end is kept: a thread has a handful, with 5-10 KiB of stack each."""

_ENTRY_SIZE = 128
"""Bytes below an entry frame's fp that hold its slots, with room to spare."""

_PROGRAM_START_SIZE = 48
"""Bytes of `_start`. Source: sysdeps/x86_64/start.S at glibc 2.12 and 2.36: 42 and 38."""

_THREAD_EXIT = b"\x89\xc7\x31\xc0\xb0\x3c\x0f\x05"
"""mov edi, eax; xor eax, eax; mov al, 60; syscall: what a thread's first function returns to.
Source: src/thread/x86_64/clone.s at musl 1.2.3."""

_START_SCAN_WORDS = 64
"""How far above rsp the start of a thread is searched; frames of musl's first functions have 6."""

_HEAD_SIZE = 96
"""Bytes of a function that are searched for `push rbp; mov rbp, rsp`."""

_RETURN_REGISTERS = (10, 8, 2, 1, 3, 11)
"""r10, r8, rcx, rdx, rbx, r11: hold the return address while V8's code drops arguments."""

_LEGACY_HEAD_SIZE = 512
"""The same before V8 7.1: the receiver may be fixed up, and optimized code looked for, in front."""

_FUNCTION_KINDS = frozenset(
    {
        CodeKind.BASELINE,
        CodeKind.MAGLEV,
        CodeKind.TURBOFAN,
        CodeKind.FULL_CODEGEN,
        CodeKind.LEGACY_OPTIMIZED,
    }
)

_WORD = Struct("<Q").unpack_from
_LINK = Struct("<2Q").unpack_from
_RESTORED = (
    (RBX, ENTRY_RBX),
    (R12, ENTRY_R12),
    (R13, ENTRY_R13),
    (R14, ENTRY_R14),
    (R15, ENTRY_R15),
)
_V8 = (Region.GENERATED, Region.BUILTINS)
_FAILURES = {
    Step.NO_RULE: Truncation.NO_UNWIND_INFO,
    Step.UNREADABLE: Truncation.UNREADABLE,
    Step.NO_PROGRESS: Truncation.BROKEN_CHAIN,
}


class _Root(NamedTuple):
    """What is above an entry frame, and what it follows from."""

    generation: int
    tail: bytes
    frames: list[RawFrame]


class HybridUnwinder:
    """Unwinds the threads of one target. One instance per target: it caches by address."""

    def __init__(
        self,
        memory: Memory,
        code: CodeMap,
        v8: V8Reader | None,
        native: NativeFrames = NativeFrames.FULL,
    ) -> None:
        """Prepare to unwind.

        Args:
            memory: Of the target.
            code: What kind of code is where.
            v8: None if nothing of V8 is known.
            native: Which native frames are wanted. Unwinding others is left out where a bridge
                leads past them; where none does they are in the stack.
        """
        self.memory = memory
        self.code = code
        self.v8 = v8
        self.native = native
        self._tables: dict[ElfFile, CfiTable] = {}
        self._returns: dict[tuple[ElfFile, int, bool], Return | None] = {}
        self._roots: dict[int, _Root] = {}
        self.searched = False
        """Whether the last stack's newest frame was told by what lies around rsp, and not only by
        the pc and the frame's own words."""

    def unwind(self, snapshot: StackSnapshot) -> tuple[list[RawFrame], Truncation | None]:
        """Return the physical frames of a thread, leaf first.

        Returns:
            The frames, and why they do not reach the thread's start (None: they do).
        """
        self.searched = False
        return _Walk(self, snapshot).run()

    def unwind_above(
        self, snapshot: StackSnapshot, fp: int
    ) -> tuple[list[RawFrame], Truncation | None]:
        """Return the frames above an entry frame at `fp`; the registers do not count.

        A copy that ends with the exit frame that the entry frame saved gives the frames up to it.
        """
        frames, truncation = _Walk(self, snapshot).run_above(fp)
        return frames[1:], truncation

    def table(self, elf: ElfFile) -> CfiTable:
        """Return the unwind rules of a file."""
        table = self._tables.get(elf)
        if table is None:
            table = self._tables[elf] = elf.derive(CfiTable)
        return table

    def find_return(self, elf: ElfFile, address: int, *, is_return: bool) -> Return | None:
        """Return how the function that contains `address` returns from there, by its code."""
        key = elf, address, is_return
        if key not in self._returns:
            if len(self._returns) >= MAX_CACHED:
                self._returns.clear()
            self._returns[key] = find_return(
                lambda at, size: elf.read(FileAddress(at), size), address, is_after_call=is_return
            )
        return self._returns[key]

    def has_root(self, fp: int) -> bool:
        """Say whether frames above an entry frame at `fp` are kept; they may not hold any more."""
        return fp in self._roots

    def known_root(self, fp: int, tail: bytes) -> list[RawFrame] | None:
        """Return the frames above the entry frame at `fp` if they were unwound before.

        The walk from an entry frame on is a function of the bytes from its lowest slot to the end
        of the stack, of the files that are mapped and of nothing else: registers and the next
        bridge are taken from the frame's own slots. So equal bytes mean equal frames.

        Args:
            fp: Of the entry frame.
            tail: The stack from the lowest slot of that frame on.
        """
        root = self._roots.get(fp)
        if root is None or root.generation != self.code.generation or root.tail != tail:
            return None
        return root.frames

    def remember_root(self, fp: int, tail: bytes, frames: list[RawFrame]) -> None:
        """Keep the frames above the entry frame at `fp`, which reach the thread's start."""
        if len(self._roots) >= _MAX_ROOTS:
            self._roots.clear()
        self._roots[fp] = _Root(self.code.generation, tail, frames)

    def is_return_address(self, address: int, regions: tuple[Region, ...] = _V8) -> bool:
        """Say whether `address` is behind a call, in code of some kinds: V8's."""
        area = self.code.find(address)
        if area.region not in regions or area.mapping is None:
            return False
        try:
            if area.elf is not None:
                code = area.elf.read(FileAddress(address - area.bias - _MAX_CALL_SIZE), 7)
            else:
                code = self.memory.read(Address(address - _MAX_CALL_SIZE), _MAX_CALL_SIZE)
        except FaultError:
            return False
        return returns_after_call(code)


class _Walk:
    """One stack on its way from leaf to root."""

    __slots__ = (
        "_exit_fp",
        "_exit_pc",
        "_frames",
        "_is_return",
        "_passed",
        "_registers",
        "_root_fp",
        "_root_index",
        "_snapshot",
        "_stack",
        "_start",
        "_unwinder",
    )

    def __init__(self, unwinder: HybridUnwinder, snapshot: StackSnapshot) -> None:
        self._unwinder = unwinder
        self._snapshot = snapshot
        self._frames: list[RawFrame] = []
        self._stack = snapshot.stack
        self._start: int = snapshot.stack_start
        self._registers = start_registers(snapshot.registers)
        self._is_return = False
        self._exit_fp = 0
        self._passed = -1
        """How many frames there were when unwinding native code went past the next bridge."""
        self._root_fp = 0
        self._root_index = -1
        """The last entry frame that was crossed, and how many frames there were then."""
        self._exit_pc = 0
        """The next bridge towards the root: fp and, of a fast call, pc of its V8 side."""
        v8 = unwinder.v8
        if v8 is not None:
            isolate = v8.layout.isolate
            # A C function called straight from JavaScript code is always the newest, if set.
            self._exit_fp = v8.isolate_word(snapshot, isolate.fast_c_call_caller_fp)
            if self._exit_fp:
                self._exit_pc = v8.isolate_word(snapshot, isolate.fast_c_call_caller_pc)
            else:
                self._exit_fp = v8.isolate_word(snapshot, isolate.c_entry_fp)
                if isolate.handler is not None:
                    # Entering JavaScript does not clear it, but puts a try handler below it.
                    handler = v8.isolate_word(snapshot, isolate.handler)
                    self._exit_fp = self._exit_fp if self._exit_fp < handler else 0
            if self._exit_fp <= snapshot.registers.rsp:
                self._exit_fp = 0

    def run(self) -> tuple[list[RawFrame], Truncation | None]:
        """Walk to the root, or as far as it goes."""
        v8 = self._unwinder.v8
        area = self._unwinder.code.find(self._registers[RIP])
        in_v8 = area.region in _V8
        if in_v8 and v8 is not None:
            self._repair_leaf(v8, area)
            in_v8 = self._unwinder.code.find(self._registers[RIP]).region is not Region.NATIVE
        elif (
            v8 is not None
            and self._unwinder.native is NativeFrames.OFF
            and self._snapshot.isolate_words
        ):
            in_v8 = self._resume_at_exit()
            if not in_v8 and not v8.isolate_word(self._snapshot, v8.layout.isolate.js_entry_sp):
                return [], None
        return self._run(in_v8=in_v8)

    def run_above(self, fp: int) -> tuple[list[RawFrame], Truncation | None]:
        """Walk from a V8 frame on."""
        self._exit_fp = self._exit_pc = 0
        self._registers[RBP], self._registers[RIP] = fp, 0
        self._is_return = True
        return self._run(in_v8=True)

    def _run(self, *, in_v8: bool) -> tuple[list[RawFrame], Truncation | None]:
        while True:
            if in_v8:
                truncation = self._walk_v8()
                if truncation is None and self._unwinder.native is not NativeFrames.FULL:
                    if self._resume_at_exit():
                        continue
                    if self._root_index == len(self._frames):
                        return self._frames, None
                if self._root_index == len(self._frames) and self._take_known_root():
                    return self._frames, None
            else:
                truncation, ended = self._walk_native()
                if ended:
                    self._remember_root()
                    return self._frames, None
                if truncation is None and not self._enter_v8():
                    truncation = Truncation.BROKEN_CHAIN
            in_v8 = not in_v8
            if truncation is not None:
                if truncation is Truncation.TOO_DEEP:
                    break
                if not self._resume_at_exit() and not (in_v8 and self._resume_at_only_exit()):
                    break
                in_v8 = True
        if truncation is Truncation.UNREADABLE and not self._snapshot.stack_complete:
            truncation = Truncation.STACK_TOO_LARGE
        return self._frames, truncation

    def _word(self, address: int) -> int | None:
        at = address - self._start
        if address & 7 or not 0 <= at <= len(self._stack) - 8:
            return None
        word: int = _WORD(self._stack, at)[0]
        return word

    # Native code

    def _walk_native(self) -> tuple[Truncation | None, bool]:
        """Unwind native frames until V8's code or the end.

        Returns:
            Why it stopped before either, and whether the walk is over: the outermost frame.
        """
        truncation, ended = self._unwind_native()
        passed = self._passed
        if passed < 0:
            return truncation, ended
        self._passed = -1
        if truncation is None and not ended and self._is_deoptimizing(self._registers[RIP]):
            # The bridge is the frame that was taken off the stack.
            self._exit_fp = self._exit_pc = 0
            return None, False
        # Past the bridge without having met it: what led there was wrong.
        del self._frames[passed:]
        return Truncation.BROKEN_CHAIN, False

    def _unwind_native(self) -> tuple[Truncation | None, bool]:
        frames, registers, unwinder = self._frames, self._registers, self._unwinder
        find = unwinder.code.find
        stack, start = self._stack, self._start
        if not frames and not self._is_return:
            # Only the leaf may have something of its frame there.
            red_zone = self._snapshot.red_zone
            stack, start = red_zone + stack, start - len(red_zone)
        while len(frames) < MAX_FRAMES:
            pc = registers[RIP]
            area = find(pc)
            if area.region is not Region.NATIVE:
                return (None if area.region in _V8 else Truncation.BROKEN_CHAIN), False
            is_return = self._is_return
            frames.append(RawFrame(Address(pc), is_return))
            step = Step.NO_RULE
            if area.elf is not None:
                step = unwinder.table(area.elf).step(
                    pc - area.bias - is_return, registers, stack, start
                )
                if step is Step.UNREADABLE and len(frames) == 1 and not is_return:
                    step = self._step_late(area.elf, pc - area.bias)
            if step is not Step.CALLER:
                if step is Step.END or self._is_start(area, pc, is_return=is_return):
                    return None, True
                is_known = step is Step.INTERRUPTED or (
                    step is Step.NO_RULE and (self._step_to_start() or self._return_from(area, pc))
                )
                if not is_known and not self._guess_caller(area, pc, step):
                    return _FAILURES[step], False
            self._is_return = step is not Step.INTERRUPTED
            if self._exit_fp and registers[RSP] > self._exit_fp + 16 and self._passed < 0:
                self._passed = len(frames)
        return Truncation.TOO_DEEP, False

    def _step_late(self, elf: ElfFile, pc: int) -> Step:
        """Step out of the leaf by what was below rsp a moment later.

        What is there may belong to another function by now. It is believed if it leads to a slot
        of the copied stack that holds a return address: only the leaf's own word does.
        """
        late = self._snapshot.late_red_zone
        if not late:
            return Step.UNREADABLE
        registers = self._registers
        before = registers[:]
        stack, start = late + self._stack, self._start - len(late)
        step = self._unwinder.table(elf).step(pc, registers, stack, start)
        called = step is Step.CALLER and self._unwinder.is_return_address(
            registers[RIP], (Region.NATIVE,)
        )
        if not called:
            registers[:] = before
            return Step.UNREADABLE
        return step

    def _is_start(self, area: CodeArea, pc: int, *, is_return: bool) -> bool:
        """Whether this is where a thread begins, so that nothing called it.

        That is where the kernel or the dynamic linker jumped to, which calls main; C libraries
        before glibc 2.18 have no unwind rules there that say so, and old releases of Node were
        linked with one. And where musl's threads begin, which has no rules at all.
        """
        elf = area.elf
        if elf is None:
            return False
        address = pc - area.bias
        if 0 <= address - is_return - elf.entry < _PROGRAM_START_SIZE:
            return True
        try:
            return is_return and elf.read(FileAddress(address), 8) == _THREAD_EXIT
        except FaultError:
            return False

    def _step_to_start(self) -> bool:
        """Step out of a function without rules if the thread's start called it; say whether.

        Its return address is on the stack. So if the first word that can be one leads to where the
        thread began, there is no frame between.
        """
        registers = self._registers
        regions = (*_V8, Region.NATIVE)
        for at in range(registers[RSP], registers[RSP] + 8 * _START_SCAN_WORDS, 8):
            word = self._word(at)
            if word is None:
                return False
            if self._unwinder.is_return_address(word, regions):
                area = self._unwinder.code.find(word)
                if not self._is_start(area, word, is_return=True):
                    return False
                registers[RSP], registers[RIP] = at + 8, word
                registers[VOLATILE_KNOWN] = 0
                return True
        return False

    def _return_from(self, area: CodeArea, pc: int) -> bool:
        """Step out of a function without rules as its own instructions do; say whether."""
        if area.elf is None:
            return False
        found = self._unwinder.find_return(area.elf, pc - area.bias, is_return=self._is_return)
        if found is None:
            return False
        registers = self._registers
        stack_pointer = registers[RSP]
        address = self._word(stack_pointer + found.offset)
        # Wrong only if it ends in a call that never returns, which compilers know and we do not.
        if not address or not self._unwinder.is_return_address(address, (*_V8, Region.NATIVE)):
            return False
        for register, offset in found.saved:
            registers[register] = self._word(stack_pointer + offset) or 0
        registers[RSP], registers[RIP] = stack_pointer + found.offset + 8, address
        registers[VOLATILE_KNOWN] = 0
        return True

    def _guess_caller(self, area: CodeArea, pc: int, step: Step) -> bool:
        """Step to the caller where the rules do not help; say whether that worked.

        Hand-written assembly without rules keeps rbp as a frame pointer (V8's
        PushAllRegistersAndIterateStack) or leaves it alone, or uses it for data: what rbp points at
        must look like a frame. Of a sleeping thread rbp is not known at all: it is searched. A leaf
        that has not touched the stack has its return address on top.
        """
        registers = self._registers
        if step is Step.NO_RULE and not self._is_return:
            top = self._word(registers[RSP])
            if top and self._unwinder.is_return_address(top, (Region.NATIVE,)):
                registers[RSP] += 8
                registers[RIP] = top
                registers[VOLATILE_KNOWN] = 0
                return True
        if step is not Step.NO_RULE and area.elf is not None and not self._snapshot.registers.rbp:
            found = self._find_lost_rbp(area, pc)
            if found is None:
                return False
            registers[RBP] = found
            table = self._unwinder.table(area.elf)
            again = table.step(
                pc - area.bias - self._is_return, registers, self._stack, self._start
            )
            return again is Step.CALLER
        fp = registers[RBP]
        caller_fp, caller_pc = self._word(fp), self._word(fp + 8)
        if fp < registers[RSP] or caller_fp is None or caller_pc is None:
            return False
        if self._exit_fp and fp > self._exit_fp:
            return False
        if caller_fp and caller_fp <= fp:
            return False
        if not self._is_code(caller_pc):
            return False
        registers[RBP], registers[RSP], registers[RIP] = caller_fp, fp + 16, caller_pc
        registers[VOLATILE_KNOWN] = 0
        return True

    def _is_code(self, pc: int) -> bool:
        """Whether `pc` is in memory that code runs in, as far as is known."""
        area = self._unwinder.code.find(pc)
        return area.mapping is not None and (
            area.region in (Region.NATIVE, Region.BUILTINS)
            or (area.region is Region.GENERATED and area.mapping.is_executable)
        )

    def _find_lost_rbp(self, area: CodeArea, pc: int) -> int | None:
        """Search the stack for the frame of the native function that contains `pc`.

        Its frame is the first pair (saved rbp, return address) above rsp whose return address
        follows a direct call of this very function.
        """
        elf = area.elf
        if elf is None:
            return None
        function = self._unwinder.table(elf).function_start(pc - area.bias - self._is_return)
        if function is None:
            return None
        first = max(self._registers[RSP] - self._start, 0)
        last = min(len(self._stack) - 16, first + 8 * _LOST_RBP_SCAN_WORDS)
        if self._exit_fp:
            last = min(last, self._exit_fp - self._start)
        for at in range(first, last + 1, 8):
            address = _WORD(self._stack, at + 8)[0]
            if not area.start <= address < area.end:
                continue
            try:
                call = elf.read(FileAddress(address - area.bias - 5), 5)
            except FaultError:
                continue
            if call[0] == 0xE8:
                distance = int.from_bytes(call[1:], "little", signed=True)
                if address - area.bias + distance == function:
                    return self._start + at
        return None

    # Bridges

    def _resume_at_exit(self) -> bool:
        """Continue at the bridge that is next towards the root; say whether there is one."""
        fp = self._exit_fp
        if not fp or self._word(fp) is None:
            return False
        registers = self._registers
        # The pc of an exit frame, somewhere in CEntry, is not kept anywhere: 0.
        registers[RBP], registers[RSP], registers[RIP] = fp, fp, self._exit_pc
        self._is_return = True
        self._exit_fp = self._exit_pc = 0
        return True

    def _resume_at_only_exit(self) -> bool:
        """Continue at the newest exit frame where it is not known, if there is but one.

        What looks like a frame may be left over from a call that has returned. So it has to be the
        only one from which frames lead to the entry frame, and that the outermost.
        """
        v8, snapshot = self._unwinder.v8, self._snapshot
        if v8 is None or snapshot.late_exit_fp is None or self._root_index >= 0:
            return False
        types, start = v8.decoder.types, self._start
        exits = {number for number, kind in types.items() if kind.is_exit}
        words = memoryview(self._stack[: len(self._stack) & ~7]).cast("Q")
        found = above = 0
        for index, word in enumerate(words):
            fp = start + 8 * index + 8
            if above and fp >= above:
                break
            if word in exits and self._is_exit(v8, fp):
                entry = self._find_outermost_entry(v8, fp)
                if entry and found:
                    return False
                if entry:
                    found, above = fp, entry
        if not above:
            return False
        registers = self._registers
        registers[RBP], registers[RSP], registers[RIP] = found, found, 0
        self._is_return = True
        return True

    def _find_outermost_entry(self, v8: V8Reader, fp: int) -> int:
        """Return the entry frame on the chain from `fp`; 0 if there is none, or others above it."""
        types = v8.decoder.types
        for _ in range(MAX_FRAMES):
            kind = types.get(self._word(fp - 8) or 0)
            if kind is not None and kind.is_entry:
                saved = self._word(fp + v8.layout.frame.entry_saved_c_entry_fp)
                return 0 if saved else fp
            caller = self._word(fp)
            if caller is None or caller <= fp:
                return 0
            fp = caller
        return 0

    def _is_exit(self, v8: V8Reader, fp: int) -> bool:
        """Say whether an exit frame seems to be at `fp`, with a C function called from it.

        The stack pointer at the call is below the marker, and below that the return address.
        Source: `ExitFrameConstants` in src/execution/x64/frame-constants-x64.h, at 7.8.279 and
        13.6.233.
        """
        if v8.layout.frame.marker_scheme is not MarkerScheme.TYPE_SHL_1:
            return False
        kind = v8.decoder.types.get(self._word(fp - 8) or 0)
        if kind is None or not kind.is_exit:
            return False
        sp = self._word(fp - 16) or 0
        called, caller = self._word(sp - 8) or 0, self._word(fp + 8) or 0
        is_return_address = self._unwinder.is_return_address
        return sp < fp and is_return_address(called) and is_return_address(caller)

    def _enter_v8(self) -> bool:
        """Say whether rbp is a V8 frame, now that unwinding has led into V8's code."""
        registers = self._registers
        fp = registers[RBP]
        if fp < registers[RSP] and self._is_deoptimizing(registers[RIP]):
            if fp == self._exit_fp:
                self._exit_fp = self._exit_pc = 0
            return self._leave_deoptimized()
        if self._exit_fp:
            if fp == self._exit_fp:
                if self._exit_pc:
                    self._enter_builtin()
                self._exit_fp = self._exit_pc = 0
                return True
            if fp > self._exit_fp:
                return False
            # A C function that V8's code called without leaving a note; the bridge is further up.
        if self._word(fp) is None or not self._is_code(registers[RIP]):
            return False
        self._enter_builtin()
        return True

    def _is_deoptimizing(self, pc: int) -> bool:
        """Whether a return address is in the code that replaces frames."""
        v8 = self._unwinder.v8
        area = self._unwinder.code.find(pc)
        if v8 is None or area.region is not Region.BUILTINS:
            # Before V8 8.8 that code is made at run time, and nothing marks it.
            is_lost = self._exit_fp in (0, self._registers[RBP])
            return area.region is Region.GENERATED and is_lost
        builtin = v8.builtins.find(pc - area.bias - 1)
        return builtin is not None and builtin.name.startswith("Deoptimization")

    def _leave_deoptimized(self) -> bool:
        """Go on to the caller of a function whose frame has been taken off the stack.

        Source: `Generate_DeoptimizationEntry` in src/builtins/x64/builtins-x64.cc, at 7.8.279 and
        13.6.233: the frame is moved into a `FrameDescription`, then C++ makes new ones.
        """
        registers = self._registers
        is_return_address = self._unwinder.is_return_address
        first = registers[RSP] - self._start
        last = min(first + 8 * _LOST_FRAME_SCAN_WORDS, len(self._stack) - 15)
        for at in range(first, last, 8):
            caller_fp, caller_pc = _LINK(self._stack, at)
            fp = self._start + at
            if not fp < caller_fp or self._word(caller_fp) is None:
                continue
            if not is_return_address(caller_pc, (*_V8, Region.NATIVE)):
                continue
            if self._unwinder.code.find(registers[RIP]).region is Region.BUILTINS:
                self._frames.append(RawFrame(Address(registers[RIP]), is_return_address=True))
            lost = FrameWords(0, 0, 0, 0, 0)
            self._frames.append(RawFrame(Address(0), is_return_address=True, words=lost))
            registers[RBP], registers[RSP], registers[RIP] = fp, fp, 0
            self._is_return = True
            return True
        return False

    def _enter_builtin(self) -> None:
        """Where a builtin without a frame called C, go on to the code that called the builtin."""
        v8, pc = self._unwinder.v8, self._registers[RIP]
        area = self._unwinder.code.find(pc)
        if v8 is not None and v8.layout.code.legacy is not None:
            code = self._find_code(v8, pc)
            if code is not None and code.kind is CodeKind.OTHER:
                self._leave_stub(v8)
            return
        if v8 is None or area.region is not Region.BUILTINS:
            return
        builtin = v8.builtins.find(pc - area.bias - 1)
        frame = RawFrame(Address(pc), is_return_address=True)
        if builtin is None or builtin.runs_on_interpreter_frame:
            return
        words = self._words_at(v8, self._registers[RBP])
        if v8.decoder.find_type(words) is None and not self._is_builtin_function(v8, words):
            self._frames.append(frame)
            self._find_caller_in_generated(v8, words)

    def _tail(self, fp: int) -> bytes:
        return self._stack[max(fp - _ENTRY_SIZE - self._start, 0) :]

    def _take_known_root(self) -> bool:
        """Finish the walk at an entry frame above which all is as it was in an earlier sample."""
        unwinder, fp = self._unwinder, self._root_fp
        if not unwinder.has_root(fp):
            return False
        frames = unwinder.known_root(fp, self._tail(fp))
        if frames is None:
            return False
        self._frames += frames
        return True

    def _remember_root(self) -> None:
        if self._root_fp:
            frames = self._frames[self._root_index :]
            self._unwinder.remember_root(self._root_fp, self._tail(self._root_fp), frames)

    # V8's code

    def _walk_v8(self) -> Truncation | None:
        """Walk V8 frames from rbp on, to native code; return why it did not get there."""
        registers = self._registers
        v8 = self._unwinder.v8
        stretch = walk_frame_pointers(
            self._frames,
            self._unwinder.code,
            v8.decoder if v8 is not None else None,
            self._stack,
            self._start,
            (registers[RBP], registers[RIP], self._is_return),
        )
        if stretch.end is StretchEnd.BROKEN:
            return stretch.truncation
        registers[RBP], registers[RIP] = stretch.caller_fp, stretch.caller_pc
        registers[RSP] = stretch.fp + 16
        registers[VOLATILE_KNOWN] = 0
        self._is_return = True
        if stretch.end is StretchEnd.ENTRY and v8 is not None:
            self._cross_entry(v8, stretch.fp)
        return None

    def _cross_entry(self, v8: V8Reader, fp: int) -> None:
        """Take from an entry frame what C++ gets back, and the bridge that was current then.

        What has not been pushed yet, or has been popped again, is still in place.
        """
        self._root_fp, self._root_index = fp, len(self._frames)
        for register, slot in _RESTORED:
            word = self._word(fp + slot)
            if word is not None:
                self._registers[register] = word
        layout = v8.layout.frame
        saved = self._word(fp + layout.entry_saved_c_entry_fp)
        if saved is None:
            return
        exit_fp = saved
        exit_pc = 0
        if not exit_fp and layout.entry_saved_fast_c_call_fp is not None:
            exit_fp = self._word(fp + layout.entry_saved_fast_c_call_fp) or 0
            if exit_fp and layout.entry_saved_fast_c_call_pc is not None:
                exit_pc = self._word(fp + layout.entry_saved_fast_c_call_pc) or 0
        self._exit_fp = exit_fp if exit_fp > fp else 0
        self._exit_pc = exit_pc if self._exit_fp else 0

    # The newest frame

    def _repair_leaf(self, v8: V8Reader, area: CodeArea) -> None:
        """Append what stands at pc without a complete frame; leave rbp and rip at the newest one.

        In every case rbp is a frame of V8's: rbp is callee-saved in its code only as a frame
        pointer.
        """
        if area.region is Region.BUILTINS:
            self._repair_builtin(v8, area)
        elif v8.layout.code.legacy is not None:
            self._repair_legacy(v8)
        else:
            self._repair_generated(v8)

    def _repair_generated(self, v8: V8Reader) -> None:
        registers = self._registers
        pc = registers[RIP]
        code = self._find_code(v8, pc)
        if code is not None and pc in code.leaves:
            missing = code.leaves[pc]
        else:
            missing = self._find_missing_frame(pc, code)
        if missing is not None:
            self._skip_frameless(pc, missing)
        elif not self._has_all_slots():
            self._skip_incomplete(v8)
        elif not self._is_frame_of(v8, code):
            # The frame has been popped, or the words that were compared are out of date: believed
            # only if the return address is where it must be then.
            self._skip_frameless(pc, 0, certain=False)

    def _repair_legacy(self, v8: V8Reader) -> None:
        """As `_repair_generated`, for V8 before 7.1.

        Its builtins and stubs are generated code too, without names; and little of its code says
        whose it is. So a function is named only if it is in rdi and entered through the very code
        that contains pc. (At a `ret` the function that has popped its frame is seldom known.)
        """
        registers = self._registers
        pc = registers[RIP]
        code = self._find_code(v8, pc)
        if code is None:
            return
        head, here = self._unwinder.memory.read_many([(code.start, _LEGACY_HEAD_SIZE), (pc - 1, 5)])
        pushed = frame_push_offset(head) if head is not None else None
        missing = return_address_offset(here[:1], here[1:]) if here is not None else None
        if pushed is not None and pc - code.start <= pushed:
            missing = 0
        is_function = code.kind in _FUNCTION_KINDS
        is_leaving = here is not None and here[1:2] in (b"\xc3", b"\xc2")
        entered = v8.entry_of(self._snapshot.registers.rdi, self._snapshot.followed)
        is_named = entered == code.start and (is_function or not is_leaving)
        own = pc if is_named else 0
        if missing is None and not self._has_all_slots():
            self._skip_incomplete(v8, names_function=is_named)
        elif missing is not None and (is_function or is_named):
            self._skip_frameless(own, missing)
        elif is_function:
            if not self._is_frame_of(v8, code):
                self._skip_frameless(own, 0, certain=False)
        elif code.kind is CodeKind.OTHER:
            self._leave_stub(v8, certain=missing is not None)

    def _find_missing_frame(self, pc: int, code: CodeObject | None) -> int | None:
        """Return where above rsp the return address is if no frame is there at `pc`; else None."""
        start = code.start if code is not None else pc
        head, here = self._unwinder.memory.read_many([(start, _HEAD_SIZE), (pc - 1, 5)])
        missing = return_address_offset(here[:1], here[1:]) if here is not None else None
        if code is None or head is None:
            return missing
        pushed = frame_push_offset(head)
        if pushed is not None and pc - start <= pushed:
            missing = 0
        code.leaves[pc] = missing
        return missing

    def _leave_stub(self, v8: V8Reader, *, certain: bool = False) -> None:
        """Go on to what called a stub or builtin of V8 before 7.1 that has no frame of its own.

        It has none if the frame at rbp is one of a function that is not V8's: where in that
        function it was called from says more than the stub.
        """
        words = self._words_at(v8, self._registers[RBP])
        is_own = v8.decoder.find_type(words) is not None or self._is_builtin_function(v8, words)
        if certain or not is_own:
            self._find_caller_in_generated(v8, words)

    def _repair_builtin(self, v8: V8Reader, area: CodeArea) -> None:
        registers = self._registers
        pc = registers[RIP]
        if registers[RBP] < registers[RSP] and self._is_deoptimizing(pc + 1):
            self._exit_fp = self._exit_pc = 0
            if self._leave_deoptimized():
                return
        address = pc - area.bias
        builtin = v8.builtins.find(address)
        self._frames.append(RawFrame(Address(pc), is_return_address=False))
        pushed = v8.builtins.frame_push(builtin) if builtin is not None else None
        missing = v8.builtins.return_address_offset(address)
        if pushed is not None and address <= pushed:
            missing = 0
        if missing is not None:
            self._skip_frameless(0, missing)
            return
        if not self._has_all_slots():
            self._skip_incomplete(
                v8, names_function=builtin is not None and builtin.enters_function
            )
            return
        if builtin is not None and builtin.runs_on_interpreter_frame:
            return
        words = self._words_at(v8, registers[RBP])
        if v8.decoder.find_type(words) is None and not self._is_builtin_function(v8, words):
            # A JavaScript frame that is not the builtin's own: a builtin without a frame, called
            # from it. From optimized code the return address is what says where.
            self._find_caller_in_generated(v8, words)

    def _skip_frameless(self, pc: int, missing: int, *, certain: bool = True) -> None:
        """Go to the caller of code that has no frame; rbp is its caller's already.

        Args:
            pc: Of that code, if it is a function of its own; 0 if it is named already.
            missing: Where above rsp the return address should be.
            certain: Else do nothing where no return address is found.
        """
        registers = self._registers
        self._unwinder.searched = True
        stack_pointer = registers[RSP]
        candidates = [self._word(stack_pointer + at) or 0 for at in (missing, 8 - missing)]
        # While the arguments are dropped, the return address is in a register.
        candidates += [registers[number] for number in _RETURN_REGISTERS]
        is_return_address = self._unwinder.is_return_address
        found = next((word for word in candidates if word and is_return_address(word)), 0)
        if not found and certain and is_return_address(candidates[0], (Region.NATIVE,)):
            # C++ called this code.
            found = candidates[0]
            registers[RSP] += missing + 8
        if not found and not certain:
            return
        if pc:
            snapshot = self._snapshot.registers
            # Only baseline code needs to be told its function: at entry it is in rdi.
            words = FrameWords(0, snapshot.rdi, 0, 0, 0)
            self._frames.append(RawFrame(Address(pc), is_return_address=False, words=words))
        registers[RIP] = found
        self._is_return = True

    def _skip_incomplete(self, v8: V8Reader, *, names_function: bool = True) -> None:
        """Go to the caller of a frame whose slots have not been pushed.

        Args:
            v8: The readers.
            names_function: rdi holds the function that is being entered.
        """
        self._unwinder.searched = True
        registers = self._registers
        fp = registers[RBP]
        if registers[RSP] <= fp - 8 and v8.decoder.find_type(self._words_at(v8, fp)) is not None:
            return
        caller_fp, caller_pc = self._word(fp), self._word(fp + 8)
        if caller_fp is None or caller_pc is None:
            return
        if names_function:
            words = FrameWords(0, self._snapshot.registers.rdi, 0, 0, 0)
            pc = Address(registers[RIP])
            self._frames.append(RawFrame(pc, is_return_address=False, words=words))
        registers[RBP], registers[RSP], registers[RIP] = caller_fp, fp + 16, caller_pc
        self._is_return = True

    def _find_caller_in_generated(self, v8: V8Reader, words: FrameWords) -> None:
        """Find the return address of a frameless builtin in the JIT code that called it.

        It is between rsp and the frame; while a builtin shuffles the stack it is in a register.
        """
        self._unwinder.searched = True
        registers = self._registers
        first = max(registers[RSP] - self._start, 0)
        last = min(
            registers[RBP] - 16 - self._start,
            first + 8 * _FRAMELESS_SCAN_WORDS,
            len(self._stack) - 7,
        )
        candidates = [_WORD(self._stack, at)[0] for at in range(first, last, 8)]
        if not self._is_return:
            candidates += [registers[number] for number in _RETURN_REGISTERS]
        find = self._unwinder.code.find
        for word in candidates:
            if find(word).region is not Region.GENERATED or not self._is_code(word):
                continue
            if not self._unwinder.is_return_address(word):
                continue
            code = self._find_code(v8, word)
            if code is not None and self._matches(v8, code, word, words):
                registers[RIP] = word
                self._is_return = True
                if code.kind in _FUNCTION_KINDS:
                    return
                # A stub that a stub was called from; or the interpreter, and then no more is found.

    def _has_all_slots(self) -> bool:
        """Whether rsp leaves room for marker or context and function of the frame at rbp."""
        return self._registers[RBP] - self._registers[RSP] >= 16

    def _words_at(self, v8: V8Reader, fp: int) -> FrameWords:
        return v8.decoder.decode(self._stack, fp - self._start)

    def _is_builtin_function(self, v8: V8Reader, words: FrameWords) -> bool:
        shared = v8.functions.read_shared(
            TaggedPtr(v8.shared_of(words.function, self._snapshot.followed))
        )
        return shared is not None and shared.builtin

    def _find_code(self, v8: V8Reader, pc: int) -> CodeObject | None:
        area = self._unwinder.code.find(pc)
        if area.region is not Region.GENERATED or area.mapping is None:
            return None
        return v8.codes.find_code(pc, area.mapping)

    def _is_frame_of(self, v8: V8Reader, code: CodeObject | None) -> bool:
        """Whether the frame at rbp can be the one of the code at pc."""
        if code is None:
            return True
        return self._matches(
            v8, code, self._registers[RIP], self._words_at(v8, self._registers[RBP])
        )

    def _matches(self, v8: V8Reader, code: CodeObject, pc: int, words: FrameWords) -> bool:
        """Whether a frame with these words can be one of `code`."""
        if code.kind not in _FUNCTION_KINDS:
            return True
        if v8.decoder.find_type(words) is not None:
            return False
        shared = v8.shared_of(words.function, self._snapshot.followed)
        if code.kind is CodeKind.FULL_CODEGEN:
            return v8.is_unoptimized_code_of(code, shared)
        if code.kind is CodeKind.BASELINE:
            array = v8.bytecode_array_of(code)
            return array is None or words.bytecode_array == array
        places = v8.codes.positions(code, pc, is_return_address=False)
        return not shared or not places or places[-1].shared in (0, shared)
