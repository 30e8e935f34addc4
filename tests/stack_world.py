"""A target made of a small binary, a heap and a stack that is laid out by hand.

FUNCTION   address   rules
_start     +0x100    outermost
call       +0x140    CFA = rbx + 16: only right if rbx was restored from the entry frame
runtime    +0x180    CFA = rsp + 8
assembly   +0x1c0    none
leaf       +0x200    CFA = the word at rsp - 8, in the red zone
thread     +0x240    none: it calls, at +0, what a thread runs, and ends the thread
tidy       +0x280    none: it drops a word, restores rbp and returns
builtins   +0x400    JSEntry (pushes its frame at +16), CEntry, Plain (frameless), the
                     interpreter's trampoline (likewise), LdaHandler, DeoptimizationEntry_Eager
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import cast

from builders import LAYOUT, HeapBuilder
from elf_builder import HDR_ADDRESS, TEXT_ADDRESS, TEXT_SIZE, Sym, build
from jsspy.model.capture import Registers, StackSnapshot
from jsspy.model.units import Address
from jsspy.target.elf import ElfFile
from jsspy.target.maps import AddressSpace, Mapping
from jsspy.target.process import Target, V8Binary
from jsspy.unwind.base import CodeMap
from jsspy.unwind.cfi import RBX, RIP, RSP
from jsspy.unwind.hybrid import HybridUnwinder
from jsspy.v8.plan import make_plan
from jsspy.v8.reader import V8Reader

START, CALL, RUNTIME, ASSEMBLY, LEAF, THREAD, TIDY = (
    TEXT_ADDRESS + at for at in (0x100, 0x140, 0x180, 0x1C0, 0x200, 0x240, 0x280)
)
BLOB = (TEXT_ADDRESS + 0x400, TEXT_ADDRESS + 0x800)
ENTRY, EXIT, PLAIN, TRAMPOLINE, HANDLER, DEOPT = (
    BLOB[0] + at for at in (0, 0x40, 0x80, 0xC0, 0x100, 0x140)
)
JIT = 0x7E00_0000
STACK = 0x7FFF_0000
STACK_END = STACK + 0x1000
LAYOUT_HERE = replace(LAYOUT, embedded_blob=BLOB)
ENTRY_MARKER, EXIT_MARKER = 1 << 1, 3 << 1
CONTEXT = 0x5001
CALL_INSTRUCTION = b"\xe8\0\0\0\0"


def entry(body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("<I", len(body)) + body


def make_elf() -> ElfFile:
    """Return the binary that the module docstring draws."""
    at_entry = bytes([0x0C, RSP, 8, 0x80 | RIP, 1])
    code = bytearray(b"\x90" * 0xA00)
    for function in (EXIT, PLAIN, HANDLER, DEOPT):
        code[function - TEXT_ADDRESS + 16 - 5 : function - TEXT_ADDRESS + 16] = CALL_INSTRUCTION
    for function in (CALL, RUNTIME, ENTRY):
        code[function - TEXT_ADDRESS + 4 : function - TEXT_ADDRESS + 9] = CALL_INSTRUCTION
    for function in (ENTRY, TRAMPOLINE):
        at = function - TEXT_ADDRESS + 16
        code[at : at + 4] = b"\x55\x48\x89\xe5"
    thread = b"\x41\xff\xd1\x89\xc7\x31\xc0\xb0\x3c\x0f\x05"
    code[THREAD - TEXT_ADDRESS : THREAD - TEXT_ADDRESS + len(thread)] = thread
    code[TIDY - TEXT_ADDRESS : TIDY - TEXT_ADDRESS + 6] = b"\x48\x83\xc4\x08\x5d\xc3"
    base = TEXT_ADDRESS + len(code)
    frames = bytearray(
        entry(struct.pack("<IB", 0, 1) + b"zR\0" + bytes([1, 0x78, RIP, 1, 0x1B]) + at_entry)
    )
    rows = []
    programs = {
        START: bytes([0x07, RIP]),
        CALL: bytes([0x0C, RBX, 16]),
        RUNTIME: b"",
        LEAF: bytes([0x0F, 3, 0x70 + RSP, 0x78, 0x06]),
    }
    for function, program in programs.items():
        address = base + len(frames)
        rows.append((function, address))
        body = struct.pack("<IiI", len(frames) + 4, function - (address + 8), 0x40)
        frames += entry(body + b"\0" + program)
    hdr = struct.pack("<4BiI", 1, 0x1B, 3, 0x3B, 0, len(rows))
    for function, address in rows:
        hdr += struct.pack("<ii", function - HDR_ADDRESS, address - HDR_ADDRESS)
    symbols = [
        Sym("_start", START, 0x40),
        Sym("call", CALL, 0x40),
        Sym("runtime", RUNTIME, 0x40),
        Sym("Builtins_JSEntry", ENTRY, 0x40),
        Sym("Builtins_CEntry", EXIT, 0x40),
        Sym("Builtins_Plain", PLAIN, 0x40),
        Sym("Builtins_InterpreterEntryTrampoline", TRAMPOLINE, 0x40),
        Sym("Builtins_LdaHandler", HANDLER, 0x40),
        Sym("Builtins_DeoptimizationEntry_Eager", DEOPT, 0x40),
    ]
    return ElfFile("node", build(symbols, text=bytes(code + frames), eh_frame_hdr=hdr))


class FakeTarget:
    """What `CodeMap` asks of a target."""

    pid = ns_pid = 0
    """Of no process."""

    def __init__(self, elf: ElfFile, heap: HeapBuilder) -> None:
        self.memory = heap
        self._elf = elf
        self.mappings = [
            Mapping(
                Address(TEXT_ADDRESS), Address(TEXT_ADDRESS + TEXT_SIZE), "r-xp", 0x1000, 5, "/n"
            ),
            Mapping(Address(JIT), Address(JIT + 0x10000), "rwxp", 0, 0, ""),
            Mapping(Address(STACK), Address(STACK_END), "rw-p", 0, 0, "[stack]"),
        ]
        self.refreshed = 0

    def address_space(self, *, refresh: bool = False) -> AddressSpace:
        self.refreshed += refresh
        return AddressSpace(self.mappings)

    def elf(self, mapping: Mapping) -> ElfFile | None:
        return self._elf if mapping.is_file else None


class World:
    """A target, its unwinder, and one stack that is written from the root down."""

    def __init__(self) -> None:
        self.elf = make_elf()
        self.heap = HeapBuilder(LAYOUT_HERE)
        self.fake = FakeTarget(self.elf, self.heap)
        self.target = cast("Target", self.fake)
        self.v8 = v8 = V8Binary(self.elf, 0)
        self.now = 0.0
        self.code = CodeMap(self.target, v8, LAYOUT_HERE, clock=lambda: self.now)
        self.reader = V8Reader(self.heap, v8, LAYOUT_HERE)
        self.unwinder = HybridUnwinder(self.heap, self.code, self.reader)
        self.words: list[int] = []
        """From STACK_END downwards."""

    @property
    def sp(self) -> int:
        return STACK_END - 8 * len(self.words)

    def push(self, *words: int) -> int:
        """Push words, and return the address of the last one."""
        self.words += words
        return self.sp

    def frame(self, caller_pc: int, caller_fp: int, *slots: int) -> int:
        """Push a V8 frame and return its fp."""
        self.push(caller_pc)
        fp = self.push(caller_fp)
        self.push(*slots)
        return fp

    def entry_frame(self, exit_fp: int = 0, rbx: int = 0) -> int:
        """Push an entry frame called by `call`, with what `call` needs to be unwound."""
        return self.frame(CALL + 9, 0, ENTRY_MARKER, 0, 12, 13, 14, 15, rbx, exit_fp, 0, 0)

    def snapshot(
        self, pc: int, fp: int, c_entry_fp: int = 0, fast: tuple[int, int] = (0, 0)
    ) -> StackSnapshot:
        plan = make_plan(LAYOUT_HERE)
        isolate = bytearray(plan.isolate_size + plan.isolate_size_2)
        layout = LAYOUT_HERE.isolate
        assert layout.fast_c_call_caller_fp is not None
        assert layout.fast_c_call_caller_pc is not None
        for slot, word in (
            (layout.c_entry_fp, c_entry_fp),
            (layout.fast_c_call_caller_fp, fast[0]),
            (layout.fast_c_call_caller_pc, fast[1]),
        ):
            struct.pack_into("<Q", isolate, slot - plan.isolate_start, word)
        return StackSnapshot(
            registers=Registers(rip=pc, rbp=fp, rsp=self.sp),
            stack_start=Address(self.sp),
            stack=struct.pack(f"<{len(self.words)}Q", *reversed(self.words)),
            isolate=Address(0x1000),
            isolate_words=bytes(isolate),
            followed={},
        )


def build_nested(world: World) -> tuple[int, int]:
    """Lay out _start < call < entry < JS < exit; return fp of JS frame and of the exit frame."""
    world.push(0, START + 9)
    rbx = world.sp - 8  # CFA of `call` = rbx + 16: the return address above is at CFA - 8
    entry_fp = world.entry_frame(rbx=rbx)
    js_fp = world.frame(ENTRY + 9, entry_fp, CONTEXT, 0x6001, 1, 0, 0)
    exit_fp = world.frame(HANDLER + 16, js_fp, EXIT_MARKER, 0)
    return js_fp, exit_fp
