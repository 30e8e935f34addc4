"""Where a function without unwind rules has its return address: follow it to its return.

musl is built without rules, and so is some assembly. But a function has to know itself how to get
back: from any of its instructions on, every way to its `ret` undoes what was done to the stack. So
the instructions are followed, calls are stepped over, of branches both sides are taken, and all
ways must come out at the same word. A way that ends at the begin of another function, behind a call
that never returns, says nothing.

Only what compilers do with rsp is understood: push, pop, add, sub, lea. With anything else done to
it there is no answer.

Source: Intel SDM volume 2, chapters 2 and 3 and the opcode map in appendix A.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jsspy.errors import FaultError
from jsspy.unwind.cfi import R12, R13, R14, R15, RBP, RBX

ReadCode = Callable[[int, int], bytes]
"""(address, size) -> bytes; FaultError."""

MAX_INSTRUCTIONS = 2000
"""Followed for one answer; functions of musl have 20 to 300."""

_LONGEST = 15
_WINDOW = 256
_SAVED = {3: RBX, 5: RBP, 12: R12, 13: R13, 14: R14, 15: R15}
"""Callee-saved registers: number in instructions -> number in unwind rules."""

_PREFIXES = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\xf0\xf2\xf3")
_RSP = 4


def _opcodes(*spans: tuple[int, int]) -> frozenset[int]:
    return frozenset(code for first, last in spans for code in range(first, last + 1))


_ARITHMETIC = frozenset(row + column for row in range(0, 0x40, 8) for column in range(4))
_MODRM = _ARITHMETIC | _opcodes(
    *((0x63, 0x63), (0x69, 0x69), (0x6B, 0x6B), (0x80, 0x81), (0x83, 0x8F), (0xC0, 0xC1)),
    *((0xC6, 0xC7), (0xD0, 0xD3), (0xD8, 0xDF), (0xF6, 0xF7), (0xFE, 0xFF)),
)
_IMMEDIATE_1 = frozenset(row + 4 for row in range(0, 0x40, 8)) | _opcodes(
    (0x6A, 0x6B), (0x70, 0x80), (0x83, 0x83), (0xA8, 0xA8), (0xB0, 0xB7), (0xC0, 0xC1),
    *((0xC6, 0xC6), (0xE3, 0xE3), (0xEB, 0xEB)),
)  # fmt: skip
_IMMEDIATE_4 = frozenset(row + 5 for row in range(0, 0x40, 8)) | _opcodes(
    (0x68, 0x69), (0x81, 0x81), (0xA9, 0xA9), (0xB8, 0xBF), (0xC7, 0xC7)
)
_PLAIN = _opcodes(
    *((0x50, 0x5F), (0x90, 0x99), (0x9B, 0x9F), (0xA4, 0xA7), (0xAA, 0xAF), (0xC3, 0xC3)),
    *((0xC9, 0xC9), (0xCC, 0xCC), (0xF4, 0xF4), (0xF8, 0xF9), (0xFC, 0xFD)),
)
_TWO_PLAIN = frozenset(b"\x05\x0b\x31\x77\xa2") | _opcodes((0xC8, 0xCF))
_TWO_MODRM = _opcodes(
    *((0x0D, 0x0D), (0x10, 0x1F), (0x28, 0x2F), (0x40, 0x76), (0x7C, 0x7F), (0x90, 0x9F)),
    *((0xA3, 0xA5), (0xAB, 0xC7), (0xD0, 0xFE)),
)
_TWO_IMMEDIATE_1 = frozenset(b"\x70\x71\x72\x73\xa4\xac\xba\xc2\xc4\xc5\xc6")
_READS_OPERAND = frozenset(b"\x03\x0b\x13\x1b\x23\x2b\x33\x38\x39\x3a\x3b\x63\x84\x85\x8b")
"""Opcodes that leave their ModRM operand alone."""
_WRITES_REGISTER = frozenset(b"\x03\x0b\x13\x1b\x23\x2b\x33\x63\x69\x6b\x87\x8b\x8d")


class Instruction(NamedTuple):
    """What is told of an instruction."""

    size: int
    opcode: int
    """0x0f00 and more: of two bytes; 0x10000: of three."""
    rex: int
    mode: int
    """Of its ModRM; -1 without one."""
    register: int
    operand: int
    """Register of its ModRM's operand, or of its base; -1 if that is not just a base."""
    displacement: int
    immediate: int


class Return(NamedTuple):
    """How a function returns."""

    offset: int
    """From rsp to the return address."""
    saved: tuple[tuple[int, int], ...]
    """(register by DWARF number, offset from rsp) of what it restores before."""


def decode(code: bytes) -> Instruction | None:
    """Decode the first instruction; None if it is not known."""
    at = rex = 0
    short = False
    while at < len(code) - 1 and code[at] in _PREFIXES:
        short = short or code[at] == 0x66
        at += 1
    if at < len(code) - 1 and code[at] & 0xF0 == 0x40:
        rex, at = code[at], at + 1
    if at + 2 > len(code) and code[at : at + 1] not in (b"\xc3", b"\xf4", b"\xcc"):
        return None
    opcode, at = code[at], at + 1
    has_modrm, immediate_size = opcode in _MODRM, 0
    if opcode == 0x0F:
        second, at = code[at], at + 1
        opcode = 0x0F00 | second
        if second in (0x38, 0x3A):
            opcode, at = 0x10000, at + 1
            has_modrm, immediate_size = True, second == 0x3A
        elif second & 0xF0 == 0x80:
            immediate_size = 4
        elif second in _TWO_MODRM:
            has_modrm, immediate_size = True, second in _TWO_IMMEDIATE_1
        elif second not in _TWO_PLAIN:
            return None
    elif opcode in _IMMEDIATE_4:
        immediate_size = 2 if short else 4
        if rex & 8 and 0xB8 <= opcode <= 0xBF:
            immediate_size = 8
    elif opcode in _IMMEDIATE_1:
        immediate_size = 1
    elif opcode in (0xE8, 0xE9):
        immediate_size = 4
    elif opcode == 0xC2:
        immediate_size = 2
    elif not has_modrm and opcode not in _PLAIN:
        return None
    mode = register = operand = -1
    displacement = displacement_size = 0
    if has_modrm:
        if at >= len(code):
            return None
        mode, register, operand = code[at] >> 6, code[at] >> 3 & 7, code[at] & 7
        at += 1
        displacement_size = (0, 1, 4, 0)[mode]
        if mode < 3 and operand == 4:
            if at >= len(code):
                return None
            index, base = code[at] >> 3 & 7 | (rex & 2) << 2, code[at] & 7
            at += 1
            if mode == 0 and base == 5:
                displacement_size = 4
            operand = base if index == 4 and (mode or base != 5) else -1
        elif mode == 0 and operand == 5:
            operand, displacement_size = -1, 4
        if operand >= 0:
            operand |= (rex & 1) << 3
        if opcode in (0xF6, 0xF7) and register < 2:
            immediate_size = 1 if opcode == 0xF6 else 2 if short else 4
        register |= (rex & 4) << 1
        displacement = int.from_bytes(code[at : at + displacement_size], "little", signed=True)
        at += displacement_size
    immediate = int.from_bytes(code[at : at + immediate_size], "little", signed=True)
    at += immediate_size
    if at > len(code):
        return None
    return Instruction(at, opcode, rex, mode, register, operand, displacement, immediate)


class _Way(NamedTuple):
    """Where one way through a function has come to."""

    address: int
    offset: int
    """Of rsp, from where it was in the beginning."""
    top: int
    """The highest of them so far: what is below is written on the way, or free."""
    saved: tuple[tuple[int, int], ...]
    is_called: bool = False
    """It comes from a call."""


def find_return(read: ReadCode, address: int, *, is_after_call: bool) -> Return | None:
    """Follow the function that contains `address` to its return.

    Args:
        read: Reads its code.
        address: The instruction that is next.
        is_after_call: The one before is a call.

    Returns:
        How it returns; None if that is not certain.
    """
    seen: dict[int, int] = {}
    found: Return | None = None
    jumps: set[int] = set()
    ways = [_Way(address, 0, 0, (), is_after_call)]
    window, start = b"", 0
    while ways:
        at, offset, top, saved, is_called = ways.pop()
        while at not in seen:
            if len(seen) >= MAX_INSTRUCTIONS:
                return None
            seen[at] = offset
            if not start <= at <= start + len(window) - _LONGEST:
                try:
                    window, start = read(at, _WINDOW), at
                except FaultError:
                    break  # at the end of the code
            code = window[at - start : at - start + _LONGEST]
            if code.startswith(_FUNCTION_BEGINS) and (is_called or at != address):
                break
            it = decode(code)
            if it is None or it.opcode in _ENDS or (is_called and it.opcode in _PADDING):
                break
            if it.opcode == 0xFF and it.register & 6 == 4:
                jumps.add(offset)
                break
            if it.opcode == _RET:
                if found is not None and found.offset != offset:
                    return None
                found = found or Return(offset, saved)
                break
            following = at + it.size
            is_called = it.opcode == 0xE8 or (it.opcode == 0xFF and it.register & 6 == 2)
            if it.opcode in _JUMPS:
                at = following + it.immediate
                continue
            if it.opcode in _BRANCHES:
                ways.append(_Way(following + it.immediate, offset, top, saved))
            moved = _move(it)
            if moved is None:
                return None
            saved = _restore(it, offset, top, saved)
            offset += moved
            top = max(top, offset)
            at = following
        else:
            if seen[at] != offset:
                return None
    # A computed jump goes to another function, which returns for this one; or it is a switch.
    is_certain = found is not None and found.offset >= 0 and jumps <= {found.offset}
    return found if is_certain else None


_RET = 0xC3
_FUNCTION_BEGINS = b"\xf3\x0f\x1e\xfa"
"""endbr64"""
_ENDS = frozenset((0xC2, 0xCC, 0xF4, 0x0F0B))
"""ret n, int3, hlt, ud2"""
_PADDING = frozenset((0x90, 0x0F1F))
"""Between functions: the call does not return."""
_JUMPS = frozenset((0xE9, 0xEB))
_BRANCHES = frozenset((*range(0x70, 0x80), 0xE3, *range(0x0F80, 0x0F90)))


def _move(it: Instruction) -> int | None:
    """Return by how much an instruction moves rsp; None if that cannot be told."""
    opcode = it.opcode
    if 0x50 <= opcode <= 0x57 or opcode in (0x68, 0x6A) or (opcode == 0xFF and it.register == 6):
        return -8
    if 0x58 <= opcode <= 0x5F:
        return None if opcode == 0x5C and not it.rex & 1 else 8
    if opcode == 0xC9:
        return None
    is_operand = it.mode == 3 and it.operand == _RSP
    if opcode in (0x81, 0x83) and is_operand and it.rex & 8:
        if it.register in (0, 5):
            return it.immediate if it.register == 0 else -it.immediate
        return 0 if it.register == 7 else None
    if opcode == 0x8D and it.register == _RSP:
        return it.displacement if it.operand == _RSP and it.rex & 8 and it.mode < 3 else None
    if it.register == _RSP and opcode in _WRITES_REGISTER:
        return None
    if is_operand and opcode < 0x0F00 and opcode not in _READS_OPERAND:
        return None
    return 0


def _restore(
    it: Instruction, offset: int, top: int, saved: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, int], ...]:
    """Return what has been restored, with what an instruction restores."""
    register, place = -1, offset
    if 0x58 <= it.opcode <= 0x5F:
        register = it.opcode - 0x58 | (it.rex & 1) << 3
    elif it.opcode == 0x8B and it.rex & 8 and it.mode in (0, 1, 2) and it.operand == _RSP:
        register, place = it.register, offset + it.displacement
    number = _SAVED.get(register)
    if number is None or place < top:
        return saved
    return (*(pair for pair in saved if pair[0] != number), (number, place))
